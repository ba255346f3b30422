"""The main job on real input, where everybody can watch: a broker, lines in, the same lines out.

The lines are the source of Python's standard library, which is wherever this runs, keyed by the
name of their module. They are produced from a file into a topic of four partitions and read back,
and then the three things that a queue promises are checked: nothing is missing or twice, no byte
is changed, and the lines of each key come in their order.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import select
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

import zmqmq
from zmqmq.errors import ZmqmqError

LINES: Final = 250_000
"""As many are taken, where the standard library has them."""
LINES_MIN: Final = 100_000
PARTITIONS: Final = 4
TOPIC: Final = "python-source"
READY_SECONDS: Final = 20
IDLE_SECONDS: Final = 20
"""With no record for this long the rest is taken for lost."""

_CHUNK: Final = 5_000
_ADDRESS = re.compile(r"\b(\d+\.\d+\.\d+\.\d+:\d+)\b")


@dataclass(slots=True)
class Seen:
    """What was seen of a stream of keyed lines; equal for two streams that promise the same."""

    lines: int = 0
    size: int = 0
    """Bytes of all lines, without their keys."""
    keys: dict[bytes, hashlib.blake2b] = field(default_factory=dict)
    """Key to the checksum of its lines in their order."""

    def add(self, key: bytes, value: bytes) -> None:
        """Take one line in."""
        self.lines += 1
        self.size += len(value)
        checksum = self.keys.get(key)
        if checksum is None:
            checksum = self.keys[key] = hashlib.blake2b(digest_size=16)
        # The length in front, so that no two sequences of lines run together to the same bytes.
        checksum.update(b"%d " % len(value))
        checksum.update(value)

    def differences(self, other: Seen) -> list[str]:
        """Where the other falls short of this one, in words."""
        found = []
        if other.lines != self.lines:
            found.append(f"{self.lines:,} lines were sent, {other.lines:,} came back")
        if other.size != self.size:
            found.append(f"{self.size:,} bytes were sent, {other.size:,} came back")
        wrong = sorted(
            key.decode()
            for key in self.keys.keys() | other.keys.keys()
            if _digest(self, key) != _digest(other, key)
        )
        if wrong:
            found.append(
                f"the lines of {len(wrong)} keys are changed or out of order: "
                + ", ".join(wrong[:5])
            )
        return found


def _digest(seen: Seen, key: bytes) -> bytes:
    checksum = seen.keys.get(key)
    return b"" if checksum is None else checksum.digest()


def main() -> int:
    """Run the demonstration; 0 if every line came back as it was sent."""
    console = Console(highlight=False)
    begun = monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="zmqmq-demo-") as folder:
            file = Path(folder) / "lines.tsv"
            sent = write_lines(file)
            python = f"{sys.version_info[0]}.{sys.version_info[1]}"
            console.print(
                f"input   [bold]{sent.lines:,}[/] lines of Python {python}'s own source, "
                f"{sent.size / 1e6:.1f} MB,\n        keyed by module ({len(sent.keys):,})"
            )
            with broker(Path(folder) / "data") as (address, pid):
                console.print(f"broker  {address}, process {pid}\ndata    {folder}/data\n")
                problems = demonstrate(console, address, file, sent)
    except (ZmqmqError, OSError) as error:
        console.print(f"[bold red]it failed:[/] {error}")
        return 1
    if problems:
        for problem in problems:
            console.print(f"[bold red]wrong:[/] {problem}")
        return 1
    console.print(
        "\n[bold green]verified:[/] every line is there once, unchanged, in the order of its key\n"
        f"{monotonic() - begun:.1f} s in all\n"
    )
    console.print(WHAT_NEXT)
    return 0


WHAT_NEXT: Final = """\
What next:
  [bold]zmqmq broker[/]                                  a broker that keeps its data
  [bold]zmqmq topics create orders -p 4[/]
  [bold]echo 'k1:hello' | zmqmq produce orders -K :[/]
  [bold]zmqmq consume orders -e -f '%p %o %k %v\\n'[/]
  [bold]zmqmq overview[/]                                topics, offsets, groups, lag"""


def demonstrate(console: Console, address: str, file: Path, sent: Seen) -> list[str]:
    """Produce the file, consume it back; everything that is wrong."""
    table = Table(box=None, pad_edge=False, header_style="bold cyan")
    for name in ("", "lines", "MB", "seconds", "lines/s", "MB/s"):
        table.add_column(name, justify="left" if name == "" else "right")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with (
        zmqmq.connect(address, client_name="zmqmq-demo") as client,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        client.topics.create(TOPIC, partitions=PARTITIONS)
        begun = monotonic()
        produce(client, file, progress, progress.add_task("produce", total=sent.lines))
        _add_row(table, "produced, on disk", sent, monotonic() - begun)
        begun = monotonic()
        received, seconds, problems = consume(
            client, sent.lines, progress, progress.add_task("consume", total=sent.lines)
        )
        _add_row(table, "consumed", received, seconds)
    console.print(table)
    return problems + sent.differences(received)


def _add_row(table: Table, name: str, seen: Seen, seconds: float) -> None:
    megabytes = seen.size / 1e6
    table.add_row(
        name,
        f"{seen.lines:,}",
        f"{megabytes:.1f}",
        f"{seconds:.2f}",
        f"{seen.lines / seconds:,.0f}",
        f"{megabytes / seconds:,.1f}",
    )


def produce(client: zmqmq.Client, file: Path, progress: Progress, task: TaskID) -> None:
    """Send each line of the file, and wait until all of them are on disk."""
    with client.producer(TOPIC) as producer:
        deliveries = []
        for lines in _chunks(file):
            keys, values = zip(*(line.split(b"\t", 1) for line in lines), strict=True)
            deliveries.append((producer.send_many(list(values), list(keys)), len(lines)))
            while deliveries and deliveries[0][0].done():
                _note_stored(progress, task, *deliveries.pop(0))
        for delivery, count in deliveries:
            _note_stored(progress, task, delivery, count)


def _note_stored(progress: Progress, task: TaskID, delivery: zmqmq.Delivery, count: int) -> None:
    delivery.result()  # raises what went wrong
    progress.advance(task, count)


def consume(
    client: zmqmq.Client, expected: int, progress: Progress, task: TaskID
) -> tuple[Seen, float, list[str]]:
    """Read the topic from its start: what came, how long reading took, what was wrong.

    The checksums are ours and not the queue's, so they are made after the clock has stopped.
    """
    batches = []
    count = 0
    begun = last = monotonic()
    with client.consumer(TOPIC) as consumer:
        while count < expected and monotonic() - last < IDLE_SECONDS:
            for batch in consumer.fetch_batches():
                batches.append((batch.partition, batch.offsets, batch.keys, batch.values))
                count += len(batch)
                last = monotonic()
                progress.update(task, completed=count)
    seconds = monotonic() - begun
    seen = Seen()
    homes: dict[bytes, int] = {}
    next_offsets = dict.fromkeys(range(PARTITIONS), 0)
    problems: dict[str, None] = {}
    for partition, offsets, keys, values in batches:
        if offsets[0] != next_offsets[partition]:
            problems[
                f"partition {partition} goes on at {offsets[0]}, not {next_offsets[partition]}"
            ]
        next_offsets[partition] = offsets[-1] + 1
        for key, value in zip(keys, values, strict=True):
            assert key is not None
            assert value is not None
            seen.add(key, value)
            if homes.setdefault(key, partition) != partition:
                problems[f"key {key.decode()} is in partitions {homes[key]} and {partition}"] = None
    return seen, seconds, list(problems)


def write_lines(file: Path) -> Seen:
    """Write `module TAB line` for each line of the standard library; what was written."""
    seen = Seen()
    with file.open("wb") as output:
        for module, text in _modules():
            key = module.encode()
            for line in text.splitlines():
                output.write(b"%b\t%b\n" % (key, line))
                seen.add(key, line)
            if seen.lines >= LINES:
                return seen
    if seen.lines < LINES_MIN:
        raise OSError(f"there are only {seen.lines} lines of Python here; {LINES_MIN} are needed")
    return seen


def _modules() -> Iterator[tuple[str, bytes]]:
    """Name and source of each module: the standard library, then what is installed."""
    taken = set()
    for name in ("stdlib", "purelib"):
        root = Path(sysconfig.get_path(name))
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root)
            if path in taken or (name == "stdlib" and relative.parts[0].endswith("-packages")):
                continue
            taken.add(path)
            with contextlib.suppress(OSError):
                yield ".".join(relative.with_suffix("").parts), path.read_bytes()


def _chunks(file: Path) -> Iterator[list[bytes]]:
    lines = []
    with file.open("rb") as stream:
        for line in stream:
            lines.append(line[:-1])
            if len(lines) == _CHUNK:
                yield lines
                lines = []
    if lines:
        yield lines


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[tuple[str, int]]:
    """A broker process on a free port for the length of a `with`: its address and process id."""
    log = folder.with_suffix(".log")
    arguments = ["broker", "--data-dir", str(folder), "--bind", "127.0.0.1:0"]
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603  our own command line
            [sys.executable, "-m", "zmqmq_cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield _address(process, log), process.pid
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Where the broker serves, as its ready line tells."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
    line = process.stdout.readline() if readable else ""
    found = _ADDRESS.search(line)
    if "ready" in line and found:
        return found[1]
    raise OSError(f"the broker did not become ready: {line}{log.read_text()}".strip())
