"""`zmqmq produce`: a record a line, from files or stdin."""

from __future__ import annotations

import errno
import stat
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from time import monotonic
from typing import Annotated, Final, Literal, cast

import typer

from zmqmq.errors import TimedOutError
from zmqmq_cli.exits import PartialError
from zmqmq_cli.formats import unescape
from zmqmq_cli.lines import InputError, lines_of
from zmqmq_cli.options import Command, choice, globals_of, number
from zmqmq_cli.output import Output
from zmqmq_cli.sending import OUTSTANDING_MAX, Sender, Shape, parse_headers
from zmqmq_cli.session import connected, output_of
from zmqmq_cli.tables import human_bytes, human_count, plural

app = typer.Typer(add_completion=False, rich_markup_mode=None)

ACKS: Final[dict[str, Literal[0, 1, "all"]]] = {"0": 0, "1": 1, "all": "all"}
DELIVERY_MS: Final = 120_000
"""How long a record may wait for its acknowledgement, unless --timeout says otherwise."""
INTERRUPT_SECONDS: Final = 3.0
BATCH_BYTES: Final = 256 * 1024
"""Larger than the client's default: here throughput counts, and lines come by the megabyte."""


Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")]
Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE", help="Files to send; - and none are stdin."),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        "-K",
        "--key-delimiter",
        metavar="DELIM",
        help=r"What stands between key and value in each line, as in : or \t.",
    ),
]
Key = Annotated[
    str | None, typer.Option("-k", "--key", metavar="KEY", help="The key of every record.")
]
Partition = Annotated[
    str | None,
    typer.Option("-p", "--partition", metavar="N", help="Send to this one, whatever the key."),
]
Header = Annotated[
    list[str] | None,
    typer.Option("-H", "--header", metavar="NAME=VALUE", help="For every record; may come again."),
]
Acks = Annotated[
    str,
    typer.Option(
        "--acks",
        metavar="0|1|all",
        help="What a record waits for: nothing, the broker's memory, the disk of every replica.",
    ),
]
Compression = Annotated[
    str,
    typer.Option("-z", "--compression", metavar="none|lz4|zstd", help="How to compress batches."),
]


@app.command(cls=Command)
def produce(
    ctx: typer.Context,
    topic: Topic,
    files: Files = None,
    *,
    delimiter: Delimiter = None,
    key: Key = None,
    partition: Partition = None,
    header: Header = None,
    acks: Acks = "all",
    compression: Compression = "none",
) -> None:
    """Send each line of files or stdin as a record.

    Bytes are sent as they are, without the newline. The summary comes on stderr.
    """
    if delimiter is not None and key is not None:
        raise typer.BadParameter("-K takes the key from each line, -k gives it; use one of them")
    if delimiter == "":
        raise typer.BadParameter("it is empty", param_hint="-K/--key-delimiter")
    shape = Shape(
        key=None if key is None else key.encode(errors="surrogateescape"),
        delimiter=None if delimiter is None else unescape(delimiter),
        partition=None if partition is None else number(partition, "-p/--partition"),
        headers=parse_headers(header or []),
    )
    chosen_acks = ACKS[choice(acks, tuple(ACKS), "--acks")]
    codec = choice(compression, ("none", "lz4", "zstd"), "-z/--compression")
    inputs = [Input(name) for name in files or ["-"]]
    output = output_of(ctx)
    patience_ms = globals_of(ctx).timeout_ms or DELIVERY_MS
    with (
        connected(ctx, topic) as client,
        client.producer(
            topic,
            acks=chosen_acks,
            compression=cast("Literal['none', 'lz4', 'zstd']", codec),
            batch_bytes=BATCH_BYTES,
            delivery_timeout_ms=patience_ms,
            # A full buffer waits longer than any delivery, so it is the delivery that is told.
            block_ms=2 * patience_ms,
        ) as producer,
    ):
        _run(output, Sender(producer, shape), inputs, topic)


@dataclass(slots=True)
class Input:
    """A file to send, looked at before anything is sent."""

    name: str
    size: int = field(init=False, default=0)
    """In bytes; 0 where nobody knows, as of a pipe."""

    def __post_init__(self) -> None:
        if self.name == "-":
            self.name = "stdin"
            return
        status = Path(self.name).stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", self.name)
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else 0

    def open(self) -> AbstractContextManager[BufferedReader]:
        """The bytes; stdin is left open behind it."""
        if self.name == "stdin":
            return nullcontext(cast("BufferedReader", sys.stdin.buffer))
        return Path(self.name).open("rb")


def _run(output: Output, sender: Sender, inputs: list[Input], topic: str) -> None:
    begun = monotonic()
    sizes = [one.size for one in inputs]
    total = sum(sizes) if all(sizes) else 0
    is_typed = sys.stdin.isatty() and any(one.name == "stdin" for one in inputs)
    if is_typed:
        output.say("a line is a record; Ctrl-D ends")
    try:
        for one in inputs:
            first_number = 1
            with one.open() as stream:
                for lines in lines_of(stream, one.name):
                    sender.send(lines, one.name, first_number)
                    first_number += len(lines)
                    if not is_typed:  # it would be drawn over what is being typed
                        output.progress(_progress(sender, monotonic() - begun, total))
        sender.settle()
    except KeyboardInterrupt:
        # What was read is finished, but nobody who pressed Ctrl-C waits for a broker that hangs.
        with suppress(TimedOutError):
            sender.producer.close(INTERRUPT_SECONDS)
        sender.settle(OUTSTANDING_MAX)
        raise
    except InputError as error:
        sender.settle()
        if sender.stored:
            raise PartialError(
                f"{error}; the {plural(sender.stored, 'record')} before it are stored"
            ) from None
        raise
    finally:
        _report(output, sender, topic, monotonic() - begun)


def _progress(sender: Sender, seconds: float, total: int) -> str:
    parts = [plural(sender.sent, "record"), human_bytes(sender.sent_bytes)]
    if total:
        parts.append(f"{min(99, 100 * sender.sent_bytes // total)} %")
    return ", ".join([*parts, f"{human_count(sender.sent / max(seconds, 0.001))}/s"])


def _report(output: Output, sender: Sender, topic: str, seconds: float) -> None:
    rate = sender.stored / max(seconds, 0.000_001)
    speed = human_bytes(sender.sent_bytes / max(seconds, 0.000_001))
    output.say(
        f"{plural(sender.stored, 'record')} stored: {human_bytes(sender.sent_bytes)} "
        f"in {seconds:.2f} s, {human_count(rate)} records/s, {speed}/s"
    )
    if output.form != "table":
        partitions = {str(p): count for p, count in sorted(sender.by_partition.items())}
        result = {
            "topic": topic,
            "records": sender.stored,
            "bytes": sender.sent_bytes,
            "seconds": round(seconds, 6),
            "partitions": partitions,
        }
        output.show(result, [])
