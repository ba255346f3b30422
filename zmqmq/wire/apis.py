"""Every message of protocol version 1: its number and the fields of request and reply.

docs/protocol.md is generated from these tables where it lists fields; what the fields mean
together is said there in words. A list field whose entries are arrays names their columns in its
doc. Where an entry can fail on its own, an error map stands in the place of the array.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Final

from zmqmq.model.limits import (
    GROUP_NAME_MAX,
    PARTITIONS_MAX,
    RACK_MAX,
    REPLY_BYTES_MAX,
    TOPIC_NAME_MAX,
)
from zmqmq.wire.schema import Field, Schema


class Api(enum.IntEnum):
    """The first element of every header. Numbers are never given a new meaning."""

    HELLO = 1
    PING = 2
    METADATA = 3
    INIT_PRODUCER = 4
    PRODUCE = 5
    FETCH = 6
    LIST_OFFSETS = 7
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    SUBSCRIBE = 10
    HEAD = 11
    PUSH = 12
    CREATE_TOPIC = 20
    ALTER_TOPIC = 21
    DELETE_TOPIC = 22
    DESCRIBE = 23
    REASSIGN = 24
    ELECT = 25
    CORDON = 26


ACKS_ALL: Final = -1
"""Acknowledge once committed: on disk (or, with flush=replicated, in memory) of every replica."""
ACKS_LEADER: Final = 1
"""Acknowledge once in the leader's page cache."""
ACKS_NONE: Final = 0
"""Do not answer at all."""

ERROR: Final = "error"
"""The field of a reply that holds an error map in the place of all others."""

WAIT_MS_MAX: Final = 300_000
ENTRIES_MAX: Final = 4_096

COMMON: Final[Schema] = MappingProxyType(
    {
        "rx": Field(
            "int",
            "bytes of body frames that this client has read in this session, for flow control",
            default=None,
            unit="bytes",
        ),
        "expires_ms": Field(
            "int",
            "refuse the request when the broker's clock (HELLO and PING tell it) is past this",
            default=None,
            unit="ms since 1970",
        ),
        "trace": Field("str", "a W3C traceparent", default=None, maximum=200),
    }
)
"""Fields that any request may have."""

_TOPIC = Field("str", "topic name", minimum=1, maximum=TOPIC_NAME_MAX)
_GROUP = Field("str", "group name", minimum=1, maximum=GROUP_NAME_MAX)

