"""What brokers send each other survives the wire, and what no broker sends is refused."""

from __future__ import annotations

from typing import Any

import pytest

from zmqmq.errors import WireError
from zmqmq.model.limits import HEADER_BYTES_MAX, INTEGER_MAX
from zmqmq.wire.frame import decode_header, encode_header
from zmqmq.wire.peers import (
    LISTED_MAX,
    PEER_REPLIES,
    PEER_REQUESTS,
    Answer,
    Listed,
    PeerApi,
    PeerCode,
    Reported,
)
from zmqmq.wire.schema import reader

TOPIC = bytes(range(16))


@pytest.mark.parametrize(
    "thing",
    [
        Listed(TOPIC, 3, 4, 9, -1, 7, 0),
        Listed(TOPIC, 3, 4, 9, 0, 9, 9),
        Answer(TOPIC, 3, 4, 9, PeerCode.NONE, 8, 1, 500),
        Reported(TOPIC, 3, 4, -1, 0),
    ],
)
def test_entries_come_out_as_they_went_in(thing: Any) -> None:
    encoded = thing if isinstance(thing, Answer) else thing.encode()
    frame = encode_header(PeerApi.REPLICATE, 1, {"partitions": [encoded]})

    assert type(thing).decode(decode_header(frame)[3]["partitions"][0]) == thing


@pytest.mark.parametrize(
    "entry",
    [
        [],
        [TOPIC, 3, 4, 9, 0, 7],
        [TOPIC, 3, 4, -9, 0, 7, 0],
        [TOPIC, 3, 4, 9, 0, 10, 0],  # more flushed than written
        [TOPIC, 3, 4, 9, 0, 7, 10],  # begins behind its end
        ["topic", 3, 4, 9, 0, 7, 0],
    ],
)
def test_an_entry_that_no_follower_sends_is_refused(entry: list[Any]) -> None:
    with pytest.raises(WireError):
        Listed.decode(entry)


def test_the_largest_request_fits_in_a_header_frame() -> None:
    listed = Listed(TOPIC, 9_999, INTEGER_MAX, INTEGER_MAX, INTEGER_MAX - 1, INTEGER_MAX, 0)
    listed = listed._replace(log_start=INTEGER_MAX)
    fields = {
        "partitions": [listed.encode()] * LISTED_MAX,
        "forget": [(TOPIC, 9_999)] * LISTED_MAX,
        "others": [INTEGER_MAX] * 50,
    }

    assert len(encode_header(PeerApi.REPLICATE, INTEGER_MAX, fields)) <= HEADER_BYTES_MAX


@pytest.mark.parametrize("api", PeerApi)
def test_every_request_says_who_asks_and_every_reply_whom_it_is_for(api: PeerApi) -> None:
    assert list(PEER_REQUESTS[api])[:3] == ["cluster", "broker", "epoch"]
    assert list(PEER_REPLIES[api])[:2] == ["to", "error"]
    with pytest.raises(WireError, match="cluster"):
        reader(PEER_REQUESTS[api])({})
    assert reader(PEER_REPLIES[api])({"to": 7, "error": 3})[:2] == [7, 3]
