"""What every command starts with: its output, and its connection."""

from __future__ import annotations

import difflib
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


def output_of(ctx: typer.Context) -> Output:
    """How this invocation prints."""
    chosen = globals_of(ctx)
    return Output(chosen.output, quiet=chosen.quiet)


@contextmanager
def connected(ctx: typer.Context, topic: str | None = None) -> Iterator[Client]:
    """A client for the length of one command.

    With a topic, an error that there is none says which one was probably meant.
    """
    import zmqmq  # not needed for --help

    chosen = globals_of(ctx)
    wait = chosen.timeout_ms
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
