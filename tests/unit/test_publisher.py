"""The socket that publishes, on loopback, and subscribers that nobody wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from zmqmq.client.driver import Driver
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import OpenSubscriber, Subscribe
from zmqmq.client.system_chance import SystemChance
from zmqmq.runtime.publisher import REFUSED_MAX, Publisher

Socket = zmq.Socket[bytes]
SECONDS = 20
STEP = 128


class Bench:
    """A publisher whose subjects begin with `s`, and sockets that subscribe by hand."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.context: zmq.Context[Socket] = zmq.Context()
        self.wanted: list[bytes] = []
        self.publisher = Publisher(self.context, loop, self._admit)
        self.port = self.publisher.bind("127.0.0.1", 0)

    def _admit(self, subject: bytes) -> None:
        self.wanted.append(subject)
        if subject.startswith(b"s"):
            self.publisher.admit(subject)

    def subscriber(self) -> Socket:
        socket = self.context.socket(zmq.XSUB)
        socket.linger = 0
        socket.sndhwm = 0
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.connect(f"tcp://127.0.0.1:{self.port}")
        return socket

    async def gets(self, socket: Socket, subject: bytes) -> bytes:
        """What comes of what is published again and again."""
        for _ in range(SECONDS * 100):
            self.publisher.publish([subject])
            await asyncio.sleep(0.01)
            if socket.poll(0):
                return socket.recv()
        raise TimeoutError(subject)


@contextmanager
def bench() -> Iterator[Bench]:
    bench = Bench(asyncio.get_running_loop())
    try:
        yield bench
    finally:
        bench.publisher.close()
        bench.context.destroy(linger=0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - sockets tell nobody
            await asyncio.sleep(0.01)


def test_who_sends_garbage_moves_no_subscription_to_somebody_else() -> None:
    """libzmq took each subscriber for the one behind it until all that was there had been read."""

    async def main() -> None:
        with bench() as b:
            hooligan, first, second = (b.subscriber() for _ in range(3))
            await asyncio.sleep(0.5)
            for socket, message in (hooligan, b"\x02"), (first, b"\x01s1"), (second, b"\x01s2"):
                socket.send(message)
                await asyncio.sleep(0.5)  # it is read before the next, though nobody listens yet
            b.publisher.listen()
            await asyncio.sleep(0.1)
            for subject in b"s1", b"s2":
                b.publisher.publish([subject])
            await asyncio.sleep(0.1)
            assert [s.poll(0) for s in (hooligan, first, second)] == [0, 0, 0]

            for socket, subject in (first, b"s1"), (second, b"s2"):
                socket.send(b"\x00" + subject)
                socket.send(b"\x01" + subject)
                assert await b.gets(socket, subject) == subject

    asyncio.run(main())


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Publisher]:
    """Publishers that have ended all their connections."""
    begun: list[Publisher] = []
    begin_anew = Publisher._begin_anew

    def noted(publisher: Publisher) -> None:
        begun.append(publisher)
        begin_anew(publisher)

    monkeypatch.setattr(Publisher, "_begin_anew", noted)
    return begun


def test_what_was_refused_is_not_forgiven_to_whoever_cancels_it(begun: list[Publisher]) -> None:
    """Two connections could make libzmq keep any number: one asked, the other one cancelled."""

    async def main() -> None:
        with bench() as b:
            b.publisher.listen()
            good, one, other = (b.subscriber() for _ in range(3))
            good.send(b"\x01s")
            assert await b.gets(good, b"s") == b"s"
            for first in range(0, REFUSED_MAX + 1, STEP):
                subjects = [b"no%d" % number for number in range(first, first + STEP)]
                for subject in subjects:
                    one.send(b"\x01" + subject)
                    other.send(b"\x01" + subject)
                wanted = 2 * (first + STEP)
                await until(lambda: len(b.wanted) >= wanted or bool(begun))  # noqa: B023
                for subject in subjects:
                    other.send(b"\x00" + subject)
                await asyncio.sleep(0.02)
            await until(lambda: bool(begun))
            while good.poll(100):
                good.recv()
            # Whoever means well is connected again, by libzmq, and asks again.
            assert await b.gets(good, b"s") == b"s"

    asyncio.run(main())


def test_what_was_refused_is_forgiven_with_the_end_of_its_connection(
    begun: list[Publisher],
) -> None:
    async def main() -> None:
        with bench() as b:
            b.publisher.listen()
            for round_ in range(3):
                first = round_ * REFUSED_MAX // 2
                socket = b.subscriber()
                for number in range(first, first + REFUSED_MAX // 2):
                    socket.send(b"\x01no%d" % number)
                wanted = first + REFUSED_MAX // 2
                await until(lambda: len(b.wanted) >= wanted)  # noqa: B023
                socket.close()
                await until(lambda: b.publisher._refused_count == 0)

    asyncio.run(main())
    assert not begun


def test_a_client_has_all_its_subjects_also_after_a_reconnection() -> None:
    """To a SUB socket subscriptions are messages, and what its queue does not take is lost."""

    async def main() -> None:
        with bench() as b:
            b.publisher.listen()
            driver = Driver(
                asyncio.get_running_loop(), Core(("127.0.0.1:1",), "t", 1_000, SystemChance())
            )
            subjects = [b"s%d." % number for number in range(500)]
            driver.core.effects.append(OpenSubscriber(1_000, f"127.0.0.1:{b.port}"))
            driver.core.effects.extend(Subscribe(1_000, subject) for subject in subjects)
            driver.pump_soon()
            await until(lambda: len(b.wanted) == len(subjects))
            b.wanted.clear()
            b.publisher._begin_anew()
            await until(lambda: len(b.wanted) == len(subjects))
            driver.close()
            assert sorted(b.wanted) == sorted(subjects)

    asyncio.run(main())
