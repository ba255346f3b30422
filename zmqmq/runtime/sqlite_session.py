"""Leases of the embedded metadata store, and how they are kept alive: timers, no I/O.

The store and whoever uses the session share a process and a loop, so a renewal cannot get lost
on the way. It stops only when the loop does, and then the lease runs out as it would on etcd.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from zmqmq.runtime.boottime import now_s
from zmqmq.runtime.lease import Lease

TTL_MIN_S: Final = 0.1
"""Below this the loop's own jitter would decide who is alive. A broker asks for 10 s."""


@dataclass(frozen=True, slots=True)
class LeaseEnds:
    """The two ways in which a session ends its lease in the store."""

    revoke: Callable[[int], Awaitable[None]]
    """Delete it and its keys now, or raise."""
    expire: Callable[[int], None]
    """Its time is over: delete it and its keys, whatever it takes."""


class SqliteSession(Lease):
    """A Session, and the timer of its lease.

    Lives from the grant until the lease is deleted. A lease that a restarted store found in the
    file has one as well, which nobody renews.

    Renewing is moving the deadline. That happens every third of the TTL, in the same timer that
    sees the deadline pass, so the two cannot overtake each other after the loop stood still.
    """

    def __init__(self, lease_id: int, ttl_s: float, ends: LeaseEnds, *, is_renewed: bool) -> None:
        super().__init__(lease_id, ttl_s, now_s() + ttl_s)
        self._ends = ends
        self._is_renewed = is_renewed
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    async def close(self, *, revoke: bool = True) -> None:
        """See Session. If revoking fails or is cancelled, the lease runs out by itself."""
        self._is_renewed = False
        self.lose("the session was closed")
        if revoke:
            await self._ends.revoke(self._id)

    def retire(self, reason: str) -> None:
        """The lease is gone, or the store is: no more timers."""
        self.lose(reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if math.isinf(self._ttl_s):
            return
        delay_s = self._ttl_s / 3 if self._is_renewed else self._deadline_s - now_s()
        self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0.0), self._tick)

    def _tick(self) -> None:
        # The loop's clock stands still while the machine is suspended, and this one does not: the
        # timer may be late, and the deadline long over.
        now = now_s()
        if now >= self._deadline_s:
            self.retire(f"not renewed within {self._ttl_s} s")
            self._ends.expire(self._id)
            return
        if self._is_renewed:
            self._deadline_s = now + self._ttl_s
        self._arm()
