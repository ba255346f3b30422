"""Whether the copies of every partition are the same, byte for byte. The brokers must be down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from zmqmq.core.storage.data_directory import key_of
from zmqmq.core.storage.log import LOGS_FOLDER, LogKey
from zmqmq.core.storage.segment import LOG_SUFFIX
from zmqmq.errors import StorageError
from zmqmq.runtime.offline_reader import describe_segment, verify_directory


def differences(folders: Mapping[str, Path], topics: Mapping[bytes, str]) -> Iterator[str]:
    """What is wrong with the data directories, by broker, as far as these topics go."""
    copies: dict[tuple[str, int], dict[str, dict[int, bytes]]] = {}
    for broker, folder in folders.items():
        report = verify_directory(folder)
        for log in report.logs:
            if log.status == "damaged":
                yield f"{broker}: {log.folder} is damaged: {log.detail}"
        for path in sorted((folder / LOGS_FOLDER).iterdir()):
            key = key_of(path.name)
            if key is not None and key.topic_id in topics:
                where = topics[key.topic_id], key.partition
                copies.setdefault(where, {})[broker] = _batches(path)
    for (topic, partition), by_broker in sorted(copies.items()):
        name = f"{topic}/{partition}"
        if set(by_broker) != set(folders):
            yield f"{name} is only on {', '.join(sorted(by_broker))}"
        (first, batches), *others = sorted(by_broker.items())
        for other, its in others:
            different = sorted(b for b in batches.keys() | its if batches.get(b) != its.get(b))
            if different:
                yield (
                    f"{name} of {first} and {other} differ in {len(different)} batches, first at "
                    f"offset {different[0]}; they end with {max(batches, default=None)} and "
                    f"{max(its, default=None)}"
                )


def end_of(folder: Path, topic_id: bytes, partition: int) -> int:
    """Behind the last batch of a copy in a data directory that may be in use; 0: there is none."""
    end = 0
    with contextlib.suppress(OSError, StorageError):
        for path in (folder / LogKey(topic_id, partition).folder).glob(f"*{LOG_SUFFIX}"):
            for batch in describe_segment(path):
                end = max(end, batch.get("last_offset", -1) + 1)
    return end


def _batches(folder: Path) -> dict[int, bytes]:
    """By first offset."""
    found: dict[int, bytes] = {}
    for path in sorted(folder.glob(f"*{LOG_SUFFIX}")):
        data = path.read_bytes()
        for batch in describe_segment(path):
            if "error" not in batch:
                at = batch["position"]
                found[batch["offset"]] = data[at : at + batch["bytes"]]
    return found
