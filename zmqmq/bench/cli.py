"""`zmqmq bench`: measure a broker that runs, through the client that everybody uses.

Options are text that is converted here: the command line that this is mounted in has typer
convert nothing (zmqmq_cli/options.py says why).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from zmqmq.bench.measure import Measurement
    from zmqmq.bench.target import Target

FORMATS: Final = ("table", "json", "jsonl")
BYTES: Final = 100_000_000
RECORDS: Final = 1_000_000
"""By default as many records as make so many bytes, but no more than these."""
SINGLES: Final = {1: 2_000, 64: 10_000}
"""Requests in flight to how many are made."""
MANY_PARTITIONS: Final = "1,10,100,1000"
LATENCY_RATE: Final = 1_000

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Measure a running broker.",
)

Servers = Annotated[
    str | None,
    typer.Option(
        "-s",
        "--servers",
        metavar="HOST:PORT,…",
        help="The broker to measure; else $ZMQMQ_SERVERS, else 127.0.0.1:5755.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option("-O", "--output", metavar="table|json|jsonl", help="What stdout gets."),
]
Sizes = Annotated[
    str, typer.Option("--size", metavar="BYTES,…", help="Bytes of a value; several with commas.")
]
Count = Annotated[
    str | None,
    typer.Option(
        "--count", metavar="N", help="Records of each measurement. [default: 1000000, or 100 MB]"
    ),
]
Seconds = Annotated[
    str, typer.Option("--seconds", metavar="S", help="How long each open-loop load lasts.")
]
Partitions = Annotated[
    str,
    typer.Option(
        "--partitions", metavar="N,…", help="Partitions of the topic; several with commas."
    ),
]
Rate = Annotated[
    str, typer.Option("--rate", metavar="N,…", help="Records a second; several with commas.")
]
Pid = Annotated[
    str | None,
    typer.Option(
        "--pid",
        metavar="PID",
        help="The broker's process, for its CPU. [default: who listens on the port here]",
    ),
]


@dataclass(frozen=True, slots=True)
class Load:
    """What the options of one invocation say."""

    target: Target
    sizes: list[int]
    count: int | None
    seconds: float
    partitions: list[int]

    def count_of(self, size: int) -> int:
        """How many records of a size."""
        return self.count or max(min(RECORDS, BYTES // max(size, 1)), 1000)

    def producing(self) -> Iterator[Measurement]:
        """Batches, records, and one answer at a time."""
        from zmqmq.bench.produce import produce_batches, produce_records, produce_single

        for size in self.sizes:
            count = self.count_of(size)
            for make in (produce_batches, produce_records):
                for number in self.partitions:
                    yield make(self.target, size=size, count=count, partitions=number)
            for in_flight, most in SINGLES.items():
                yield produce_single(
                    self.target,
                    size=size,
                    count=min(most, self.count or most),
                    in_flight=in_flight,
                )

    def consuming(self) -> Iterator[Measurement]:
        """Batches and records."""
        from zmqmq.bench.consume import consume_batches, consume_records

        for size in self.sizes:
            for make in (consume_batches, consume_records):
                for number in self.partitions:
                    yield make(self.target, size=size, count=self.count_of(size), partitions=number)

    def latency(self, rates: list[int]) -> Iterator[Measurement]:
        """From send to sight."""
        from zmqmq.bench.consume import end_to_end

        for size in self.sizes:
            for rate in rates:
                yield end_to_end(self.target, size=size, rate=rate, seconds=self.seconds)


@app.command()
def produce(
    ctx: typer.Context,
    *,
    servers: Servers = None,
    size: Sizes = "100,1000",
    count: Count = None,
    partitions: Partitions = "1",
    output: Format = None,
    pid: Pid = None,
) -> None:
    """Produce batches, single records, and records that are waited for, 1 and 64 in flight."""
    load = _load(ctx, servers, pid, size, count, "1", partitions)
    _run(ctx, output, load.producing())


@app.command()
def consume(
    ctx: typer.Context,
    *,
    servers: Servers = None,
    size: Sizes = "100,1000",
    count: Count = None,
    partitions: Partitions = "1",
    output: Format = None,
    pid: Pid = None,
) -> None:
    """Fill a topic, unmeasured, and consume it as batches and as records."""
    load = _load(ctx, servers, pid, size, count, "1", partitions)
    _run(ctx, output, load.consuming())


@app.command()
def latency(
    ctx: typer.Context,
    *,
    servers: Servers = None,
    size: Sizes = "100,1000",
    rate: Rate = str(LATENCY_RATE),
    seconds: Seconds = "5",
    output: Format = None,
    pid: Pid = None,
) -> None:
    """How long it takes from a record being due to a consumer having it, at a steady rate."""
    load = _load(ctx, servers, pid, size, None, seconds, "1")
    _run(ctx, output, load.latency(_numbers(rate, "--rate")))


@app.command()
def ramp(
    ctx: typer.Context,
    *,
    servers: Servers = None,
    size: Sizes = "100",
    rate: Rate = "10000,20000,50000,100000,200000,500000,1000000,2000000,5000000",
    seconds: Seconds = "3",
    partitions: Partitions = "1",
    output: Format = None,
    pid: Pid = None,
) -> None:
    """Offer more and more until the rate no longer follows; then name the bottleneck."""
    from zmqmq.bench.ramp import ramp as climb

    load = _load(ctx, servers, pid, size, None, seconds, partitions)
    steps = _numbers(rate, "--rate")

    def climbs() -> Iterator[Measurement]:
        for bytes_ in load.sizes:
            for many in load.partitions:
                yield from climb(
                    load.target, size=bytes_, seconds=load.seconds, partitions=many, steps=steps
                )

    _run(ctx, output, climbs())


@app.command(name="all")
def everything(
    ctx: typer.Context,
    *,
    servers: Servers = None,
    size: Sizes = "100,1000",
    count: Count = None,
    seconds: Seconds = "5",
    partitions: Partitions = MANY_PARTITIONS,
    output: Format = None,
    pid: Pid = None,
) -> None:
    """Everything but the ramp; many partitions too."""
    load = _load(ctx, servers, pid, size, count, seconds, partitions)

    every = (load.producing(), load.consuming(), load.latency([LATENCY_RATE]))
    _run(ctx, output, chain.from_iterable(every))


def _load(
    ctx: typer.Context,
    servers: str | None,
    pid: str | None,
    size: str,
    count: str | None,
    seconds: str,
    partitions: str,
) -> Load:
    from zmqmq.bench.target import Target  # the client takes a while to import

    return Load(
        target=Target.find(
            servers or _global(ctx, "servers"),
            None if pid is None else _numbers(pid, "--pid")[0],
        ),
        sizes=_numbers(size, "--size", least=0),
        count=None if count is None else _numbers(count, "--count")[0],
        seconds=_seconds(seconds),
        partitions=_numbers(partitions, "--partitions"),
    )


def _run(ctx: typer.Context, output: str | None, results: Iterator[Measurement]) -> None:
    """Draw one measurement after the other, which does the work, and print what each gave."""
    from zmqmq.bench.report import as_json, as_line, show

    form = output or _global(ctx, "output") or "table"
    if form not in FORMATS:
        raise typer.BadParameter(
            f"{form!r} is none of {', '.join(FORMATS)}", param_hint="-O/--output"
        )
    done = []
    for measurement in results:
        done.append(measurement)
        if form == "jsonl":
            typer.echo(as_line(measurement))
        elif not _global(ctx, "quiet"):
            rate = f"{measurement.records_per_second:,.0f} records/s"
            typer.echo(f"{measurement.scenario}: {rate}", err=True)
    if form == "json":
        typer.echo(as_json(done))
    elif form == "table":
        typer.echo(show(done))


def _global(ctx: typer.Context, name: str) -> Any:  # noqa: ANN401
    """What was said in front of `bench`, where the command line keeps it."""
    return getattr(ctx.meta.get("zmqmq"), name, None)


def _numbers(text: str, name: str, *, least: int = 1) -> list[int]:
    try:
        numbers = [int(word) for word in text.replace("_", "").split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number", param_hint=name) from None
    if min(numbers) < least:
        raise typer.BadParameter(
            f"{min(numbers)} is too small; the least is {least}", param_hint=name
        )
    return numbers


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time", param_hint="--seconds") from None
    if not 0 < seconds <= 3600:
        raise typer.BadParameter(f"{text} is outside 0 to 3600 seconds", param_hint="--seconds")
    return seconds
