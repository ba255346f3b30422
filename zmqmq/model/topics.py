"""What an operator can set about a topic (docs/configuration.md, "Topics")."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from zmqmq.errors import Code, ConfigError, refusal
from zmqmq.model.limits import BATCH_BYTES_MAX, GIB, MIB
from zmqmq.model.setting import Declared, Setting, Unit, out_of_bounds, settings_of
from zmqmq.model.units import parse_bytes, parse_ms

DAY_MS = 86_400_000
PROBLEMS_MAX = 20
"""So many are told at once; a request could hold thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """The settings of one topic. All limits are for each partition."""

    cleanup: Annotated[
        str,
        Setting(
            "What makes room: `delete` drops old segments, `compact` keeps the newest record "
            "of each key.",
            choices=("delete", "compact"),
        ),
    ] = "delete"
    retention_ms: Annotated[
        int,
        Setting(
            "Segments whose newest record was appended longer ago than this are deleted; 0: never.",
            unit=Unit.MS,
            live=True,
        ),
    ] = 7 * DAY_MS
    retention_bytes: Annotated[
        int,
        Setting(
            "Old segments are deleted while the partition is larger than this; 0: never.",
            unit=Unit.BYTES,
            live=True,
        ),
    ] = 0
    capacity_bytes: Annotated[
        int,
        Setting("A partition holds at most this much; 0: no limit.", unit=Unit.BYTES, live=True),
    ] = 0
    capacity_records: Annotated[
        int, Setting("A partition holds at most this many records; 0: no limit.", live=True)
    ] = 0
    full: Annotated[
        str,
        Setting(
            "What happens at capacity: `refuse` the producer, or `drop-oldest` records.",
            choices=("refuse", "drop-oldest"),
            live=True,
        ),
    ] = "refuse"
    segment_bytes: Annotated[
        int,
        Setting(
            "A new segment is begun when one would grow beyond this, or an eighth of the capacity.",
            minimum=4096,
            maximum=1 * GIB,
            unit=Unit.BYTES,
            live=True,
        ),
    ] = 128 * MIB
    segment_ms: Annotated[
        int,
        Setting(
            "A new segment is begun when the first record of one is older than this; it bounds "
            "how late retention can be.",
            minimum=100,
            unit=Unit.MS,
            live=True,
        ),
    ] = DAY_MS
    flush: Annotated[
        str,
        Setting(
            "`fsync`: acks=all means flushed to the disk of every in-sync replica; `replicated`: "
            "in the memory of every in-sync replica.",
            choices=("fsync", "replicated"),
            live=True,
        ),
    ] = "fsync"
    batch_bytes_max: Annotated[
        int,
        Setting(
            "The largest batch that is taken.",
            minimum=1024,
            maximum=BATCH_BYTES_MAX,
            unit=Unit.BYTES,
            live=True,
        ),
    ] = BATCH_BYTES_MAX
    min_isr: Annotated[
        int,
        Setting(
            "acks=all is refused while fewer replicas are in sync; 0: replicas - 1, at least 1.",
            maximum=15,
            live=True,
        ),
    ] = 0
    unclean_election: Annotated[
        str,
        Setting(
            "`on`: when no replica that is known to have every acknowledged record can lead, the "
            "one with the longest log does, and records may be lost; `off`: the partition waits.",
            choices=("off", "on"),
            live=True,
        ),
    ] = "off"
    tombstone_ms: Annotated[
        int,
        Setting(
            "How long compaction keeps a tombstone, so that slow readers see it.",
            unit=Unit.MS,
            live=True,
        ),
    ] = DAY_MS
    compact_lag_ms: Annotated[
        int,
        Setting("Records younger than this are not compacted.", unit=Unit.MS, live=True),
    ] = 0

    def as_map(self) -> dict[str, int | str]:
        """Every setting with its value."""
        return asdict(self)

    def changed(self, changes: Mapping[Any, Any]) -> TopicConfig:
        """A copy with these changes; None resets one to its default.

        Numbers may be written with units ("7d", "1GiB"). Raises refusal(INVALID_CONFIG) that names
        every problem at once.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, raw in changes.items():
            if len(problems) >= PROBLEMS_MAX:
                problems.append(f"and perhaps more: these are the first {PROBLEMS_MAX}")
                break
            declared = _SETTINGS.get(name)
            if declared is None:
                near = difflib.get_close_matches(str(name), _SETTINGS, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                problems.append(f"topic setting {name!r} is unknown{hint}")
                continue
            try:
                value = declared.default if raw is None else _value(declared, raw)
            except (ConfigError, ValueError) as error:
                problems.append(f"{name}: {error}")
                continue
            wrong = out_of_bounds(declared, value)
            if wrong:
                problems.append(f"{name} {wrong}")
            values[name] = value
        if problems:
            raise refusal(Code.INVALID_CONFIG, "; ".join(problems))
        return replace(self, **values)


_SETTINGS: dict[str, Declared] = {s.name: s for s in settings_of(TopicConfig)}


def _value(declared: Declared, raw: object) -> object:
    if type(raw) is float and declared.kind is int and raw.is_integer():
        return int(raw)  # JavaScript has no integers
    if not isinstance(raw, str) or declared.kind is str:
        return raw
    if declared.setting.unit is Unit.BYTES:
        return parse_bytes(raw)
    return parse_ms(raw) if declared.setting.unit is Unit.MS else int(raw)
