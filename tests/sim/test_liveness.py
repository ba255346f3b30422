"""What a run demands at its end: readers that do not get everything are found."""

from __future__ import annotations

from tests.sim.driven import Driven
from zmqmq.sim.liveness import unread
from zmqmq.sim.node import SECOND


def test_a_reader_that_takes_nothing_is_found() -> None:
    d = Driven()
    reader = d.reader("c")
    d.send_acked()
    d.until(lambda: reader.offsets == [0], "it is read")
    assert list(unread(d.cluster, [reader])) == []
    reader.rest()
    d.send_acked()
    d.run(1)

    assert list(unread(d.cluster, [reader])) == ["c.1 has not taken all that it has got"]


def test_a_reader_that_gets_nothing_is_found() -> None:
    d = Driven()
    reader = d.reader("c", mode="push")
    d.send_acked()
    d.until(lambda: reader.offsets == [0], "it is read")
    for host in d.hosts.values():
        d.network.cut(host.node.name, "c", both=False)
    d.send_acked()
    d.run(10)
    (missing,) = unread(d.cluster, [reader])
    assert missing == "c.1 is at 1 of ('t', 0), which ends at 2"

    d.network.heal_all()
    d.until(lambda: not list(unread(d.cluster, [reader])), "all is read", 20 * SECOND)
