"""What an answer to PRODUCE means for a batch: which error it is, and whether to try again."""

from __future__ import annotations

from zmqmq.client.machines.batch import Batch
from zmqmq.client.machines.effects import MS
from zmqmq.errors import (
    Code,
    ProtocolError,
    RefusedError,
    TimedOutError,
    WireError,
    ZmqmqError,
    error_from_wire,
    refusal,
)


def given_up(batch: Batch, why: str) -> ZmqmqError:
    """*No* for a batch that no broker can have appended, else *perhaps*."""
    topic, partition = batch.queue.topic.name, batch.queue.partition
    last = f"; the last answer was: {batch.error}" if batch.error is not None else ""
    if batch.is_uncertain:
        return TimedOutError(
            f"{topic}/{partition}: sent and not acknowledged; {why}{last}. It may yet be stored"
        )
    code = batch.error.code if isinstance(batch.error, RefusedError) else Code.DEADLINE_PASSED
    return refusal(code, f"{topic}/{partition}: not stored; {why}{last}")


def error_of(outcome: object) -> ZmqmqError:
    """The error that an answer, or one entry of it, stands for."""
    if isinstance(outcome, ZmqmqError):
        return outcome
    if isinstance(outcome, dict):
        return error_from_wire(outcome)
    return ProtocolError(f"PRODUCE was answered with {outcome!r:.100}")


def is_too_late(error: ZmqmqError) -> bool:
    """Whether the broker refused it by its clock: time is over, or that clock was not known well.
    It is by now (connection.py)."""
    return (
        isinstance(error, WireError)
        and error.code is Code.DEADLINE_PASSED
        and "time_ms" in error.hints
    )


def pause_of(error: ZmqmqError) -> int:
    """How long the broker asks to wait, in nanoseconds."""
    hint = error.hints.get("retry_after_ms") if isinstance(error, WireError) else None
    return hint * MS if type(hint) is int and 0 <= hint <= 60_000 else 0
