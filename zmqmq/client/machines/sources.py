"""Where a partition is read: at its leader, or at a copy that is near, or can be reached (F11).

A consumer that says in which rack it is may be sent to a broker there by the leader. While the
leader is away any broker that follows will do: it shows only what is committed, and nothing new is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import SECOND
from zmqmq.client.machines.limits import PARTITIONS_AT_ONCE
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.routing import Routing
from zmqmq.client.machines.stream import Nearby, Stream

NEARBY_FOR: Final = 60 * SECOND
"""So long a broker nearby is read from before the leader is asked again."""
UNHELPFUL_FOR: Final = 5 * SECOND
"""So long a copy that did not help is not asked, nor the leader for one that is near."""


class Source(NamedTuple):
    """Whom to ask, and how."""

    connection: Connection
    is_copy: bool = False
    """Whether it is asked although it may not lead."""
    tells_rack: bool = False
    """Whether it may name another broker."""


class Sources:
    """Chooses anew for every fetch, so that nothing has to be undone when things change."""

    def __init__(self, rack: str | None, network: Network, routing: Routing) -> None:
        self._rack = rack
        self._network = network
        self._routing = routing

    def of(self, now: int, stream: Stream) -> Source | None:
        """None: nobody can be asked now."""
        routing = self._routing
        where = stream.topic, stream.partition
        nearby = stream.nearby
        if nearby is not None:
            if nearby.epoch == routing.epoch(*where) and now < nearby.until:
                connection = self._network.to_broker(nearby.broker)
                if connection is not None and connection.is_sound(now):
                    return Source(connection, is_copy=True)
                if connection is not None or self._network.is_failing(nearby.broker):
                    stream.no_rack_until = now + UNHELPFUL_FOR  # or it would be named again
                    stream.nearby = None
            else:
                stream.nearby = None
        leader = None
        if stream.moved_at == routing.version:
            routing.refresh(now)  # the one who led it said that he does not: wait for other news
        else:
            leader = routing.to_leader(now, *where)
            if leader is not None and leader.is_sound(now):
                # While the one nearby is being connected to there is something to read here.
                is_asking = stream.nearby is None and now >= stream.no_rack_until
                return Source(leader, tells_rack=is_asking and self._rack is not None)
            if leader is None and not self._is_away(stream):
                return None
        but = [broker for broker, until in stream.unhelpful.items() if now < until]
        copy = routing.to_copy(now, *where, but)
        if copy is not None:
            return Source(copy, is_copy=True)
        return None if leader is None else Source(leader)

    def fields_of(self, source: Source) -> dict[str, Any]:
        """What a FETCH to it says besides."""
        fields: dict[str, Any] = {}
        if source.is_copy:
            fields["copies"] = True
        if source.tells_rack:
            fields["rack"] = self._rack
        return fields

    def note_nearby(self, now: int, stream: Stream, broker: object) -> None:
        """The leader has said where to read."""
        epoch = self._routing.epoch(stream.topic, stream.partition)
        if type(broker) is int and epoch:  # 0: the topic is not known any more
            stream.nearby = Nearby(broker, epoch, now + NEARBY_FOR)

    def note_error(self, now: int, stream: Stream, source: Source) -> None:
        """It did not answer, or could not help."""
        if not source.is_copy:
            return
        stream.nearby = None
        stream.no_rack_until = now + UNHELPFUL_FOR
        stream.unhelpful = {b: until for b, until in stream.unhelpful.items() if now < until}
        stream.unhelpful[source.connection.broker] = now + UNHELPFUL_FOR

    def _is_away(self, stream: Stream) -> bool:
        """Whether there is no leader, or it cannot be reached, rather than not yet."""
        leader = self._routing.leader(stream.topic, stream.partition)
        return leader is None or self._network.is_failing(leader)


def parts(streams: list[Stream], *, is_apart: bool) -> Iterator[list[Stream]]:
    """Which partitions to ask for together.

    Those known to have more are split over two fetches, so that the broker reads for one while
    the other is on its way; the idle ones wait together in a long poll of their own.
    """
    hot = [stream for stream in streams if is_apart and stream.end > stream.position]
    cold = [stream for stream in streams if not is_apart or stream.end <= stream.position]
    for group in (hot[::2], hot[1::2], cold):
        for at in range(0, len(group), PARTITIONS_AT_ONCE):
            yield group[at : at + PARTITIONS_AT_ONCE]
