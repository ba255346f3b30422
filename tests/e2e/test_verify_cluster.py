"""`zmqmq verify cluster`: whether all copies of the partitions are the same."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

import zmqmq
from tests.e2e.broker_cluster import Running
from tests.e2e.cluster_commands import (
    equal,
    error,
    partitions,
    topic,
    until,
)
from tests.e2e.command_line import CLI, SECONDS, until_it_holds
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, HEADER_SIZE, log_seed, stamp, unpack_header


def written_log(folder: Path) -> Path:
    """The one that holds something, once those of deleted topics are gone."""

    def is_alone() -> Path:
        found = [log for log in folder.glob("logs/*/*.log") if log.exists() and log.stat().st_size]
        found = [log for log in found if any(log.read_bytes())]
        assert len(found) == 1, found
        return found[0]

    return until_it_holds(is_alone)


def rewrite(folder: Path, batch: int) -> None:
    """Put other values into one batch of a stopped broker's log; every checksum holds."""
    log = written_log(folder)
    name = log.parent.name
    topic_id, number = bytes.fromhex(name.split(".")[0]), int(name.split(".")[1])
    data = bytearray(log.read_bytes())
    position = 0
    for _ in range(batch):
        position += unpack_header(data, position).size
    header = unpack_header(data, position)
    seed = log_seed(topic_id, number)
    (old,) = decode_batches(bytes(data[position : position + header.size]), seed, "t", number)
    values = [value.replace(b"of", b"OF") for value in old.values if value is not None]
    new = encode_batch(
        seed,
        values,
        keys=old.keys if any(old.keys) else None,
        timestamp_ms=header.first_timestamp_ms,
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        base_sequence=header.base_sequence,
    )
    assert len(new) == header.size, "it would not fit in its place"
    head = stamp(
        header.base_offset,
        header.size,
        header.leader_epoch,
        header.append_time_ms,
        header.committed_end,
        new[BODY_CRC_AT:BODY_AT],
    )
    data[position : position + header.size] = head + new[len(head) :]
    log.write_bytes(data)


@pytest.mark.parametrize("cleanup", ["delete", "compact"])
def test_a_copy_that_is_another_is_found(cluster: Running, cli: CLI, cleanup: str) -> None:
    topic(cli, "t", (1, 2, 3), cleanup=cleanup)
    for number in range(3):
        line = b"k%d %d of 3\n" % (number, number)
        cli("produce", "t", "-K", " ", stdin=line)
    equal(cli, "t")
    assert b"1 partition: all replicas are equal" in cli("verify", "cluster", "t").stderr
    cluster.stop(2)
    rewrite(cluster.data(2), 1)
    cluster.start(2)
    until(cli, under_replicated=[])

    def is_found() -> None:
        said = cli("verify", "cluster", code=1).stderr
        assert b"t/0 differs at offset 1 between broker 1,3 and broker 2: other value" in said
        (found,) = json.loads(cli("verify", "cluster", "-O", "json", code=1).stdout)["partitions"]
        assert (found["difference"]["offset"], found["brokers"]) == (1, [1, 2, 3]), found

    until_it_holds(is_found)
    assert cli("inspect", "verify", str(cluster.data(2)), code=4), "it is in use"