REQUESTS: Final[dict[Api, Schema]] = {
    Api.HELLO: {
        "client": Field("str", "name and version of the client software", maximum=200),
        "min": Field("int", "oldest protocol version that the client speaks"),
        "max": Field("int", "newest protocol version that the client speaks"),
        "session": Field("bin", "random bytes that name this session", minimum=16, maximum=16),
        "cluster": Field(
            "bin|nil",
            "refuse unless the broker is of this cluster",
            default=None,
            minimum=16,
            maximum=16,
        ),
    },
    Api.PING: {
        "close": Field("bool", "the last request of this session: forget it", default=False),
    },
    Api.METADATA: {
        "topics": Field(
            "list|nil",
            "names of topics, each told of once; nil or absent: all",
            default=None,
            maximum=ENTRIES_MAX,
        ),
    },
    Api.INIT_PRODUCER: {},
    Api.PRODUCE: {
        "acks": Field("int", "-1 all, 1 leader, 0 none", minimum=-1, maximum=1),
        "timeout_ms": Field(
            "int",
            "how long the reply may wait for the commit",
            default=30_000,
            maximum=WAIT_MS_MAX,
            unit="ms",
        ),
        "batches": Field(
            "list",
            "[topic id bin 16, partition] for each body frame, in order",
            minimum=1,
            maximum=63,
        ),
    },
    Api.FETCH: {
        "max_wait_ms": Field(
            "int", "how long to wait for min_bytes", default=0, maximum=WAIT_MS_MAX, unit="ms"
        ),
        "min_bytes": Field(
            "int",
            "answer at once when this much is there",
            default=1,
            maximum=REPLY_BYTES_MAX,
            unit="bytes",
        ),
        "max_bytes": Field(
            "int",
            "of all body frames; the first batch comes even if it is larger; 0: no data",
            default=1 << 20,
            maximum=REPLY_BYTES_MAX,
            unit="bytes",
        ),
        "partitions": Field(
            "list",
            "[topic id bin 16, partition, offset, max bytes, leader epoch known or nil, leader "
            "epoch of the last record read or nil]; the last two may be absent",
            minimum=1,
            maximum=ENTRIES_MAX,
        ),
        "rack": Field(
            "str|nil",
            "where the client is: the leader may name a broker there that has a copy",
            default=None,
            maximum=RACK_MAX,
        ),
        "copies": Field(
            "bool", "a broker that only follows may answer, with what it has", default=False
        ),
    },
    Api.LIST_OFFSETS: {
        "partitions": Field(
            "list",
            '[topic id bin 16, partition, at], `at` being "start", "end" or an append time in ms',
            minimum=1,
            maximum=ENTRIES_MAX,
        ),
    },
    Api.OFFSET_COMMIT: {
        "group": _GROUP,
        "offsets": Field(
            "list",
            "[topic id bin 16, partition, next offset, leader epoch of the record before it or "
            "0, note str]",
            minimum=1,
            maximum=ENTRIES_MAX,
        ),
    },
    Api.OFFSET_FETCH: {
        "group": _GROUP,
        "partitions": Field(
            "list|nil",
            "[topic id bin 16, partition]; nil or absent: all that the group has",
            default=None,
            maximum=ENTRIES_MAX,
        ),
    },
    Api.SUBSCRIBE: {
        "partitions": Field("list", "[topic id bin 16, partition]", minimum=1, maximum=ENTRIES_MAX),
        "leave": Field("bool", "this session needs them published no more", default=False),
    },
    Api.CREATE_TOPIC: {
        "topic": _TOPIC,
        "partitions": Field("int", "how many", default=1, minimum=1, maximum=PARTITIONS_MAX),
        "replicas": Field(
            "int",
            "copies of each partition; 0: 3, or as many as there are brokers",
            default=0,
            maximum=15,
        ),
        "config": Field("map", "setting to value (docs/configuration.md)", default=None),
        "check_only": Field("bool", "check, and create nothing", default=False),
    },
    Api.ALTER_TOPIC: {
        "topic": _TOPIC,
        "partitions": Field(
            "int|nil",
            "the new number; it can only grow",
            default=None,
            minimum=1,
            maximum=PARTITIONS_MAX,
        ),
        "config": Field("map", "setting to value; nil resets to the default", default=None),
    },
    Api.DELETE_TOPIC: {"topic": _TOPIC},
    Api.DESCRIBE: {
        "kind": Field(
            "str",
            '"broker", "brokers", "topics", "groups", "sessions" or "config"',
            maximum=20,
        ),
        "names": Field("list|nil", "names; nil or absent: all", default=None, maximum=ENTRIES_MAX),
        "internal": Field("bool", "internal topics too", default=False),
        "after": Field("str", "go on behind this name", default="", maximum=TOPIC_NAME_MAX),
    },
    Api.REASSIGN: {
        "topic": _TOPIC,
        "partitions": Field(
            "list",
            "[partition, broker ids, the preferred leader first; nil: give up what is under way]",
            minimum=1,
            maximum=ENTRIES_MAX,
        ),
    },
    Api.ELECT: {
        "topic": _TOPIC,
        "kind": Field("str", '"preferred" or "unclean"', maximum=20),
        "partitions": Field(
            "list|nil",
            "numbers; nil or absent: all",
            default=None,
            minimum=1,
            maximum=ENTRIES_MAX,
        ),
    },
    Api.CORDON: {
        "broker": Field("int", "broker id"),
        "cordoned": Field("bool", "whether it is to be given no new partitions"),
    },
}

