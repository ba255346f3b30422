"""Lists of lines to records, as fast as the producer takes them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import typer

from zmqmq_cli.lines import InputError

if TYPE_CHECKING:
    from zmqmq import Delivery, Producer

OUTSTANDING_MAX: Final = 20_000
"""Handles kept for acknowledgements that have not come; the producer bounds the bytes itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a line becomes a record."""

    key: bytes | None = None
    """Of every record."""
    delimiter: bytes | None = None
    """Between key and value of each line."""
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class Sender:
    """Sends lines through one producer and counts what was acknowledged."""

    producer: Producer
    shape: Shape
    sent: int = 0
    sent_bytes: int = 0
    stored: int = 0
    """Records whose acknowledgement came (with acks=0: that were sent)."""
    by_partition: Counter[int] = field(default_factory=Counter)
    _outstanding: deque[Delivery] = field(default_factory=deque)

    def send(self, lines: list[bytes], name: str, first_number: int) -> None:
        """Send one list of lines of the file `name`, whose first is the given number.

        Raises InputError at a line without the delimiter, once those before it are under way,
        and whatever the delivery of an earlier line failed with.
        """
        shape = self.shape
        keys: Sequence[bytes] | None = None
        bad = None
        if shape.delimiter is not None:
            split = [line.partition(shape.delimiter) for line in lines]
            bad = next((i for i, (_, found, _) in enumerate(split) if not found), None)
            keys = [key for key, _, _ in split[:bad]]
            lines = [value for _, _, value in split[:bad]]
        elif shape.key is not None:
            keys = [shape.key] * len(lines)
        if lines:
            self._hand_over(lines, keys)
        if bad is not None:
            raise InputError(
                f"{name}:{first_number + bad}: there is no {_shown(shape.delimiter)} between "
                "key and value"
            )
        self.settle(OUTSTANDING_MAX)

    def settle(self, outstanding_max: int = 0) -> None:
        """Take note of acknowledgements; wait for them while more than this many are out."""
        waiting = self._outstanding
        while waiting and (len(waiting) > outstanding_max or waiting[0].done()):
            result = waiting.popleft().result()
            if isinstance(result, list):
                for partition, _, count in result:
                    self.by_partition[partition] += count
                    self.stored += count
            else:
                self.by_partition[result.partition] += 1
                self.stored += 1

    def _hand_over(self, values: list[bytes], keys: Sequence[bytes] | None) -> None:
        shape = self.shape
        self.sent += len(values)
        self.sent_bytes += sum(map(len, values)) + sum(map(len, keys or ()))
        if not shape.headers:
            self._outstanding.append(
                self.producer.send_many(values, keys, partition=shape.partition)
            )
            return
        for index, value in enumerate(values):
            delivery = self.producer.send(
                value,
                None if keys is None else keys[index],
                headers=shape.headers,
                partition=shape.partition,
            )
            self._outstanding.append(delivery)
            if len(self._outstanding) > OUTSTANDING_MAX:
                self.settle(OUTSTANDING_MAX)


def parse_headers(pairs: list[str]) -> tuple[tuple[str, bytes], ...]:
    """`NAME=VALUE` as the client takes them, in the order given."""
    headers = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="-H/--header")
        headers.append((name, value.encode(errors="surrogateescape")))
    return tuple(headers)


def _shown(delimiter: bytes | None) -> str:
    return repr(delimiter)[1:]
