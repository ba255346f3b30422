"""Which segments end and which go, by age and by size."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.log_driver import LogDriver
from zmqmq.core.storage.retention import retained_start, should_roll
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk

AGE_MS = 100


def log_with(segments: int, **config: Any) -> LogDriver:
    """Closed segments of two records each, appended 100 ms apart, and one that is written."""
    settings = {"retention_ms": 0, **config}
    driver = LogDriver(SimDisk(), config=TopicConfig(**settings))
    driver.serve()
    for _ in range(segments):
        driver.now_ms += AGE_MS
        driver.send(2, size=40)
        driver.flush()
        driver.roll()
    driver.send(1)
    driver.flush()
    return driver


def start_of(driver: LogDriver, later_ms: int = 0) -> int:
    return retained_start(driver.log, driver.now_ms + later_ms, driver.partition.high_watermark)


def test_without_limits_everything_stays() -> None:
    assert start_of(log_with(5), 10**12) == 0


def test_a_segment_goes_when_its_newest_record_is_too_old() -> None:
    driver = log_with(5, retention_ms=3 * AGE_MS)
    newest = [segment.last_append_ms for segment in driver.log.segments]
    at = newest[1] + 3 * AGE_MS

    assert retained_start(driver.log, at, 11) == 2
    assert retained_start(driver.log, at + 1, 11) == 4


def test_the_oldest_go_while_there_is_too_much() -> None:
    driver = log_with(5)
    sizes = [segment.size for segment in driver.log.segments]
    for kept in range(1, 6):
        limit = sum(sizes[-kept:])
        driver.log.config = TopicConfig(retention_ms=0, retention_bytes=limit)
        assert start_of(driver) == driver.log.segments[-kept].base_offset
        driver.log.config = TopicConfig(retention_ms=0, retention_bytes=limit - 1)
        expected = driver.log.segments[-max(kept - 1, 1)].base_offset
        assert start_of(driver) == expected


def test_the_segment_that_is_written_never_goes() -> None:
    driver = log_with(2, retention_ms=1, retention_bytes=1)

    assert start_of(driver, 10**9) == driver.log.segments[-1].base_offset


def test_nothing_goes_that_is_not_committed() -> None:
    driver = log_with(4, retention_bytes=1)

    assert retained_start(driver.log, driver.now_ms, 5) == 4
    assert retained_start(driver.log, driver.now_ms, 0) == 0


def test_nothing_goes_whose_state_is_not_flushed() -> None:
    driver = log_with(4, retention_bytes=1)
    driver.roll()

    assert start_of(driver) == driver.log.segments[-2].base_offset


def test_a_compacted_log_keeps_everything() -> None:
    assert start_of(log_with(4, cleanup="compact", retention_bytes=1, retention_ms=1), 10**9) == 0


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"segment_ms": 500}, 500),
        ({"segment_ms": 500, "retention_ms": 300}, 300),
        ({"segment_ms": 500, "retention_ms": 300, "cleanup": "compact"}, 500),
        ({"segment_ms": 500, "retention_ms": 900}, 500),
    ],
)
def test_a_segment_ends_when_its_first_record_is_old_enough(
    config: dict[str, Any], limit: int
) -> None:
    log = log_with(0, **config).log
    first = log.segments[-1].first_append_ms

    assert not should_roll(log, first + limit - 1)
    assert should_roll(log, first + limit)


def test_an_empty_segment_does_not_end() -> None:
    driver = log_with(1, segment_ms=100)
    driver.roll()

    assert not should_roll(driver.log, 10**12)
