"""Threads that ask while another one closes the client: each is answered, and nothing is logged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from zmqmq import errors
from zmqmq.client.driver import Driver
from zmqmq.testing import Broker

SECONDS = 20


class Asking(threading.Thread):
    """Asks once, or until it is refused."""

    def __init__(self, ask: Callable[[], object], *, once: bool = False) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self._once = once
        self.error: errors.ZmqmqError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._ask()
            while not self._once:
                self._ask()
        except errors.ZmqmqError as error:
            self.error = error


def test_commands_that_come_when_the_driver_is_closed(
    zmqmq_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Their arguments need not be such that a set could hold them."""
    with zmqmq_broker.connect() as client:
        client.topics.create("t")
    for number in range(20):
        client = zmqmq_broker.connect()
        threads = [Asking(partial(client.offsets, "t", "end")) for _ in range(3)]
        time.sleep(0.0005 * number)
        client.close()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
            assert thread.error is not None
    wrong = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert not wrong, wrong


class LateLoop:
    """An event loop that is closed only after one more command was handed to it."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.closes = threading.Event()
        self.handed_over = threading.Event()

    def close(self) -> None:
        self.closes.set()
        assert self.handed_over.wait(SECONDS)
        self._loop.close()

    def call_soon_threadsafe(self, *command: Any) -> None:
        self._loop.call_soon_threadsafe(*command)
        if self.closes.is_set():
            self.handed_over.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_a_command_that_the_loop_ends_before(
    zmqmq_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was handed over behind the last turn of the loop, and its thread waited for ever."""
    client = zmqmq_broker.connect()
    loop = LateLoop(client._io._loop)
    client._io._loop = loop  # type: ignore[assignment]
    usable = threading.Event()
    check_usable = Driver.check_usable

    def check_and_wait(driver: Driver) -> None:
        check_usable(driver)
        if threading.current_thread() is thread:
            usable.set()
            assert loop.closes.wait(SECONDS)

    begin = threading.Event()

    def ask() -> None:
        begin.wait(SECONDS)
        client.topics.list()

    thread = Asking(ask, once=True)
    monkeypatch.setattr(Driver, "check_usable", check_and_wait)
    begin.set()
    assert usable.wait(SECONDS)
    client.close()
    thread.join(SECONDS)
    assert not thread.is_alive(), "it waits for an answer that nobody will give"
    assert isinstance(thread.error, errors.ClosedError)