REPLIES: Final[dict[Api, Schema]] = {
    Api.HELLO: {
        "version": Field("int", "the protocol version to speak from now on"),
        "server": Field("str", "name and version of the broker software"),
        "cluster": Field("bin", "cluster id", minimum=16, maximum=16),
        "broker": Field("int", "broker id"),
        "broker_epoch": Field("int", "grows with each start of the broker"),
        "principal": Field("str", "who the broker takes the client for"),
        "lease_ms": Field("int", "a session from which nothing comes for this long is closed"),
        "time_ms": Field("int", "the broker's clock", unit="ms since 1970"),
        "endpoints": Field("map", '"clients" and "push": "HOST:PORT"'),
        "limits": Field(
            "map",
            "request_bytes, reply_bytes, frames, batch_bytes, credit_bytes, in_flight, fetches, "
            "integer",
        ),
    },
    Api.PING: {"time_ms": Field("int", "the broker's clock", unit="ms since 1970")},
    Api.METADATA: {
        "brokers": Field("list", '[broker id, "HOST:PORT" of the client listener, rack or nil]'),
        "topics": Field(
            "list",
            'maps {"name", "id", "partitions": [[leader broker id or nil, leader epoch, [ids of '
            'the brokers with a copy, those in sync first]], …]} or {"name", "error"}',
        ),
    },
    Api.INIT_PRODUCER: {
        "producer_id": Field("int", "never given out before", minimum=1),
        "producer_epoch": Field("int", "the first epoch to use"),
    },
    Api.PRODUCE: {
        "results": Field(
            "list", "[base offset, append time ms] or an error map, for each body frame"
        ),
    },
    Api.FETCH: {
        "partitions": Field(
            "list",
            "[bytes, committed end, log start] or an error map, for each asked; where bytes > 0 "
            "the next body frame is its data. A fourth entry is the broker id to read from instead",
        ),
    },
    Api.LIST_OFFSETS: {
        "offsets": Field("list", "[offset, append time ms or nil] or an error map, for each asked"),
    },
    Api.OFFSET_COMMIT: {"results": Field("list", "nil or an error map, for each offset")},
    Api.OFFSET_FETCH: {
        "offsets": Field(
            "list",
            "[topic id bin 16, partition, next offset, leader epoch or 0, note, commit time ms]; "
            "partitions without a committed offset are left out",
        ),
    },
    Api.SUBSCRIBE: {
        "subjects": Field("list", "bin, one for each partition asked, or an error map"),
        "endpoint": Field("str", '"HOST:PORT" of the push listener'),
    },
    Api.CREATE_TOPIC: {
        "id": Field("bin", "topic id", minimum=16, maximum=16),
        "partitions": Field("int", "how many"),
        "replicas": Field("int", "copies of each partition"),
        "config": Field("map", "every setting with its value"),
    },
    Api.ALTER_TOPIC: {
        "partitions": Field("int", "how many"),
        "config": Field("map", "every setting with its value"),
    },
    Api.DELETE_TOPIC: {},
    Api.DESCRIBE: {
        "items": Field("list", "a map for each thing (docs/protocol.md, DESCRIBE)"),
        "more": Field("bool", "ask again with `after` set to the name of the last item"),
    },
    Api.REASSIGN: {"results": Field("list", "nil or an error map, for each partition asked")},
    Api.ELECT: {
        "results": Field("list", "nil or an error map, for each partition asked, or for all")
    },
    Api.CORDON: {},
}

PUSHED: Final[dict[Api, Schema]] = {
    Api.PUSH: {
        "prev": Field("int", "nothing that can be read is between this offset and the body frame"),
        "end": Field("int", "committed end"),
        "epoch": Field("int", "leader epoch"),
    },
    Api.HEAD: {
        "end": Field("int", "committed end"),
        "start": Field("int", "log start"),
        "epoch": Field("int", "leader epoch"),
    },
}


PUSH_BYTES_MAX: Final = 64 * 1024
"""Batches of more bytes are not pushed, but announced."""
PUSH_QUEUE: Final = 256
"""Messages that wait for one subscriber; with more it loses some, and fetches them."""


def push_subject(topic_id: bytes, partition: int) -> bytes:
    """What a SUB socket subscribes to. The last dot keeps partition 1 apart from 10."""
    return b"p.%s.%d." % (topic_id.hex().encode(), partition)


def place_of_subject(subject: bytes) -> tuple[bytes, int] | None:
    """Topic id and partition; None if it is the subject of none."""
    parts = subject.split(b".")
    if len(parts) != 4 or len(parts[1]) != 32 or not 1 <= len(parts[2]) <= 6:
        return None
    try:
        topic_id, number = bytes.fromhex(parts[1].decode()), int(parts[2])
    except ValueError:
        return None
    return (topic_id, number) if push_subject(topic_id, number) == subject else None
