"""INIT_PRODUCER: ids that were never given out before (P1), taken from the store in blocks."""

from __future__ import annotations

from collections import deque
from typing import Final

from zmqmq.core.broker.admin_request import AdminRequest
from zmqmq.core.broker.metadata import Commits, store_refusal
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, If, Put, StoreError
from zmqmq.core.meta.values import ProducerIdsDocument
from zmqmq.model.now import Now

IDS_PER_BLOCK: Final = 1_000
"""What is left of a block when the broker stops is never used."""


class ProducerIds:
    """Hands out ids, and takes another block when the last one is used up."""

    def __init__(self, commits: Commits, keys: KeySpace) -> None:
        self._commits = commits
        self._keys = keys
        self._block = range(0)
        self._wanting: deque[AdminRequest] = deque()

    def want(self, request: AdminRequest) -> None:
        """Answer with an id, now or when there are some."""
        self._wanting.append(request)
        if self._block:
            self._hand_out()
        elif len(self._wanting) == 1:
            self._take_block(0, 1)

    def _take_block(self, revision: int, next_id: int) -> None:
        """Try to move the counter on from what is known of it; a guess at first."""
        key = self._keys.producer_ids
        after = ProducerIdsDocument(next_id=next_id + IDS_PER_BLOCK)

        def then(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                waiting, self._wanting = self._wanting, deque()
                for request in waiting:
                    request.refuse(store_refusal(outcome))
            elif outcome.ok:
                self._block = range(next_id, after.next_id)
                self._hand_out()
            else:
                current = outcome.current[key]
                assert current is not None
                known = ProducerIdsDocument.decode(current.value)
                self._take_block(current.mod_revision, known.next_id)

        self._commits.begin([Put(key, after.encode())], [If(key, "mod", "==", revision)], then)

    def _hand_out(self) -> None:
        while self._wanting and self._block:
            producer_id = self._block[0]
            self._block = self._block[1:]
            request = self._wanting.popleft()
            request.finish({"producer_id": producer_id, "producer_epoch": 0})
        if self._wanting:
            self._take_block(0, 1)
