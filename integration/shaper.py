"""Delays, reorders and loses packets of a namespace: `… integration.shaper DELAY JITTER LOSS`.

The kernel here may lack netem; every kernel with nf_tables or iptables can queue packets to a
process (NFQUEUE). The netlink messages are so few that they are written out here.
"""

from __future__ import annotations

import contextlib
import heapq
import select
import socket
import struct
import sys
import time
from random import Random
from typing import Final

from integration.network import QUEUE
from integration.world import Weather

NETLINK_NETFILTER: Final = 12
REQUEST: Final = 1
PACKET, VERDICT, CONFIG = (3 << 8 | message for message in range(3))
"""The subsystem of queues is number 3."""
PACKET_HEADER, VERDICT_HEADER = 1, 2
COMMAND, PARAMETERS, LENGTH = 1, 2, 3
BIND: Final = 1
COPY_META: Final = 1
DROP, ACCEPT = 0, 1
WAITING_MAX: Final = 65_536
HEADER: Final = struct.Struct("=IHHII")
ATTRIBUTE: Final = struct.Struct("=HH")


def message(kind: int, attribute: int, body: bytes) -> bytes:
    """A netlink message about our queue, with one attribute."""
    about = struct.pack("!BBH", socket.AF_UNSPEC, 0, QUEUE)
    padding = bytes(-len(body) % 4)
    rest = about + ATTRIBUTE.pack(ATTRIBUTE.size + len(body), attribute) + body + padding
    return HEADER.pack(HEADER.size + len(rest), kind, REQUEST, 0, 0) + rest


def verdict(number: int, what: int) -> bytes:
    """What is to happen to a packet."""
    return message(VERDICT, VERDICT_HEADER, struct.pack("!II", what, number))


def packets_in(data: bytes) -> list[int]:
    """The numbers of the packets that the kernel tells of."""
    numbers = []
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, *_ = HEADER.unpack_from(data, at)
        if kind == PACKET:
            # A queue number and the like, then attributes; the first is the packet's header.
            _, attribute = ATTRIBUTE.unpack_from(data, at + HEADER.size + 4)
            assert attribute == PACKET_HEADER
            numbers.append(struct.unpack_from("!I", data, at + HEADER.size + 8)[0])
        at += max(size + 3 & ~3, HEADER.size)
    return numbers


def shape(weather: Weather) -> None:
    """For ever."""
    chance = Random(0)
    queue = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    queue.send(message(CONFIG, COMMAND, struct.pack("!BBH", BIND, 0, socket.AF_INET)))
    queue.send(message(CONFIG, PARAMETERS, struct.pack("!IB", 0, COPY_META)))
    queue.send(message(CONFIG, LENGTH, struct.pack("!I", WAITING_MAX)))
    held: list[tuple[float, int]] = []
    while True:
        wait = max(held[0][0] - time.monotonic(), 0) if held else None
        if select.select([queue], [], [], wait)[0]:
            data = b""
            with contextlib.suppress(OSError):  # more than its buffer holds: those are lost
                data = queue.recv(1 << 17)
            now = time.monotonic()
            for number in packets_in(data):
                if chance.random() < weather.loss:
                    queue.send(verdict(number, DROP))
                    continue
                late = weather.delay_ms + chance.random() * weather.jitter_ms
                heapq.heappush(held, (now + late / 1_000, number))
        while held and held[0][0] <= time.monotonic():
            queue.send(verdict(heapq.heappop(held)[1], ACCEPT))


if __name__ == "__main__":
    shape(Weather(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
