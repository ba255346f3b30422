"""`zmqmq consume`: records to stdout."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from zmqmq.errors import ConfigError, OffsetOutOfRangeError
from zmqmq_cli.formats import Batch, parse_format
from zmqmq_cli.options import Command, number
from zmqmq_cli.output import Output
from zmqmq_cli.positions import parse_position
from zmqmq_cli.records import Head, JSONPrinter, Printer, print_values, printer_of
from zmqmq_cli.session import connected, output_of
from zmqmq_cli.tables import human_bytes, human_count, plural

if TYPE_CHECKING:
    from zmqmq import Consumer

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FETCH_BYTES: Final = 4 << 20
COMMIT_SECONDS: Final = 1.0
IDLE_MS: Final = 1_000
"""How long one wait for records lasts; what is due between them is done then."""

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")]
Offset = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--offset",
        metavar="POSITION",
        help="Where to begin: start, end, stored (with -g or --broadcast), an offset, -N for the "
        "last N of each partition, @TIMESTAMP: ms or seconds since 1970, an ISO 8601 time, or "
        "-1h for an hour ago.  [default: start; with -g or --broadcast stored]",
    ),
]
Partitions = Annotated[
    list[str] | None,
    typer.Option("-p", "--partition", metavar="N", help="Only this one; may come again."),
]
Count = Annotated[
    str | None, typer.Option("-n", "--count", metavar="COUNT", help="End after so many records.")
]
ExitAtEnd = Annotated[
    bool,
    typer.Option(
        "-e", "--exit-at-end", help="End at what is the end now, instead of waiting for more."
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "-g",
        "--group",
        metavar="GROUP",
        help="Go on where this group stopped, and store how far it got.",
    ),
]
Broadcast = Annotated[
    str | None,
    typer.Option(
        "--broadcast",
        metavar="NAME",
        help="Go on where NAME stopped on this machine, and store how far it got in a file below "
        "$XDG_STATE_HOME, else ~/.local/state. Every NAME gets every record.",
    ),
]
Rack = Annotated[
    str | None,
    typer.Option(
        "--rack", metavar="RACK", help="Where you are: brokers of this rack are read from."
    ),
]
Push = Annotated[
    bool,
    typer.Option(
        "--push",
        help="Have records published as soon as they are committed. What comes is the same.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "-f",
        "--format",
        metavar="FORMAT",
        help=r"What to print of each record: %t topic, %p partition, %o offset, %k key, %v value, "
        r"%h headers, %d time in ms, %% a percent sign; \n \t \r \0 \xHH \\.  [default: %v\n]",
    ),
]


@app.command(cls=Command)
def consume(
    ctx: typer.Context,
    topic: Topic,
    *,
    offset: Offset = None,
    partition: Partitions = None,
    count: Count = None,
    exit_at_end: ExitAtEnd = False,
    group: Group = None,
    broadcast: Broadcast = None,
    form: Format = None,
    rack: Rack = None,
    push: Push = False,
) -> None:
    """Print records.

    Values are printed as they are, each with a newline behind it. With -O json or jsonl a record
    is an object; bytes that are not UTF-8 are {"base64": "…"} there. With -g or --broadcast,
    offsets are stored once the records are written to stdout.
    """
    output = output_of(ctx)
    printer = _printer(output, form)
    start = None
    if offset is not None:
        try:
            start = parse_position(offset, time.time_ns() // 1_000_000)
        except ConfigError as error:
            raise typer.BadParameter(str(error), param_hint="-o/--offset") from None
    if group is not None and broadcast is not None:
        raise typer.BadParameter("-g and --broadcast exclude one another: take one of them")
    keeps_offsets = group is not None or broadcast is not None
    if start == "stored" and not keeps_offsets:
        raise typer.BadParameter("stored is what a group stored; name one with -g or --broadcast")
    limit = None if count is None else number(count, "-n/--count")
    only = [number(text, "-p/--partition") for text in partition or []]
    with connected(ctx, topic) as client:
        if isinstance(start, int) and start > 0:
            _check_reachable(client.offsets(topic, "end"), start, only)
        with client.consumer(
            topic,
            group=group,
            broadcast=broadcast,
            start=start,
            partitions=only or None,
            # Here the offsets are stored once the records are printed, not once they are fetched.
            auto_commit=False,
            stop_at_end=exit_at_end,
            fetch_bytes=FETCH_BYTES,
            rack=rack,
            mode="push" if push else "pull",
        ) as consumer:
            reading = Reading(consumer, output, printer, limit, commits=keeps_offsets)
            try:
                reading.run()
            finally:
                reading.end()


def _check_reachable(ends: dict[int, int], offset: int, only: list[int]) -> None:
    """An offset behind the end is a mistake: with -e it would silently print nothing."""
    short = [p for p, end in ends.items() if end < offset and (p in only or not only)]
    if short:
        raise OffsetOutOfRangeError(
            f"offset {offset} is behind the end of partition {short[0]}, which is "
            f"{ends[short[0]]}; -p chooses partitions, -o -N the last N of each"
        )


def _printer(output: Output, form: str | None) -> Printer:
    if output.form != "table":
        if form is not None:
            raise typer.BadParameter(f"-f is for text; -O {output.form} has its own form")
        return JSONPrinter(is_array=output.form == "json")
    if form is None:
        return print_values
    try:
        return printer_of(parse_format(form))
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="-f/--format") from None


@dataclass(slots=True)
class Reading:
    """One run from the consumer to stdout."""

    consumer: Consumer
    output: Output
    printer: Printer
    limit: int | None
    """Records to print at most."""
    commits: bool
    records: int = 0
    bytes: int = 0
    _begun: float = field(default_factory=time.monotonic)
    _printed: dict[tuple[str, int], int] = field(default_factory=dict)
    """What may be committed: the offset behind what stdout has taken."""
    _commit_at: float = 0.0

    def run(self) -> None:
        """Print until the count, the end or Ctrl-C."""
        stdout = self.output.stdout
        while self.limit is None or self.records < self.limit:
            batches = self.consumer.fetch_batches(IDLE_MS)
            if not batches and self.consumer.is_finished:
                return
            ends: dict[tuple[str, int], int] = {}
            for batch in batches:
                end = batch.next_offset
                some: Batch = batch
                if self.limit is not None and self.records + len(batch) > self.limit:
                    some = Head(batch, self.limit - self.records)
                    end = batch.offsets[len(some)]
                    if not some:
                        break
                printed = self.printer(some)
                stdout.write(printed)
                self.records += len(some)
                self.bytes += len(printed)
                ends[batch.topic, batch.partition] = end
            stdout.flush()
            self._printed |= ends
            self._commit_if_due()

    def end(self) -> None:
        """Whatever happened: close what is open, store how far it got."""
        if isinstance(self.printer, JSONPrinter):
            self.output.stdout.write(self.printer.end())
            self.output.stdout.flush()
        self._commit()
        if sys.stderr.isatty() and not sys.stdout.isatty():
            seconds = max(time.monotonic() - self._begun, 0.000_001)
            self.output.say(
                f"{plural(self.records, 'record')}, {human_bytes(self.bytes)} in {seconds:.2f} s: "
                f"{human_count(self.records / seconds)} records/s, "
                f"{human_bytes(self.bytes / seconds)}/s"
            )

    def _commit_if_due(self) -> None:
        now = time.monotonic()
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_SECONDS
            self._commit()

    def _commit(self) -> None:
        if self.commits and self._printed:
            printed, self._printed = self._printed, {}
            self.consumer.commit(printed)
