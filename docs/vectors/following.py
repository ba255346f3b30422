"""What happens to a reader in the sequences of following.json; generate.py adds what it does.

A reader of partition 0 meets one thing after the other: METADATA (leader epoch), FETCH (the
committed end and the batches of the answer), SUBSCRIBE (answered), PUSH (leader epoch, prev,
committed end, batches), HEAD (leader epoch, committed end), silence (nothing for 3 s). Of a batch
the leader epoch, its offsets, and the last one where that record is gone.
"""
# ruff: noqa: INP001

from __future__ import annotations

from typing import Any, Final

JOINED: Final[list[tuple[Any, ...]]] = [
    ("METADATA", 4),
    ("FETCH", 3, [(4, [0, 1, 2])]),
    ("SUBSCRIBE",),
    ("HEAD", 4, 3),
]
FOLLOWING: Final[list[tuple[str, int, list[tuple[Any, ...]]]]] = [
    (
        "catching up, and then one PUSH after the other",
        0,
        [
            ("METADATA", 4),
            ("FETCH", 5, [(3, [0]), (3, [1])]),
            ("FETCH", 5, [(3, [2]), (4, [3, 4])]),
            ("SUBSCRIBE",),
            ("HEAD", 4, 5),
            ("PUSH", 4, 5, 7, [(4, [5, 6])]),
            ("PUSH", 4, 7, 12, [(4, [7]), (4, [8, 9])]),  # the end is 12, and more is to come
            ("PUSH", 4, 10, 12, [(4, [10, 11])]),
            ("HEAD", 4, 12),
        ],
    ),
    (
        "what was written before the subscription worked is fetched",
        0,
        [*JOINED[:3], ("HEAD", 4, 5), ("FETCH", 5, [(4, [3, 4])]), ("HEAD", 4, 5)],
    ),
    (
        "it may be a PUSH that shows that the subscription works",
        0,
        [*JOINED[:3], ("PUSH", 4, 3, 4, [(4, [3])]), ("PUSH", 4, 4, 5, [(4, [4])])],
    ),
    (
        "a PUSH was lost: the next one shows it, and what comes before the answer is of no use",
        0,
        [
            *JOINED,
            ("PUSH", 4, 5, 6, [(4, [5])]),
            ("PUSH", 4, 6, 7, [(4, [6])]),
            ("FETCH", 7, [(4, [3, 4]), (4, [5]), (4, [6])]),
            ("PUSH", 4, 7, 8, [(4, [7])]),
        ],
    ),
    (
        "the last PUSH was lost: a HEAD shows it; PUSHes that come late are nothing new",
        0,
        [
            *JOINED,
            ("HEAD", 4, 6),
            ("FETCH", 6, [(4, [3, 4]), (4, [5])]),
            ("PUSH", 4, 3, 5, [(4, [3, 4])]),
            ("PUSH", 4, 5, 6, [(4, [5])]),
            ("HEAD", 4, 5),
            ("PUSH", 4, 6, 7, [(4, [6])]),
        ],
    ),
    (
        "a batch was too large: it is announced, and the next PUSH begins behind it",
        0,
        [
            *JOINED,
            ("HEAD", 4, 90),
            ("FETCH", 90, [(4, list(range(3, 90)))]),
            ("PUSH", 4, 90, 91, [(4, [90])]),
        ],
    ),
    (
        "a PUSH repairs what a FETCH was to bring; the answer is nothing new then",
        0,
        [
            *JOINED,
            ("HEAD", 4, 5),
            ("PUSH", 4, 3, 5, [(4, [3, 4])]),
            ("FETCH", 5, [(4, [3, 4])]),
            ("PUSH", 4, 5, 6, [(4, [5])]),
        ],
    ),
    (
        "bodies that begin before the offset that is wanted",
        4,
        [
            ("METADATA", 4),
            ("FETCH", 6, [(4, [3, 4, 5])]),
            ("SUBSCRIBE",),
            ("HEAD", 4, 6),
            ("PUSH", 4, 3, 9, [(4, [3, 4, 5]), (4, [6, 7, 8])]),
            ("PUSH", 4, 6, 11, [(4, [6, 7, 8, 9, 10])]),
        ],
    ),
    (
        "a compacted topic: offsets without a record are no gap where prev says so",
        0,
        [
            *JOINED,
            ("PUSH", 4, 3, 9, [(4, [7, 8])]),
            ("PUSH", 4, 9, 16, [(4, [11, 13], 15)]),
            ("PUSH", 4, 16, 17, [(4, [16])]),
        ],
    ),
    (
        "another leader: its PUSHes are believed once it has answered a FETCH",
        0,
        [
            *JOINED,
            ("PUSH", 5, 3, 4, [(5, [3])]),
            ("METADATA", 5),
            ("FETCH", 4, [(5, [3])]),
            ("SUBSCRIBE",),
            ("HEAD", 5, 4),
            ("PUSH", 4, 4, 6, [(4, [4, 5])]),
            ("HEAD", 4, 9),
            ("PUSH", 5, 4, 5, [(5, [4])]),
            ("HEAD", 6, 5),
        ],
    ),
    (
        "silence",
        0,
        [*JOINED, ("silence",), ("METADATA", 4), ("FETCH", 4, [(4, [3])]), *JOINED[2:3]],
    ),
    (
        "a PUSH that is damaged (here: cut short) is a lost one",
        0,
        [
            *JOINED,
            ("PUSH", 4, 3, 5, [(4, [3, 4])], "damaged"),
            ("FETCH", 5, [(4, [3, 4])]),
            ("PUSH", 4, 5, 6, [(4, [5])]),
        ],
    ),
]
