"""What every command starts with: its output, and its connection."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer

from zmqmq.errors import Code, NotFoundError, ZmqmqError
from zmqmq_cli.options import globals_of
from zmqmq_cli.output import Output

if TYPE_CHECKING:
    from zmqmq import Client

CONNECT_MS: Final = 3_000
"""Less than a program waits: somebody sits there, and the broker is usually there or not."""
REQUEST_MS: Final = 30_000
WARNING_SECONDS: Final = 10.0


def output_of(ctx: typer.Context) -> Output:
    """How this invocation prints."""
    chosen = globals_of(ctx)
    return Output(chosen.output, quiet=chosen.quiet)


class Warnings(logging.Handler):
    """What the client logs, said on stderr: each kind once a while, for they come by hundreds."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output
        self._next: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, unless the command hears of it in another way or said its like just now."""
        kind = record.getMessage().partition(":")[0]
        now = time.monotonic()
        # A delivery that fails is the command's error anyway.
        if kind != "delivery-failed" and now >= self._next.get(kind, 0.0):
            self._next[kind] = now + WARNING_SECONDS
            self._output.say(f"warning: {self.format(record)}")


@contextmanager
def connected(ctx: typer.Context, topic: str | None = None) -> Iterator[Client]:
    """A client for the length of one command.

    With a topic, an error that there is none says which one was probably meant.
    """
    import zmqmq  # not needed for --help

    chosen = globals_of(ctx)
    wait = chosen.timeout_ms
    logging.getLogger("zmqmq.client").handlers = [Warnings(output_of(ctx))]
    with zmqmq.connect(
        chosen.servers,
        client_name="zmqmq-cli",
        request_timeout_ms=wait or REQUEST_MS,
        connect_timeout_ms=wait or CONNECT_MS,
    ) as client:
        try:
            yield client
        except NotFoundError as error:
            near = _nearest_topic(client, topic) if error.code is Code.UNKNOWN_TOPIC else None
            if near is None:
                raise
            raise NotFoundError(
                f"there is no topic {topic!r}; did you mean {near}?", code=error.code
            ) from error


def _nearest_topic(client: Client, name: str | None) -> str | None:
    if name is None:
        return None
    try:
        known = [topic.name for topic in client.topics.list(internal=name.startswith("_"))]
    except ZmqmqError:
        return None  # the first error is the one to report
    near = difflib.get_close_matches(name, known, n=1)
    return near[0] if near else None
