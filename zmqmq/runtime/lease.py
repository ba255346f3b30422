"""What a session knows of its lease, however that is renewed: until when it holds, and why not."""

from __future__ import annotations

import asyncio
import math

from zmqmq.core.meta.store import margin_s
from zmqmq.runtime.boottime import now_s


class Lease:
    """The part of a Session (core/meta/store.py) that all drivers have in common."""

    def __init__(self, lease_id: int, ttl_s: float, deadline_s: float) -> None:
        self._id = lease_id
        self._ttl_s = ttl_s
        self._deadline_s = deadline_s
        """Renewing moves it."""
        self._reason: str | None = None
        self._lost = asyncio.Event()

    @property
    def id(self) -> int:
        return self._id

    @property
    def ttl_s(self) -> float:
        return self._ttl_s

    @property
    def deadline_s(self) -> float:
        return self._deadline_s

    @property
    def alive(self) -> bool:
        if self._reason is not None:
            return False
        return math.isinf(self._ttl_s) or now_s() < self._deadline_s - margin_s(self._ttl_s)

    @property
    def reason(self) -> str | None:
        return self._reason

    async def wait_lost(self) -> str:
        await self._lost.wait()
        assert self._reason is not None
        return self._reason

    def lose(self, reason: str) -> None:
        """Say that it is over. The first reason stays."""
        if self._reason is None:
            self._reason = reason
            self._lost.set()
