"""From an error to what a script and a person learn of it."""

from __future__ import annotations

import pytest
from zmqmq_cli.exits import MEANINGS, Exit, PartialError, verdict

from zmqmq.errors import (
    ClosedError,
    Code,
    ConfigError,
    CorruptDataError,
    DirectoryError,
    DisconnectedError,
    StorageError,
    TimedOutError,
    refusal,
)


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (refusal(Code.UNKNOWN_TOPIC, "x"), 3, "UNKNOWN_TOPIC"),
        (refusal(Code.UNKNOWN_PARTITION, "x"), 3, "UNKNOWN_PARTITION"),
        (refusal(Code.OFFSET_OUT_OF_RANGE, "x"), 3, "OFFSET_OUT_OF_RANGE"),
        (refusal(Code.TOPIC_EXISTS, "x"), 4, "TOPIC_EXISTS"),
        (refusal(Code.DENIED, "x"), 5, "DENIED"),
        (DisconnectedError("x"), 6, "DISCONNECTED"),
        (TimedOutError("x"), 7, "TIMED_OUT"),
        (refusal(Code.NOT_COMMITTED, "x"), 7, "NOT_COMMITTED"),
        (PartialError("x"), 7, "PARTIAL"),
        (refusal(Code.UNSUPPORTED_VERSION, "x"), 8, "UNSUPPORTED_VERSION"),
        (refusal(Code.INVALID_NAME, "x"), 2, "INVALID_NAME"),
        (refusal(Code.INVALID_CONFIG, "x"), 2, "INVALID_CONFIG"),
        (ConfigError("x"), 2, "CONFIG"),
        (ClosedError("x"), 2, "CLOSED"),
        (DirectoryError("x"), 4, "DIRECTORY"),
        (StorageError("x"), 1, "STORAGE"),
        (CorruptDataError("x"), 1, "CORRUPT_DATA"),
        (refusal(Code.DISK_FULL, "x"), 1, "DISK_FULL"),
        (refusal(Code.INTERNAL, "x"), 7, "INTERNAL"),
        (FileNotFoundError(2, "No such file or directory", "f"), 3, "ENOENT"),
        (PermissionError(13, "Permission denied", "f"), 5, "EACCES"),
        (OSError(28, "No space left on device"), 1, "ENOSPC"),
    ],
)
def test_an_error_has_its_exit_code_and_a_stable_name(
    error: Exception, exit_code: int, code: str
) -> None:
    said = verdict(error)

    assert (said.exit, said.code) == (exit_code, code)
    assert said.message
    assert said.exit in MEANINGS


def test_the_message_of_the_system_names_the_file() -> None:
    said = verdict(FileNotFoundError(2, "No such file or directory", "/no/such"))

    assert said.message == "/no/such: no such file or directory"


def test_the_brokers_word_on_trying_again_is_handed_on() -> None:
    assert verdict(refusal(Code.THROTTLED, "x")).retriable
    assert not verdict(refusal(Code.DENIED, "x")).retriable


def test_a_refusal_without_words_still_says_something() -> None:
    assert verdict(refusal(Code.WRONG_CLUSTER)).message == "WRONG_CLUSTER"


@pytest.mark.parametrize("code", [c for c in Code if c is not Code.UNSUPPORTED_VERSION])
def test_every_code_of_the_wire_has_an_exit(code: Code) -> None:
    assert verdict(refusal(code, "x")).exit not in {Exit.OK, Exit.UNSUPPORTED} or (
        code is Code.UNKNOWN_API
    )
