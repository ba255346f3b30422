"""Calls to a cluster of etcd members as if they were one.

There is a channel for each endpoint, and one endpoint that is used, by calls, sessions and
watches alike: what one of them learns about it serves all. It is left when it fails, for the
next; nothing goes back by itself.

What every call owes its caller (etcd.md R2-R4, 3.6):

1. It ends within its time.
2. Reads are tried again, elsewhere too. Of writes only those are that were surely not applied; so
   a write is sent over a connection that is up, to a member that answered on it.
3. A token that expired is replaced unseen.
4. The member is of the cluster that was there at first, and new enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from typing import Final

from zmqmq.core.meta.store import (
    AmbiguousError,
    StoreClosedError,
    UnauthorizedError,
    UnavailableError,
)
from zmqmq.runtime.etcd.address import EtcdAddress
from zmqmq.runtime.etcd.channel import CallError, Channel, Metadata, Stream
from zmqmq.runtime.etcd.messages import (
    AUTHENTICATE,
    LEASE_TIME_TO_LIVE,
    STATUS,
    Message,
    Method,
)
from zmqmq.runtime.etcd.outcomes import FailedError, Outcome, RefusalError, judge
from zmqmq.runtime.etcd.version import UNKNOWN, Version, shortcomings, unfit

logger = logging.getLogger("zmqmq.etcd")

ATTEMPT_S: Final = 1.5
"""What one member gets of a read's time, before the next is asked."""
PAUSE_FIRST_S: Final = 0.02
PAUSE_LAST_S: Final = 0.5
"""The pause between attempts doubles from the first to the last."""
LOGINS_MAX: Final = 2
"""For one call. A token that is refused right after the login will be refused for ever."""
_ANY_LEASE: Final = LEASE_TIME_TO_LIVE(ID=1)
"""Whether there is such a lease or not: everybody who has logged in may ask, and needs a leader."""


class Endpoint:
    """One member, and how we stand with it."""

    def __init__(self, target: str, address: EtcdAddress) -> None:
        self.target = target
        self.channel = Channel(target, address)
        self.version: Version = UNKNOWN
        self.is_fit = False
        """Whether it answered, and as a member should, since it last failed."""


