"""Batches out of what etcd says on a watch, however it cuts that up."""

from __future__ import annotations

from zmqmq.core.meta.store import KV, Batch, Event
from zmqmq.runtime.etcd.messages import WATCH, Message
from zmqmq.runtime.etcd.watch import EventReader


def reply(*events: tuple[bytes, int], fragment: bool = False) -> Message:
    message = WATCH.reply(fragment=fragment)
    for key, revision in events:
        kv = message.events.add().kv
        kv.key, kv.version = b"ns/" + key, 1
        kv.create_revision = kv.mod_revision = revision
    return message


def batch(revision: int, *keys: bytes) -> Batch:
    return Batch(
        revision,
        tuple(Event("put", KV(key, b"", revision, revision, 1, 0), None) for key in keys),
    )


def test_each_revision_is_a_batch() -> None:
    reader = EventReader(b"ns/", 5)

    found = [*reader.take(reply((b"a", 4), (b"b", 5), (b"c", 5), (b"a", 7)))]

    assert found == [batch(5, b"b", b"c"), batch(7, b"a")]
    assert reader.next_revision == 8


def test_a_revision_in_fragments_waits_for_its_last() -> None:
    reader = EventReader(b"ns/", 1)

    assert [*reader.take(reply((b"a", 5), fragment=True))] == []
    assert [*reader.take(reply((b"b", 5), (b"c", 6), fragment=True))] == [batch(5, b"a", b"b")]
    assert [*reader.take(reply((b"d", 6)))] == [batch(6, b"c", b"d")]


def test_a_stream_that_breaks_between_fragments_begins_the_revision_again() -> None:
    reader = EventReader(b"ns/", 1)
    assert [*reader.take(reply((b"a", 5), fragment=True))] == []
    assert reader.next_revision == 1

    reader.forget_fragments()

    assert [*reader.take(reply((b"a", 5), (b"b", 5)))] == [batch(5, b"a", b"b")]


def test_what_etcd_says_twice_is_said_once() -> None:
    reader = EventReader(b"ns/", 1)

    assert [*reader.take(reply((b"a", 5)))] == [batch(5, b"a")]
    assert [*reader.take(reply((b"a", 5), (b"b", 6)))] == [batch(6, b"b")]
    assert [*reader.progress(6)] == []
    assert [*reader.progress(9)] == [Batch(9, ())]
    assert [*reader.take(reply((b"c", 8)))] == []
