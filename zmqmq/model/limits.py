"""The upper bound of every frame, name, batch and loop that outsiders can reach, in one place.

What an operator may change is a setting (zmqmq/config) whose default is taken from here. What
stands here alone is fixed by the protocol (docs/protocol.md) or the disk format (docs/storage.md).
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

INTEGER_MAX = 2**53 - 1
"""The largest integer on the wire: what every JSON and JavaScript reader can hold exactly."""

# Wire
FRAMES_MAX = 64
"""Frames of one message, header included."""
REQUEST_BYTES_MAX = 2 * MIB
"""All frames of a request together."""
REPLY_BYTES_MAX = 8 * MIB
"""All frames of a reply together."""
HEADER_BYTES_MAX = 64 * KIB
"""The header frame, checked before it is parsed."""
ITEMS_MAX = 8_192
"""Entries of any array or map in a header."""

# Batches
BATCH_BYTES_MAX = 1 * MIB
"""A record batch as stored, header included."""
BATCH_INFLATED_BYTES_MAX = 8 * MIB
"""All columns of a batch after decompression."""
BATCH_RECORDS_MAX = 1_000_000
"""Records in one batch."""

# Names
TOPIC_NAME_MAX = 200
GROUP_NAME_MAX = 200
BROADCAST_NAME_MAX = 200
"""It becomes the name of a file, of at most 255 bytes with what stands behind it."""
RACK_MAX = 200
"""Of the name of a place where brokers and clients are."""
METADATA_NOTE_MAX = 1024
"""Bytes of the free text that goes with a committed offset."""

# Topics
PARTITIONS_MAX = 10_000
"""Partitions of one topic."""

# Idempotence (DESIGN 8; replication.md P2)
BATCHES_IN_FLIGHT_MAX = 16
"""Batches of one producer on one partition that may wait for their acknowledgement."""
BATCHES_REMEMBERED = 64
"""Batches of one producer on one partition that the broker can recognise when they come again."""
SEQUENCE_MAX = 2**31 - 1
"""The last sequence number; after it comes 0 (replication.md P1)."""

assert BATCH_BYTES_MAX < REQUEST_BYTES_MAX < REPLY_BYTES_MAX < BATCH_BYTES_MAX * 16
assert BATCHES_IN_FLIGHT_MAX < BATCHES_REMEMBERED