def test_replicas_that_compacted_by_themselves_are_equal_by_record(
    cluster: Running, cli: CLI
) -> None:
    """Broker 3 was away while the others compacted, and has what they have no more."""
    topic(cli, "t", (1, 2, 3), segment_bytes="4KiB", segment_ms="100")
    produce_keys(cli, 10)
    until(cli, under_replicated=[])
    cluster.stop(3)
    cli("topics", "alter", "t", "-c", "cleanup=compact")
    produce_keys(cli, 1)

    def is_compacted() -> None:
        (partition,) = partitions(cli, "t")
        assert partition["records"] <= 500, partition

    until_it_holds(is_compacted)
    held = cli.json("inspect", "verify", str(cluster.data(3)))["logs"]
    assert max(log["records"] for log in held) >= 1_000, "it was to be left as it was"
    cluster.start(3)
    until(cli, under_replicated=[])

    equal(cli, "t")
    done = cli("verify", "cluster", "t")

    assert b"equal by record" in done.stdout
    assert b"1,2,3" in done.stdout
    cli("topics", "alter", "t", "-c", "cleanup=delete")

    def is_noted() -> None:
        (found,) = equal(cli, "t")
        assert (found["is_equal"], found["by"]) == (True, "records")
        assert "records do not: it was compacted once" in "".join(found["notes"]), found

    until_it_holds(is_noted)


def produce_keys(cli: CLI, rounds: int) -> None:
    for number in range(rounds):
        lines = b"".join(b"k%d %d of %d\n" % (n % 7, n, number) for n in range(100))
        cli("produce", "t", "-K", " ", stdin=lines)


def test_what_is_written_meanwhile_does_not_differ(cluster: Running, cli: CLI) -> None:
    """Also while the partition gets another leader, and another replica."""
    topic(cli, "t", (1, 2, 3))
    stop = threading.Event()

    def write() -> None:
        with zmqmq.connect(cluster.servers) as client, client.producer("t") as producer:
            while not stop.is_set():
                producer.send(b"x" * 1_000).result(SECONDS)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for target in ("1,2,3", "2,3,1", "4,3,2", "1,2,3"):
            cli("cluster", "reassign", "t", "0", target)
            (found,) = equal(cli, "t")
            assert found["is_equal"], found
    finally:
        stop.set()
        thread.join()

    def is_whole() -> None:
        (found,) = equal(cli, "t")
        assert found["records"] == partitions(cli, "t")[0]["records"] > 0, found

    until_it_holds(is_whole)


def test_logs_that_begin_elsewhere_are_compared_where_they_overlap(
    cluster: Running, cli: CLI
) -> None:
    """Broker 3 was away while the others let go of the oldest records."""
    topic(cli, "t", (1, 2, 3), segment_bytes="4KiB", retention_bytes="8KiB")
    lines = b"".join(b"%0100d\n" % n for n in range(20))
    for _ in range(2):
        cli("produce", "t", stdin=lines)
    cluster.stop(3)
    for _ in range(10):
        cli("produce", "t", stdin=lines)

    def is_let_go() -> None:
        (partition,) = partitions(cli, "t")
        assert partition["start"] > 0, partition

    until_it_holds(is_let_go)
    cluster.start(3)
    until(cli, under_replicated=[])

    def is_compared() -> None:
        (found,) = equal(cli, "t")
        assert found["is_equal"]
        assert (found["start"] > 0, found["compared_end"]) == (True, 240), found

    until_it_holds(is_compared)


def test_a_copy_with_a_wrong_checksum_is_not_called_equal(cluster: Running, cli: CLI) -> None:
    """Its broker stops when it finds out, and fills the copy anew at its next start (L17)."""
    topic(cli, "t", (1, 2, 3), records=10)
    until(cli, under_replicated=[])
    log = written_log(cluster.data(2))
    at = HEADER_SIZE + 3
    with log.open("r+b") as file:  # under a broker that runs, as a disk does it
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))

    done = cli("verify", "cluster", "t", code=2)

    assert b"broker 2" in done.stdout
    assert b"is damaged at offset 0" in done.stdout
    cluster.processes[2].communicate(timeout=SECONDS)
    assert cluster.processes.pop(2).returncode != 0
    cluster.start(2)
    until(cli, is_healthy=True, under_replicated=[])
    equal(cli, "t")


def test_an_unknown_topic_is_named(cli: CLI) -> None:
    topic(cli, "orders", (1, 2))

    assert "did you mean orders?" in error(cli, "verify", "cluster", "order", code=3)
