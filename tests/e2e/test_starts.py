"""Starts and stops of a broker process, and what its data directory says of them."""

from __future__ import annotations

from pathlib import Path

from tests.support.broker_process import BrokerProcess, connected
from zmqmq.core.storage.data_directory import Format, read_format
from zmqmq.runtime.os_disk import OSDisk
from zmqmq.wire.apis import Api

PARTITIONS = 300


def format_of(folder: Path) -> Format:
    values = read_format(OSDisk(folder))
    assert values is not None
    return values


def test_a_clean_stop_is_told_last_and_taken_back_by_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with BrokerProcess(folder) as broker:
        assert broker.wait_ready(), broker.errors
        first = format_of(folder)
        assert first.clean_epoch is None
        assert broker.stop() == 0
        assert "Traceback" not in broker.errors
    stopped = format_of(folder)
    assert stopped.clean_epoch == stopped.epoch == first.epoch

    with BrokerProcess(folder) as broker:
        assert broker.wait_ready(), broker.errors
        again = format_of(folder)
        assert again.epoch > first.epoch
        assert again.clean_epoch is None
        assert (again.since_fsync, again.since_clean) == (first.since_fsync, first.since_clean)


def test_what_was_flushed_outlives_a_kill_and_what_was_only_written_may_not(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for _ in range(2):
        with BrokerProcess(folder) as broker:
            assert broker.wait_ready(), broker.errors
            values = format_of(folder)
            broker.kill()

    assert values.since_fsync is not None
    assert values.since_clean == values.epoch > values.since_fsync


def test_a_broker_that_is_ready_serves_every_partition(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with BrokerProcess(folder) as broker:
        assert broker.wait_ready(), broker.errors
        with connected(broker, timeout_s=60) as client:
            fields = {"topic": "t", "partitions": PARTITIONS}
            topic_id = client.ask(Api.CREATE_TOPIC, fields)[0]["id"]
        broker.kill()
    asked = {"partitions": [[topic_id, number, "end"] for number in range(PARTITIONS)]}
    for _ in range(3):
        with BrokerProcess(folder) as broker:
            assert broker.wait_ready(), broker.errors
            with connected(broker, timeout_s=60) as client:
                assert client.ask(Api.LIST_OFFSETS, asked)[0]["offsets"] == [[0, None]] * PARTITIONS
            broker.kill()
