"""Everything that can be set about one broker, in one frozen value.

A section is the options dataclass of the package that uses it; here they are only put together,
and here stands what must hold *between* settings. Where the values come from (file, environment,
flags) is in load.py. Nothing outside runtime/ and the command line reads a configuration.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Annotated, Any, Final

from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.storage.options import StorageOptions
from zmqmq.errors import ConfigError
from zmqmq.model.limits import RACK_MAX
from zmqmq.model.setting import Setting, out_of_bounds, settings_of
from zmqmq.model.topics import TopicConfig

CLIENTS_PORT: Final = 5755
PUSH_PORT: Final = 5756
DEFAULT_BIND: Final = f"127.0.0.1:{CLIENTS_PORT}"
DEFAULT_BIND_PEERS: Final = "127.0.0.1:5757"
EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared, never bound
"""Addresses that one can listen on, and to which nobody can connect."""

_ADDRESS = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>\d{1,5})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """Who this broker is, where its data lies and where it listens."""

    id: Annotated[
        int,
        Setting("Number of this broker, the same for all its life.", minimum=1, maximum=2**31 - 1),
    ] = 1
    data_dir: Annotated[
        str,
        Setting(
            "Where everything is kept. `~` is the home directory; a relative path in a file starts "
            "at that file. Empty: `$XDG_DATA_HOME/zmqmq`, else `~/.local/share/zmqmq`."
        ),
    ] = ""
    bind: Annotated[
        str,
        Setting("`HOST:PORT` where clients are listened for; port 0 takes a free one."),
    ] = DEFAULT_BIND
    advertise: Annotated[
        str,
        Setting(
            "`HOST:PORT` that clients are told to connect to, where it is not the one bound "
            "(containers, NAT). Empty: the one bound, which then may not be `0.0.0.0`."
        ),
    ] = ""
    bind_push: Annotated[
        str,
        Setting(
            "`HOST:PORT` where subscribers are listened for. Empty: the host of `bind`, and port "
            "5756 if that has 5755, else a free one."
        ),
    ] = ""
    advertise_push: Annotated[
        str,
        Setting(
            "`HOST:PORT` that subscribers are told to connect to. Empty: the host that clients are "
            "told, and the port bound."
        ),
    ] = ""
    insecure: Annotated[
        bool,
        Setting(
            "Listen beyond this machine although nothing is encrypted and everybody may do "
            "everything."
        ),
    ] = False
    metadata: Annotated[
        str,
        Setting(
            "Where topics and ids are kept: `DRIVER` or `DRIVER://…`, a driver being an entry "
            "point of the group `zmqmq.metadata`. `etcd3://HOST:PORT,…/PREFIX` is an etcd "
            "(docs/etcd.md). Empty: the embedded SQLite store in the data directory."
        ),
    ] = ""
    bind_peers: Annotated[
        str,
        Setting(
            "`HOST:PORT` where other brokers are listened for, if there can be any; port 0 takes "
            "a free one."
        ),
    ] = DEFAULT_BIND_PEERS
    advertise_peers: Annotated[
        str,
        Setting("`HOST:PORT` that other brokers connect to, where it is not the one bound."),
    ] = ""
    rack: Annotated[
        str,
        Setting(
            "What fails together with this broker: a rack, a zone. Copies of a partition are "
            "spread over racks, and consumers that name theirs read there. Empty: nobody knows."
        ),
    ] = ""
    session_ms: Annotated[
        int,
        Setting(
            "So long after the metadata store has last heard of this broker others take over at "
            "the latest. Most failures they find out by themselves, sooner.",
            minimum=2_000,
            maximum=300_000,
            unit="ms",
        ),
    ] = 10_000

    @property
    def push_addresses(self) -> tuple[str, str]:
        """Where subscribers are listened for, and what they are told if it is said."""
        host, _, port = self.bind.rpartition(":")
        own = f"{host}:{PUSH_PORT if port == str(CLIENTS_PORT) else 0}"
        return self.bind_push or own, self.advertise_push


SECTIONS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "broker": BrokerOptions,
        "serving": ServingOptions,
        "storage": StorageOptions,
        "topics": TopicConfig,
    }
)
"""Section of the file to the dataclass that declares its settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """A configuration that is whole and free of contradictions, else it cannot be built."""

    broker: BrokerOptions
    serving: ServingOptions = field(default_factory=ServingOptions)
    storage: StorageOptions = field(default_factory=StorageOptions)
    topics: TopicConfig = field(default_factory=TopicConfig)
    """Defaults for topics that are created without saying otherwise."""

    @property
    def is_alone(self) -> bool:
        """Whether the metadata store is this broker's own, so that there are no others."""
        return not self.broker.metadata

    def __post_init__(self) -> None:
        problems = [*bounds_broken(self.sections())]
        if not problems:
            problems = [(names[0], said) for names, said in contradictions(self.sections())]
        if problems:
            raise ConfigError("\n".join(f"{name} {said}" for name, said in problems))

    def sections(self) -> dict[str, Any]:
        """Each section by its name in the file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def settings(self) -> dict[str, int | str | bool]:
        """Each setting by its full name, as in `storage.checkpoint_ms`."""
        return {
            f"{section}.{declared.name}": getattr(options, declared.name)
            for section, options in self.sections().items()
            for declared in settings_of(type(options))
        }


def bounds_broken(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Full name and the rest of the sentence, for each value outside what its setting allows."""
    for section, options in sections.items():
        for declared in settings_of(type(options)):
            wrong = out_of_bounds(declared, getattr(options, declared.name))
            if wrong:
                yield f"{section}.{declared.name}", wrong


def contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The settings at odds and what is wrong, for each relation that does not hold.

    The sentence goes on from the first of the names.
    """
    yield from _listener_problems(sections["broker"])
    serving: ServingOptions = sections["serving"]
    topics: TopicConfig = sections["topics"]
    if serving.credit_bytes > serving.memory_bytes:
        yield (
            ("serving.credit_bytes", "serving.memory_bytes"),
            f"is {serving.credit_bytes}, more than serving.memory_bytes {serving.memory_bytes}: "
            "one client that does not read could take the memory of all",
        )
    if serving.unflushed_bytes > serving.memory_bytes:
        yield (
            ("serving.unflushed_bytes", "serving.memory_bytes"),
            f"is {serving.unflushed_bytes}, more than serving.memory_bytes "
            f"{serving.memory_bytes}: requests that wait for the disk are held in that memory",
        )
    if serving.offsets_partitions > serving.partitions_max:
        yield (
            ("serving.offsets_partitions", "serving.partitions_max"),
            f"is {serving.offsets_partitions}, more than serving.partitions_max "
            f"{serving.partitions_max}: the topic of committed offsets could not be made",
        )
    if topics.full == "refuse" and 0 < topics.capacity_bytes < topics.retention_bytes:
        yield (
            ("topics.retention_bytes", "topics.capacity_bytes"),
            f"is {topics.retention_bytes}, more than topics.capacity_bytes "
            f"{topics.capacity_bytes}: a partition would be full, and refuse, before retention "
            "makes room",
        )


def _listener_problems(broker: BrokerOptions) -> Iterator[tuple[tuple[str, ...], str]]:
    if not broker.data_dir.startswith("/"):
        yield (("broker.data_dir",), f"is {broker.data_dir!r}; it must be an absolute path")
    yield from _address_problems("bind", broker.bind, broker.advertise, broker.insecure)
    if broker.bind_push or broker.advertise_push:
        bind_push, told = broker.push_addresses
        told = told or broker.advertise
        yield from _address_problems("bind_push", bind_push, told, broker.insecure)
    if broker.metadata:
        peers = broker.bind_peers, broker.advertise_peers
        yield from _address_problems("bind_peers", *peers, broker.insecure)
    if len(broker.rack) > RACK_MAX:
        yield (("broker.rack",), f"has {len(broker.rack)} characters; it may have {RACK_MAX}")


def _address_problems(
    setting: str,
    bind: str,
    advertise: str,
    insecure: bool,  # noqa: FBT001 - a setting's value
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Of a listener; the other setting is that of the address which is told."""
    name, told = f"broker.{setting}", f"broker.{setting.replace('bind', 'advertise')}"
    try:
        host, _ = split_address(bind)
    except ConfigError as error:
        yield ((name,), str(error))
    else:
        if not is_loopback(host) and not insecure:
            yield (
                (name, "broker.insecure"),
                f"is {bind}, which other machines can reach, while nothing is encrypted "
                "and everybody may do everything (CURVE comes later): bind to 127.0.0.1, or say "
                "--insecure (insecure = true) where the network itself is trusted",
            )
        elif host in EVERYWHERE and not advertise:
            yield (
                (told, name),
                f"is empty while {name} is {bind}: others are told where to connect, "
                f"and {host} leads none of them here; say --{told[7:].replace('_', '-')} HOST:PORT",
            )
    if advertise:
        try:
            host, port = split_address(advertise)
        except ConfigError as error:
            yield ((told,), str(error))
            return
        if port == 0 or host in EVERYWHERE:
            yield (
                (told,),
                f"is {advertise}, to which nobody can connect; name a host and port that "
                "others reach",
            )


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`."""
    match = _ADDRESS.match(text)
    if match is None or int(match["port"]) > 65_535:
        raise ConfigError(
            f"is {text!r}; it must be HOST:PORT with a port of 0 to 65535, as in {DEFAULT_BIND}"
        )
    return match["six"] or match["host"], int(match["port"])


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
