"""A lease of etcd, renewed in the background.

It is renewed by a task on the broker's loop, and so only while that loop turns: a broker that
stands still loses its lease, as it should. To lose it is normal, also for a healthy broker: an
etcd leader that was frozen revokes leases when it wakes up (etcd.md 2, R9). What must be safe
never asks a session (R15); whoever lost one begins again with a new one (R11).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from zmqmq.core.meta.store import StoreClosedError
from zmqmq.runtime.boottime import now_s
from zmqmq.runtime.etcd.connection import EtcdConnection
from zmqmq.runtime.etcd.messages import LEASE_KEEP_ALIVE
from zmqmq.runtime.etcd.outcomes import FailedError, Outcome
from zmqmq.runtime.lease import Lease

RENEWALS: Final = 3
"""In each TTL (R10), and each has two attempts in its time before the next is due."""
PAUSE_FIRST_S: Final = 0.05
PAUSE_LAST_S: Final = 0.5
"""Between a renewal that failed and the next attempt, which goes to another member. It doubles from
the first to the last."""


class EtcdSession(Lease):
    """A Session. Lives from the grant until it is lost or closed, whichever is first."""

    def __init__(
        self,
        lease_id: int,
        ttl_s: float,
        deadline_s: float,
        connection: EtcdConnection,
        revoke: Callable[[int], Awaitable[None]],
    ) -> None:
        super().__init__(lease_id, ttl_s, deadline_s)
        self._connection = connection
        self._revoke = revoke
        self._task = asyncio.get_running_loop().create_task(self._keep())
        self._task.add_done_callback(self._note_ended)

    async def close(self, *, revoke: bool = True) -> None:
        """See Session. If revoking fails or is cancelled, the lease runs out by itself."""
        await self.retire("the session was closed")
        if revoke:
            await self._revoke(self._id)

    async def retire(self, reason: str) -> None:
        """Renew it no longer; it is over for this reason, unless there was one before."""
        self.lose(reason)
        self._task.cancel()
        await asyncio.wait((self._task,))

    def _note_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.lose(f"renewing it failed: {error!r}")  # a mistake of ours

    async def _keep(self) -> None:
        said, pause_s = "nothing was tried", PAUSE_FIRST_S
        due_s = self._deadline_s - self._ttl_s + self._ttl_s / RENEWALS
        while (left_s := self._deadline_s - now_s()) > 0:
            await asyncio.sleep(max(min(due_s - now_s(), left_s), 0))
            try:
                sent_s, granted_s = await self._renew()
            except FailedError as failed:
                # Nothing but the deadline decides (R11): "not a primary lessor" comes with the
                # code UNKNOWN, and a token that is refused may be accepted again in time.
                said = str(failed)
                if failed.outcome is Outcome.REFUSED and said.endswith("lease not found"):
                    return self.lose(f"etcd says: {said}")
                due_s = now_s() + pause_s
                pause_s = min(2 * pause_s, PAUSE_LAST_S)
                continue
            except StoreClosedError as closed:
                return self.lose(str(closed))
            if granted_s <= 0:
                return self.lose("etcd says that the lease ran out or was revoked")
            # Etcd counts from when it got this, which was after we sent it.
            self._deadline_s = sent_s + granted_s
            due_s, pause_s = sent_s + self._ttl_s / RENEWALS, PAUSE_FIRST_S
        return self.lose(f"not renewed within {self._ttl_s} s: {said}")

    async def _renew(self) -> tuple[float, float]:
        """When the renewal was sent, and for how long from then it holds; 0 if it is over."""
        within_s = max(min(self._deadline_s - now_s(), self._ttl_s / RENEWALS / 2), 0)
        until_s = now_s() + within_s
        async with self._connection.stream(LEASE_KEEP_ALIVE, timeout_s=within_s) as (_, call):
            sent_s = now_s()
            left_s = max(until_s - sent_s, 0)
            async with asyncio.timeout(left_s):
                await call.write(LEASE_KEEP_ALIVE(ID=self._id), timeout_s=left_s)
                reply = await call.read()
            if reply is None:
                raise FailedError(Outcome.ELSEWHERE, "etcd ended the stream")
            return sent_s, reply.TTL
