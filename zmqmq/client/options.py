"""What a caller can set about a connection, a producer and a consumer: one declaration each.

Keywords of `connect`, `producer` and `consumer` become these frozen objects; nothing below reads
keywords again. All problems of one call are reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar

from zmqmq.batch.compression import Codec
from zmqmq.errors import ConfigError
from zmqmq.model.limits import (
    BATCH_BYTES_MAX,
    BATCH_RECORDS_MAX,
    BATCHES_IN_FLIGHT_MAX,
    GIB,
    RACK_MAX,
    REPLY_BYTES_MAX,
)
from zmqmq.model.names import check_broadcast_name, check_group_name
from zmqmq.model.setting import Setting, Unit, out_of_bounds, settings_of
from zmqmq.wire.apis import ACKS_ALL, ACKS_LEADER, ACKS_NONE, WAIT_MS_MAX

Acks = Literal[0, 1, "all"]
Partitioner = Callable[[bytes | None, bytes | None, int], int]
"""Called with key, value and the number of partitions; returns the partition."""

DAY_MS = 86_400_000
ACKS: Mapping[object, int] = {"all": ACKS_ALL, -1: ACKS_ALL, 1: ACKS_LEADER, 0: ACKS_NONE}
CODECS = {"none": Codec.NONE, "lz4": Codec.LZ4, "zstd": Codec.ZSTD}

STORED_BY_NOBODY = (
    "start is 'stored', which needs a group or a broadcast consumer; name one with group=… or "
    "broadcast=…"
)

OptionsT = TypeVar("OptionsT")


def _ms(doc: str, minimum: int = 0, maximum: int = DAY_MS) -> Setting:
    return Setting(doc, minimum=minimum, maximum=maximum, unit=Unit.MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """How a client reaches brokers."""

    client_name: Annotated[str, Setting("Shown by the broker beside this client.")] = ""
    request_timeout_ms: Annotated[
        int, _ms("A request without an answer for this long has failed.", 10)
    ] = 30_000
    connect_timeout_ms: Annotated[
        int, _ms("`connect` gives up when no server answers for this long.", 10)
    ] = 10_000
    interceptors: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        if len(self.client_name) > 100:
            raise ConfigError(
                f"client_name has {len(self.client_name)} characters; the most is 100"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """How a producer collects, sends and gives up."""

    acks: Acks = "all"
    linger_ms: Annotated[
        int, _ms("A batch that is not full waits this long for more records.", 0, 60_000)
    ] = 5
    batch_bytes: Annotated[
        int,
        Setting(
            "A batch is full at this size, before compression.",
            minimum=1,
            maximum=BATCH_BYTES_MAX,
            unit=Unit.BYTES,
        ),
    ] = 65_536
    batch_records: Annotated[
        int,
        Setting("A batch is full at this many records.", minimum=1, maximum=BATCH_RECORDS_MAX),
    ] = 10_000
    compression: Annotated[
        str, Setting("How batches are compressed.", choices=("none", "lz4", "zstd"))
    ] = "none"
    partitioner: str | Partitioner = "key"
    idempotent: bool = True
    in_flight: Annotated[
        int,
        Setting(
            "Batches of one partition that may wait for their acknowledgement.",
            minimum=1,
            maximum=BATCHES_IN_FLIGHT_MAX,
        ),
    ] = 16
    buffer_bytes: Annotated[
        int,
        Setting(
            "Everything that is not acknowledged yet, all partitions together.",
            minimum=1024,
            maximum=64 * GIB,
            unit=Unit.BYTES,
        ),
    ] = 33_554_432
    on_full: Annotated[
        str,
        Setting("What `send` does when the buffer is full.", choices=("block", "refuse")),
    ] = "block"
    block_ms: Annotated[int, _ms("How long `send` waits for room in the buffer.")] = 60_000
    delivery_timeout_ms: Annotated[
        int, _ms("A record that is not acknowledged within this time has failed.", 1)
    ] = 120_000
    request_timeout_ms: int | None = None
    retry_backoff_ms: Annotated[int, _ms("The first pause before a retry; it doubles.", 1)] = 100

    def __post_init__(self) -> None:
        if self.acks not in ACKS:
            raise ConfigError(f"acks is {self.acks!r}; allowed are 0, 1 and 'all'")
        if not callable(self.partitioner) and self.partitioner not in {"key", "round-robin"}:
            raise ConfigError(
                f"partitioner is {self.partitioner!r}; allowed are 'key', 'round-robin' or a "
                "callable (key, value, partition_count) -> int"
            )
        check_timeout("request_timeout_ms", self.request_timeout_ms)
        if self.batch_bytes > self.buffer_bytes:
            raise ConfigError(
                f"batch_bytes is {self.batch_bytes} and buffer_bytes {self.buffer_bytes}; "
                "a batch must fit into the buffer"
            )

    @property
    def wire_acks(self) -> int:
        """The number that PRODUCE carries."""
        return ACKS[self.acks]

    @property
    def codec(self) -> Codec:
        """How columns are compressed."""
        return CODECS[self.compression]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """What a consumer reads, from where, and how far ahead."""

    group: str | None = None
    broadcast: str | None = None
    offsets_dir: object = None
    start: object = None
    partitions: tuple[int, ...] | None = None
    auto_commit: bool = True
    auto_commit_ms: Annotated[int, _ms("How often consumed offsets are committed.", 10)] = 1_000
    fetch_bytes: Annotated[
        int,
        Setting(
            "The most that one fetch asks for; a batch that is larger comes all the same.",
            minimum=1,
            maximum=REPLY_BYTES_MAX,
            unit=Unit.BYTES,
        ),
    ] = 1_048_576
    prefetch_bytes: Annotated[
        int,
        Setting(
            "Fetched ahead of the caller, all partitions together; full, fetching stops.",
            minimum=1,
            maximum=64 * GIB,
            unit=Unit.BYTES,
        ),
    ] = 16_777_216
    max_wait_ms: Annotated[
        int, _ms("How long a fetch waits for the first record.", 0, WAIT_MS_MAX)
    ] = 500
    mode: Annotated[
        str,
        Setting(
            "How records come: `pull` asks for them, `push` has them published as soon as they are "
            "committed, `auto` has so where it pays. What comes is the same.",
            choices=("pull", "push", "auto"),
        ),
    ] = "pull"
    stop_at_end: bool = False
    rack: str | None = None

    def __post_init__(self) -> None:
        if self.group is not None:
            check_group_name(self.group)
        if self.broadcast is not None:
            self._check_broadcast(self.broadcast)
        elif self.offsets_dir is not None:
            raise ConfigError("offsets_dir is where broadcast=… keeps offsets; name a consumer")
        if self.start == "stored" and not self.keeps_offsets:
            raise ConfigError(STORED_BY_NOBODY)
        if self.partitions is not None and not all(
            type(p) is int and p >= 0 for p in self.partitions
        ):
            raise ConfigError(f"partitions is {self.partitions!r}; it must be numbers from 0 on")
        if self.rack is not None and not (
            type(self.rack) is str and 1 <= len(self.rack) <= RACK_MAX
        ):
            raise ConfigError(f"rack is {self.rack!r}; it must be 1 to {RACK_MAX} characters")

    @property
    def keeps_offsets(self) -> bool:
        """Whether there is something to commit to: a group, or the file of a broadcast consumer."""
        return self.group is not None or self.broadcast is not None

    def _check_broadcast(self, name: object) -> None:
        if type(name) is not str:
            raise ConfigError(f"broadcast is {name!r}; it must be the name of this consumer")
        check_broadcast_name(name)
        if self.group is not None:
            raise ConfigError(
                f"group is {self.group!r} and broadcast {name!r}; a consumer has one of them: "
                "the offsets of a group are the cluster's, those of a broadcast consumer its own"
            )
        folder = self.offsets_dir
        if folder is not None and not (isinstance(folder, str) or hasattr(folder, "__fspath__")):
            raise ConfigError(f"offsets_dir is {folder!r}; it must be a path")


def parse_options(kind: type[OptionsT], keywords: Mapping[str, Any]) -> OptionsT:
    """An options object from the keywords of a call.

    Raises ConfigError for what is unknown (suggesting the nearest known name), of a wrong type or
    out of bounds, all problems at once.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    problems = [unknown_keyword(name, known) for name in keywords if name not in known]
    declared = {d.name: d for d in settings_of(kind)}
    for name, value in keywords.items():
        wrong = out_of_bounds(declared[name], value) if name in declared else None
        if wrong:
            problems.append(f"{name} {wrong}")
        if name in _FLAGS and type(value) is not bool:
            problems.append(f"{name} is {value!r}; it must be True or False")
    if problems:
        raise ConfigError("; ".join(problems))
    tuples = {"partitions", "interceptors"}
    return kind(
        **{
            name: tuple(value) if name in tuples and value is not None else value
            for name, value in keywords.items()
        }
    )


_FLAGS = frozenset({"idempotent", "auto_commit", "stop_at_end"})


def unknown_keyword(name: str, known: Iterable[str]) -> str:
    """What to say of a keyword that does not exist."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    return f"there is no option {name!r}; {hint}"


def check_timeout(name: str, value: object) -> None:
    """Raise ConfigError unless the value is None or a positive number of milliseconds."""
    if value is not None and (type(value) is not int or not 1 <= value <= DAY_MS):
        raise ConfigError(f"{name} is {value!r}; it must be None or 1 to {DAY_MS}")
