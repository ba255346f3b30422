"""A request that waits for the metadata store, and perhaps for logs to be opened."""

from __future__ import annotations

from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.sessions import Session
from zmqmq.errors import Code, WireError, refusal
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import Fields


class AdminRequest:
    """A request that waits for the metadata store, and perhaps for logs to be opened."""

    __slots__ = ("_outbox", "api", "correlation", "done", "session")

    def __init__(self, outbox: Outbox, session: Session, api: Api, correlation: int) -> None:
        self._outbox = outbox
        self.session = session
        self.api = api
        self.correlation = correlation
        self.done = False
        session.waiting += 1

    def finish(self, fields: Fields) -> None:
        """Answer, once."""
        if not self.done:
            self.done = True
            self.session.waiting -= 1
            self._outbox.reply(self.session, self.api, self.correlation, fields)

    def refuse(self, error: WireError) -> None:
        """Answer with an error, once."""
        if not self.done:
            self.done = True
            self.session.waiting -= 1
            self._outbox.refuse(self.session, self.api, self.correlation, error)

    def expire(self) -> None:
        """Nobody answered in time."""
        self.refuse(refusal(Code.TIMED_OUT, "begun, and not finished in time; look again"))
