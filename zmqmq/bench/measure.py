"""One measurement: what was done, how fast, how long each took, and what CPU it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

from zmqmq.bench.histogram import Histogram
from zmqmq.bench.processes import cpu_of, own_cpu_ns


@dataclass(slots=True, kw_only=True)
class Measurement:
    """What one scenario gave."""

    scenario: str
    records: int
    record_bytes: int
    """Of one value."""
    seconds: float
    client_cpu_ns: int
    broker_cpu_ns: int | None = None
    """None where the broker is not on this machine, or not ours to look at."""
    latency: Histogram | None = None
    """Of each request or record, where the scenario is about time."""
    partitions: int = 1
    more: dict[str, Any] = field(default_factory=dict)
    """What only this scenario knows."""

    @property
    def records_per_second(self) -> float:
        """The rate that was reached."""
        return self.records / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """The same in bytes of values, keys and everything else left out."""
        return self.records_per_second * self.record_bytes

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it: times in microseconds, None where there is nothing to say."""
        return {
            "scenario": self.scenario,
            "partitions": self.partitions,
            "records": self.records,
            "record_bytes": self.record_bytes,
            "seconds": round(self.seconds, 6),
            "records_per_second": round(self.records_per_second, 1),
            "mb_per_second": round(self.bytes_per_second / 1e6, 3),
            **latency_fields(self.latency),
            "client_cpu_us_per_record": _per_record(self.client_cpu_ns, self.records),
            "broker_cpu_us_per_record": _per_record(self.broker_cpu_ns, self.records),
            **self.more,
        }


class Meter:
    """Reads clock and CPU when it is made and when it is stopped."""

    def __init__(self, broker_pid: int | None) -> None:
        self._pid = broker_pid
        self._broker = None if broker_pid is None else cpu_of(broker_pid)
        self._client = own_cpu_ns()
        self._start_ns = perf_counter_ns()

    def stop(
        self,
        scenario: str,
        records: int,
        record_bytes: int,
        latency: Histogram | None = None,
        *,
        partitions: int = 1,
        **more: Any,  # noqa: ANN401  whatever JSON can hold
    ) -> Measurement:
        """The measurement from the making of this meter until now."""
        seconds = (perf_counter_ns() - self._start_ns) / 1e9
        client = own_cpu_ns() - self._client
        broker = None
        if self._pid is not None and self._broker is not None:
            now = cpu_of(self._pid)
            broker = None if now is None else now.whole - self._broker.whole
        return Measurement(
            scenario=scenario,
            records=records,
            record_bytes=record_bytes,
            seconds=seconds,
            client_cpu_ns=client,
            broker_cpu_ns=broker,
            latency=latency,
            partitions=partitions,
            more=more,
        )


def latency_fields(latency: Histogram | None) -> dict[str, float | None]:
    """The percentiles that every table shows, in microseconds."""
    names = {"p50_us": 50.0, "p99_us": 99.0, "p999_us": 99.9}
    if latency is None or not latency.count:
        return dict.fromkeys([*names, "max_us"])
    fields: dict[str, float | None] = {
        name: round(latency.percentile(percent) / 1e3, 1) for name, percent in names.items()
    }
    fields["max_us"] = round(latency.maximum / 1e3, 1)
    return fields


def _per_record(nanoseconds: int | None, records: int) -> float | None:
    if nanoseconds is None or not records:
        return None
    return round(nanoseconds / records / 1e3, 4)
