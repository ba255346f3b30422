"""Links between brokers, on loopback: who is told of them, and what is not delivered late."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from tests.support.etcd_process import free_ports
from zmqmq.runtime.peer_links import PeerLinks


class World:
    """Links of one broker, and what they say."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.context = context
        self.loop = asyncio.get_running_loop()
        self.up: list[int] = []
        self.down: list[int] = []
        self.refused: list[int] = []
        self.answers: list[tuple[int, list[bytes]]] = []
        self.bursts = 0
        self.links = PeerLinks(
            context,
            self.loop,
            self.up.append,
            self.down.append,
            self.refused.append,
            lambda broker, frames: self.answers.append((broker, [bytes(f) for f in frames])),
            self.burst_ended,
        )

    def burst_ended(self) -> None:
        self.bursts += 1

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)

    @contextmanager
    def peer(self, port: int = 0) -> Iterator[tuple[zmq.Socket[bytes], int]]:
        """Another broker's listener."""
        router = self.context.socket(zmq.ROUTER)
        router.linger = 0
        router.rcvtimeo = 10_000
        try:
            router.bind(f"tcp://127.0.0.1:{port or '*'}")
            endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
            yield router, int(str(endpoint).rpartition(":")[2])
        finally:
            router.close()


def on_loop(work: Callable[[World], object]) -> None:
    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        world = World(context)
        try:
            await work(world)  # type: ignore[misc]
        finally:
            world.links.close()
            context.destroy(linger=0)

    asyncio.run(main())


def test_questions_go_out_and_answers_come_in() -> None:
    async def work(world: World) -> None:
        with world.peer() as (peer, port):
            world.links.link(2, f"127.0.0.1:{port}")
            world.links.send(2, [b"too early"])
            await world.until(lambda: world.up == [2])
            for number in range(300):
                world.links.send(2, [b"%d" % number])
            for number in range(300):
                route, frame = peer.recv_multipart()
                assert frame == b"%d" % number
                peer.send_multipart([route, frame, bytes(40_000)])
            await world.until(lambda: len(world.answers) == 300)
            assert [int(frames[0]) for _, frames in world.answers] == list(range(300))
            assert world.answers[0][1][1] == bytes(40_000)
            assert world.bursts

    on_loop(work)


def test_a_link_that_breaks_is_told_and_comes_back_with_nothing_of_before() -> None:
    async def work(world: World) -> None:
        # Of none that a connection could take while nobody listens there.
        with world.peer(*free_ports(1)) as (_, port):
            world.links.link(2, f"127.0.0.1:{port}")
            await world.until(lambda: world.up == [2])
        await world.until(lambda: world.down == [2])
        assert not world.refused
        world.links.send(2, [b"to nobody"])
        await world.until(lambda: 2 in world.refused)
        with world.peer(port) as (peer, _):
            await world.until(lambda: world.up == [2, 2])
            world.links.send(2, [b"new"])
            assert peer.recv_multipart()[1:] == [b"new"]
            assert world.down == [2]

    on_loop(work)


def test_another_address_replaces_the_first_and_none_ends_it() -> None:
    async def work(world: World) -> None:
        with world.peer() as (_, first), world.peer() as (peer, second):
            world.links.link(2, f"127.0.0.1:{first}")
            await world.until(lambda: world.up == [2])
            world.links.link(2, f"127.0.0.1:{second}")
            await world.until(lambda: world.up == [2, 2])
            world.links.send(2, [b"x"])
            assert peer.recv_multipart()[1:] == [b"x"]
            world.links.link(2, None)
            world.links.send(2, [b"y"])
            peer.rcvtimeo = 300
            await asyncio.sleep(0.1)
            assert not peer.poll(200)
            assert world.down == [], "who asked for it need not be told"

    on_loop(work)


def test_an_address_that_is_none_does_not_stop_the_broker() -> None:
    async def work(world: World) -> None:
        world.links.link(2, "not an address")
        await asyncio.sleep(0.2)
        assert not world.up

    on_loop(work)


def test_a_name_that_nobody_knows_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a container that is down, in a network whose name server does not answer."""

    async def work(world: World) -> None:
        answered = asyncio.Event()
        find = world.loop.getaddrinfo

        async def slowly(host: str, port: int, **options: int) -> Any:
            if host == "b3.example":
                await answered.wait()
                host = "127.0.0.1"
            return await find(host, port, **options)

        monkeypatch.setattr(world.loop, "getaddrinfo", slowly)
        with world.peer() as (_, first), world.peer() as (_, second):
            world.links.link(3, f"b3.example:{second}")
            world.links.link(2, f"127.0.0.1:{first}")
            await world.until(lambda: world.up == [2])
            answered.set()
            await world.until(lambda: world.up == [2, 3])
            answered.clear()
            world.links.link(3, f"b3.example:{second}")
            await asyncio.sleep(0.05)
            world.links.close()
            answered.set()
            await asyncio.sleep(0.3)
            assert world.up == [2, 3]

    on_loop(work)


def test_a_name_is_looked_up_again_for_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        places = iter([socket.gaierror("unknown"), "127.0.0.9", "127.0.0.1"])
        find = world.loop.getaddrinfo

        async def moving(host: str, port: int, **options: int) -> Any:
            assert host == "b2.example"
            place = next(places)
            if isinstance(place, OSError):
                raise place
            return await find(place, port, **options)

        monkeypatch.setattr(world.loop, "getaddrinfo", moving)
        with world.peer() as (_, port):
            world.links.link(2, f"b2.example:{port}")
            await world.until(lambda: world.up == [2])

    on_loop(work)