class EtcdConnection:
    """Opened once, in one event loop; after `close` make another."""

    def __init__(self, address: EtcdAddress) -> None:
        self._address = address
        self._endpoints: list[Endpoint] = []
        self._place = 0
        """Of the endpoint that is used."""
        self._token: str | None = None
        """None until the first login and when the last one has expired; empty without users."""
        self._login = asyncio.Lock()
        self._cluster_id = 0
        self.closed_reason: str | None = "it was not opened"
        self._warned: set[str] = set()

    async def open(self, *, timeout_s: float) -> tuple[Version, int]:
        """Connect to a member. Its version, and the id of the cluster."""
        # In any order, so that brokers with the same list do not all use the same member.
        targets = random.sample(self._address.endpoints, len(self._address.endpoints))
        self._endpoints = [Endpoint(target, self._address) for target in targets]
        self.closed_reason = None
        try:
            await self.call(LEASE_TIME_TO_LIVE, _ANY_LEASE, timeout_s=timeout_s)
        except BaseException:
            await self.close("it could not be opened")
            raise
        return self.endpoint.version, self._cluster_id

    @property
    def endpoint(self) -> Endpoint:
        """The one that is used."""
        return self._endpoints[self._place]

    async def call(
        self, method: Method, request: Message, *, timeout_s: float, is_write: bool = False
    ) -> Message:
        """The reply. Raises RefusalError, and of the contract's errors those that fit any call."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + timeout_s
        pause_s = PAUSE_FIRST_S
        logins = 0
        said = "the time was over before it was asked"
        while (left_s := until_s - clock()) > 0:
            self.check_open()
            # A write is not tried again, so it has all the time there is (R4).
            last_s = until_s if is_write else clock() + min(left_s, ATTEMPT_S)
            try:
                return await self._attempt(method, request, last_s, is_write=is_write)
            except FailedError as failed:
                outcome, said = failed.outcome, str(failed)
            match outcome:
                case Outcome.REFUSED:
                    raise RefusalError(said)
                case Outcome.PERHAPS:
                    raise AmbiguousError(f"etcd may have done it: {said}")
                case Outcome.LOGIN:
                    logins += 1
                    if logins > LOGINS_MAX or not self._address.user:
                        raise UnauthorizedError(f"etcd refused: {said}")
                case Outcome.ELSEWHERE:
                    await asyncio.sleep(max(min(pause_s, until_s - clock()), 0))
                    pause_s = min(2 * pause_s, PAUSE_LAST_S)
        raise UnavailableError(f"no answer from etcd within {timeout_s} s: {said}")

    async def _attempt(
        self, method: Method, request: Message, last_s: float, *, is_write: bool
    ) -> Message:
        clock = asyncio.get_running_loop().time
        endpoint, token, is_sent = self.endpoint, self._token, False
        try:
            await self._prepare(endpoint, min(last_s - clock(), ATTEMPT_S))
            token, is_sent = self._token, is_write
            reply = await self._ask(endpoint, method, request, max(last_s - clock(), 0))
            self._check_cluster(reply)
        except (CallError, TimeoutError, FailedError) as error:
            raise self._failure(endpoint, token, error, is_sent=is_sent) from None
        except StoreClosedError as closed:
            if is_sent:
                raise AmbiguousError(f"etcd may have done it: {closed}") from None
            raise
        return reply

    @contextlib.asynccontextmanager
    async def stream(
        self, method: Method, *, timeout_s: float = ATTEMPT_S
    ) -> AsyncIterator[tuple[Endpoint, Stream]]:
        """A call with streams, ended with the block; it begins within the time.

        A CallError, a TimeoutError and a FailedError in the block or before it is a FailedError
        behind it.
        """
        self.check_open()
        endpoint, token = self.endpoint, self._token
        try:
            await self._prepare(endpoint, timeout_s)
            token = self._token
            call = endpoint.channel.stream(method, metadata=self._metadata())
            try:
                yield endpoint, call
            finally:
                call.cancel()
        except (CallError, TimeoutError, FailedError) as error:
            raise self._failure(endpoint, token, error) from None
        except asyncio.CancelledError:
            self._check_cancelled()
            raise

    def _failure(
        self,
        endpoint: Endpoint,
        token: str | None,
        error: CallError | TimeoutError | FailedError,
        *,
        is_sent: bool = False,
    ) -> FailedError:
        """What it means, after drawing conclusions about the endpoint and the token.

        `is_sent` says that a write was under way.
        """
        outcome = Outcome.ELSEWHERE
        if isinstance(error, CallError):
            outcome = judge(error.code, str(error), is_write=is_sent)
        elif isinstance(error, FailedError):
            # If this was the reply to a write, then the wrong cluster has applied it.
            outcome = Outcome.PERHAPS if is_sent else error.outcome
        failed = FailedError(outcome, f"{endpoint.target}: {str(error) or 'no answer in time'}")
        if outcome is Outcome.LOGIN:
            if self._token == token:  # else somebody has logged in meanwhile
                self._token = None
        elif outcome is not Outcome.REFUSED:
            self._leave(endpoint, str(failed))
        return failed

    def check_open(self) -> None:
        """Raise StoreClosedError when it is not."""
        if self.closed_reason is not None:
            raise StoreClosedError(f"the metadata store is closed: {self.closed_reason}")

    async def close(self, reason: str) -> None:
        """End all calls and streams. Again: nothing happens."""
        if self.closed_reason is None:
            self.closed_reason = reason
        endpoints, self._endpoints = self._endpoints, []
        for endpoint in endpoints:
            await endpoint.channel.close()

    async def _ask(
        self, endpoint: Endpoint, method: Method, request: Message, timeout_s: float
    ) -> Message:
        try:
            return await endpoint.channel.call(
                method, request, timeout_s=timeout_s, metadata=self._metadata()
            )
        except asyncio.CancelledError:
            self._check_cancelled()
            raise

    def _check_cancelled(self) -> None:
        """Closing a channel looks as if our task had been cancelled: say what it was."""
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            self.check_open()

    async def _prepare(self, endpoint: Endpoint, timeout_s: float) -> None:
        """Have a token, and a connection to a member that is fit. Raises TimeoutError too."""
        async with asyncio.timeout(timeout_s):
            if self._token is None:
                await self._log_in(endpoint, timeout_s)
                self.check_open()
            if not (endpoint.is_fit and endpoint.channel.is_up):
                await self._examine(endpoint, timeout_s)

    async def _log_in(self, endpoint: Endpoint, timeout_s: float) -> None:
        if not self._address.user:
            self._token = ""
            return
        async with self._login:
            if self._token is not None:
                return  # somebody else has meanwhile
            self.check_open()
            request = AUTHENTICATE(name=self._address.user, password=self._address.password)
            try:
                reply = await self._ask(endpoint, AUTHENTICATE, request, timeout_s)
            except CallError as error:
                if str(error) != "etcdserver: authentication is not enabled":
                    raise
                # Whoever sets up an etcd may enable it after the brokers have started.
                self._token = ""
            else:
                self._token = reply.token

    async def _examine(self, endpoint: Endpoint, timeout_s: float) -> None:
        """Ask who it is, which shows that the connection is good as well."""
        try:
            reply = await self._ask(endpoint, STATUS, STATUS(), timeout_s)
            version = Version.parse(reply.version)
        except CallError as error:
            if error.code != "PERMISSION_DENIED":
                raise
            # Where there are users, newer ones (3.5.30) say their version to root alone.
            reply = await self._ask(endpoint, LEASE_TIME_TO_LIVE, _ANY_LEASE, timeout_s)
            version = UNKNOWN
        if reason := unfit(version):
            raise FailedError(Outcome.ELSEWHERE, f"this etcd {reason}")
        if self._cluster_id == 0:
            self._cluster_id = reply.header.cluster_id
        self._check_cluster(reply)
        endpoint.version, endpoint.is_fit = version, True
        for warning in shortcomings(version):
            if warning not in self._warned:
                self._warned.add(warning)
                logger.warning("etcd at %s %s", endpoint.target, warning)

    def _check_cluster(self, reply: Message) -> None:
        if reply.header.cluster_id != self._cluster_id:
            raise FailedError(
                Outcome.ELSEWHERE,
                f"this etcd is of cluster {reply.header.cluster_id:x}, the store of "
                f"{self._cluster_id:x}: it was set up anew, or the endpoints are of two clusters",
            )

    def _leave(self, endpoint: Endpoint, reason: str) -> None:
        """Use the next one, if this is the one that is used."""
        if endpoint.is_fit:
            logger.warning("etcd failed at %s", reason)
        endpoint.is_fit = False
        if self._endpoints and endpoint is self.endpoint:
            self._place = (self._place + 1) % len(self._endpoints)

    def _metadata(self) -> Metadata:
        # A member that is cut off from the others says so at once, also on a watch that would
        # be silent otherwise (R26).
        metadata = (("hasleader", "true"),)
        return (*metadata, ("token", self._token)) if self._token else metadata
