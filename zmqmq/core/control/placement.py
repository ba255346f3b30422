"""On which brokers new partitions go: spread over racks, fewest replicas first, leaders in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zmqmq.core.control.image import Image
from zmqmq.errors import Code, refusal

REPLICAS: Final = 3
"""Of a topic that asks for no number, where there are so many brokers."""


def candidates(image: Image) -> list[int]:
    """Brokers that can be given new partitions, by their numbers."""
    return sorted(
        broker_id
        for broker_id, known in image.brokers.items()
        if known.is_staying and not known.is_cordoned
    )


def default_replicas(brokers: int) -> int:
    """How many replicas a topic has that asks for no number, on so many brokers."""
    return max(min(brokers, REPLICAS), 1)


def place_replicas(
    image: Image, topic_id: bytes, numbers: Sequence[int], replicas: int
) -> list[tuple[int, ...]]:
    """The replicas of each of these new partitions of a topic, the preferred leader first.

    Each partition is given to the brokers that have the fewest, no two in a rack where there are
    racks enough, in ever different company; its leader is the one of them that is the preferred
    leader of the fewest. Raises refusal(INVALID_CONFIG).
    """
    brokers = candidates(image)
    if len(brokers) < replicas:
        raise refusal(
            Code.INVALID_CONFIG,
            f"{replicas} replicas are wanted, and {len(brokers)} broker(s) can take one",
        )
    held = {broker_id: len(image.held.get(broker_id, ())) for broker_id in brokers}
    led = dict.fromkeys(brokers, 0)
    for known in image.partitions.values():
        first = known.document.replicas[0]
        if first in led:
            led[first] += 1
    racks = {broker_id: _rack(image, broker_id) for broker_id in brokers}
    met = {broker_id: dict.fromkeys(brokers, 0) for broker_id in brokers}
    """How often two are given the same partition: what one leads falls to many when it dies."""
    # Where the turn begins among equals: topics that are made before the image shows the first of
    # them do not all go to the same brokers.
    start = int.from_bytes(topic_id[:4], "big")
    placed = []
    for number in numbers:
        chosen: list[int] = []
        used: dict[str, int] = {}
        for _ in range(replicas):
            best = min(
                (b for b in brokers if b not in chosen),
                key=lambda b: (
                    used.get(racks[b], 0),
                    held[b],
                    sum(met[b][other] for other in chosen),
                    (brokers.index(b) - start - number) % len(brokers),
                ),
            )
            chosen.append(best)
            used[racks[best]] = used.get(racks[best], 0) + 1
            held[best] += 1
        for broker_id in chosen:
            for other in chosen:
                met[broker_id][other] += 1
        leader = min(chosen, key=lambda b: (led[b], chosen.index(b)))
        led[leader] += 1
        placed.append((leader, *(b for b in chosen if b != leader)))
    return placed


def _rack(image: Image, broker_id: int) -> str:
    """The rack of a broker; one that names none stands by itself."""
    live = image.broker(broker_id).live
    rack = None if live is None else live.rack
    return f"broker {broker_id}" if rack is None else f"rack {rack}"
