"""The keys of the metadata and the JSON under them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import pytest

from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import (
    BrokerKey,
    ClusterKey,
    ConfigKey,
    ControllerKey,
    Key,
    KeySpace,
    LiveKey,
    PartitionKey,
    ProducerIdsKey,
    TopicKey,
    TopicNameKey,
)
from zmqmq.core.meta.store import prefix_end
from zmqmq.core.meta.values import (
    BrokerDocument,
    ClusterDocument,
    ConfigDocument,
    ControllerDocument,
    LiveDocument,
    PartitionDocument,
    ProducerIdsDocument,
    TopicDocument,
    TopicNameDocument,
)
from zmqmq.errors import CorruptDataError, InvalidNameError

TOPIC = bytes(range(16))
HEX = "000102030405060708090a0b0c0d0e0f"
KEYS = KeySpace.of_cluster("local")
ALL_KEYS: list[tuple[bytes, Key, str]] = [
    (KEYS.cluster, ClusterKey(), "meta/cluster"),
    (KEYS.live(7), LiveKey(7), "live/00007"),
    (KEYS.broker(99_999), BrokerKey(99_999), "broker/99999"),
    (KEYS.topic(TOPIC), TopicKey(TOPIC), f"topic/{HEX}"),
    (KEYS.topic_name("__offsets"), TopicNameKey("__offsets"), "tname/__offsets"),
    (KEYS.partition(TOPIC, 42), PartitionKey(TOPIC, 42), f"part/{HEX}/00042"),
    (KEYS.producer_ids, ProducerIdsKey(), "alloc/pid"),
    (KEYS.controller, ControllerKey(), "ctl/leader"),
    (KEYS.config("broker", "7"), ConfigKey("broker", "7"), "cfg/broker/7"),
]


@pytest.mark.parametrize(("key", "parsed", "text"), ALL_KEYS, ids=[text for *_, text in ALL_KEYS])
def test_a_key_is_what_the_layout_says_and_parses_back(key: bytes, parsed: Key, text: str) -> None:
    assert key == b"zmqmq/local/" + text.encode()
    assert KEYS.parse(key) == parsed


def test_keys_sort_like_the_numbers_in_them() -> None:
    partitions = [KEYS.partition(TOPIC, n) for n in (0, 1, 9, 10, 99, 100, 999, 1000, 9999)]
    assert partitions == sorted(partitions)
    assert all(key.startswith(KEYS.partition_prefix(TOPIC)) for key in partitions)


@pytest.mark.parametrize(
    "text",
    [
        "live", "live/", "live/7", "live/000007", "live/0000x", "live/-0001", "live/00007/",
        "live/\u0660\u0660\u0660\u0660\u0667", "broker/1", "topic/", f"topic/{HEX[1:]}",
        f"topic/{HEX.upper()}",
        f"topic/{HEX}/", "tname/", "tname/a b", "tname/..", f"part/{HEX}", f"part/{HEX}/1",
        f"part/{HEX}/10000", f"part/{HEX}/00001/x", "cfg/a", "cfg/a/", "cfg/a/b/c", "cfg//b",
        "live/00007\n", f"topic/{HEX}\n",
    ],
)  # fmt: skip
def test_a_key_that_no_broker_writes_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptDataError):
        KEYS.parse(b"zmqmq/local/" + text.encode())


def test_a_key_of_a_later_version_is_left_alone() -> None:
    for text in (b"", b"ctl/other", b"meta/features", b"alloc/other", b"user/a/b/c"):
        assert KEYS.parse(b"zmqmq/local/" + text) is None


def test_a_key_of_another_cluster_is_none_of_ours() -> None:
    with pytest.raises(CorruptDataError, match="does not begin"):
        KEYS.parse(b"zmqmq/local2/meta/cluster")


def test_names_that_would_change_the_layout_are_refused() -> None:
    calls: list[Callable[[], object]] = [
        lambda: KeySpace.of_cluster("a/b"),
        lambda: KeySpace.of_cluster(""),
        lambda: KEYS.topic_name("a/b"),
        lambda: KEYS.config("a", "b/c"),
    ]
    for call in calls:
        with pytest.raises(InvalidNameError):
            call()


def test_the_end_of_a_prefix_leaves_no_key_out() -> None:
    assert prefix_end(b"a/") == b"a0"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff\xff") is None
    assert prefix_end(b"") is None


class Document(Protocol):
    def encode(self) -> bytes: ...

    @classmethod
    def decode(cls, data: bytes) -> Document: ...


PARTITION = PartitionDocument(
    replicas=(1, 2, 3, 4),
    adding=(4,),
    removing=(1,),
    leader=Member(2, 17),
    leader_epoch=5,
    isr=(Member(2, 17), Member(3, 9)),
    elr=(Member(1, 3),),
    last_leader=None,
    min_isr=2,
    recovering=False,
    rec=0,
    write_id="00ff:7",
    flush="fsync",
)
ORDERS = TopicDocument(
    name="orders",
    topic_id=TOPIC,
    partitions=1000,
    replicas=3,
    config={"retention_ms": 60_000, "cleanup": "compact"},
    state="creating",
    maker=Member(2, 17),
)
DOCUMENTS: list[Document] = [
    ClusterDocument(cluster_id=TOPIC, format=1),
    LiveDocument(
        instance=TOPIC,
        endpoints={"client": "tcp://10.0.0.1:5755"},
        rack=None,
        version="0.1.0",
        since_fsync=3,
        since_clean=None,
        unvouched={f"{HEX}.7": 5, f"{HEX}.8": None},
    ),
    BrokerDocument(broker_epoch=3, shutting_down=False, cordoned=True),
    ControllerDocument(broker_id=2, broker_epoch=17),
    ORDERS,
    TopicNameDocument(topic_id=TOPIC),
    PARTITION,
    replace(PARTITION, leader=None, isr=(), last_leader=2, recovering=True, flush="replicated"),
    ProducerIdsDocument(next_id=2000),
    ConfigDocument(settings={"retention_ms": 5}),
]
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: type(d).__name__)


@EACH
def test_a_document_comes_back_as_it_was(document: Document) -> None:
    assert type(document).decode(document.encode()) == document
    assert json.loads(document.encode())["v"] == 1


def test_a_partition_is_written_as_the_design_has_it() -> None:
    assert json.loads(PARTITION.encode()) == {
        "v": 1, "replicas": [1, 2, 3, 4], "adding": [4], "removing": [1], "leader": [2, 17],
        "leader_epoch": 5, "isr": [[2, 17], [3, 9]], "elr": [[1, 3]], "last_leader": None,
        "min_isr": 2, "recovering": False, "rec": 0, "write_id": "00ff:7", "flush": "fsync",
    }  # fmt: skip


def test_a_topic_is_written_as_the_design_has_it() -> None:
    assert json.loads(ORDERS.encode()) == {
        "v": 1, "name": "orders", "topic_id": HEX, "partitions": 1000, "replicas": 3,
        "config": {"retention_ms": 60_000, "cleanup": "compact"}, "state": "creating",
        "maker": [2, 17],
    }  # fmt: skip


@EACH
def test_fields_of_a_later_version_are_kept(document: Document) -> None:
    fields = json.loads(document.encode()) | {"later": {"a": [1, None, 0.5]}, "zzz": "ü"}
    again = type(document).decode(json.dumps(fields).encode())

    assert json.loads(again.encode()) == fields
    assert again != document


def test_a_changed_document_keeps_what_it_does_not_know() -> None:
    fields = json.loads(PARTITION.encode()) | {"later": 1}
    changed = replace(PartitionDocument.decode(json.dumps(fields).encode()), leader_epoch=6)

    assert json.loads(changed.encode()) == fields | {"leader_epoch": 6}


@EACH
def test_each_field_is_needed_and_has_a_type(document: Document) -> None:
    fields: dict[str, Any] = json.loads(document.encode())
    for name in fields:
        without = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(CorruptDataError, match=f"'{name}' is missing"):
            type(document).decode(json.dumps(without).encode())
        wrongs: list[object] = [[{}], {"a": [1]}, 1.5, -1, 2**53, "x" * 2000]
        for wrong in wrongs:
            with pytest.raises(CorruptDataError, match=f"'{name}'"):
                type(document).decode(json.dumps(fields | {name: wrong}).encode())


@EACH
@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", b"[]", b"null", b"1", b'"v"', b"{}", b"\xff\xfe", b'{"v":1', b"[" * 100_000,
        b'{"v":1,"v":1}', b'{"v":NaN}', b'{"v":1e999}', b'{"v":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_nonsense_is_corrupt(document: Document, data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        type(document).decode(data)


@EACH
def test_a_document_cut_anywhere_is_corrupt(document: Document) -> None:
    data = document.encode()
    for end in range(len(data)):
        with pytest.raises(CorruptDataError):
            type(document).decode(data[:end])


def test_a_later_version_says_so() -> None:
    fields = json.loads(ORDERS.encode()) | {"v": 2}
    with pytest.raises(CorruptDataError, match="topic document: 'v' is 2; this zmqmq reads 1"):
        TopicDocument.decode(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicas": []}, "'replicas' is empty"),
        ({"replicas": [1, 2, 3, 4, 4]}, "different brokers"),
        ({"replicas": list(range(16))}, "at most 15"),
        ({"replicas": [2, 3, 4]}, "added or removed"),
        ({"adding": [5]}, "added or removed"),
        ({"adding": [1]}, "also being removed"),
        ({"isr": [[2, 17], [2, 18]]}, "different brokers"),
        ({"isr": [[2, 17], [9, 9]]}, "lacks a broker of isr or elr"),
        ({"elr": [[9, 9]]}, "lacks a broker of isr or elr"),
        ({"elr": [[3, 1]]}, "'elr' has a broker of isr"),
        ({"leader": [4, 1]}, "'leader' is not in isr"),
        ({"leader": [2, 18]}, "'leader' is not in isr"),
        ({"leader": [2]}, "pairs"),
        ({"leader": [True, 17]}, "integers"),
        ({"leader": [100_000, 17]}, "integers"),
        ({"min_isr": 0}, "'min_isr'"),
        ({"flush": "fast"}, "fsync, replicated"),
        ({"recovering": 0}, "true or false"),
    ],
)
def test_a_partition_that_cannot_be_is_corrupt(changes: dict[str, object], words: str) -> None:
    fields = json.loads(PARTITION.encode()) | changes
    with pytest.raises(CorruptDataError, match=words):
        PartitionDocument.decode(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a/b"}, "forbidden character"),
        ({"name": ""}, "0 characters"),
        ({"topic_id": HEX[2:]}, "32 lower-case hex digits"),
        ({"topic_id": HEX.upper()}, "32 lower-case hex digits"),
        ({"topic_id": "  " + HEX[2:]}, "32 lower-case hex digits"),
        ({"partitions": 0}, "'partitions'"),
        ({"partitions": 10_001}, "'partitions'"),
        ({"partitions": True}, "'partitions'"),
        ({"replicas": 16}, "'replicas'"),
        ({"config": {"a": None}}, "'config'"),
        ({"config": {"a": True}}, "'config'"),
        ({"config": []}, "'config'"),
        ({"state": "gone"}, "creating, ready, deleting"),
    ],
)
def test_a_topic_that_cannot_be_is_corrupt(changes: dict[str, object], words: str) -> None:
    fields = json.loads(ORDERS.encode()) | changes
    with pytest.raises(CorruptDataError, match=words):
        TopicDocument.decode(json.dumps(fields).encode())


def test_internal_topics_have_documents_too() -> None:
    document = replace(ORDERS, name="__offsets")
    assert TopicDocument.decode(document.encode()) == document
