"""What the monitor of a socket says of its TCP connection."""

from __future__ import annotations

from struct import Struct
from typing import Final

import zmq

from zmqmq.client.machines.effects import Link

_EVENT: Final = Struct("=hi")
_LINKS: Final = {
    int(zmq.EVENT_CONNECTED): Link.CONNECTED,
    int(zmq.EVENT_CONNECT_RETRIED): Link.REFUSED,
    int(zmq.EVENT_CLOSED): Link.REFUSED,
    int(zmq.EVENT_DISCONNECTED): Link.LOST,
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): Link.BAD_HANDSHAKE,
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): Link.BAD_HANDSHAKE,
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): Link.BAD_HANDSHAKE,
}
MONITORED: Final = sum(_LINKS)
"""The events to ask for."""


def link_of(event: bytes) -> Link | None:
    """What became of the connection, by the first frame of an event; None: nothing new."""
    return _LINKS.get(_EVENT.unpack(event)[0])
