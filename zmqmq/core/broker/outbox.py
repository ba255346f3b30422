"""Where the parts of the broker put what they ask of the world, and answers to clients."""

from __future__ import annotations

from collections.abc import Sequence

from zmqmq.core.broker.events import Effect, Send
from zmqmq.core.broker.sessions import Session, Sessions
from zmqmq.core.storage.disk import Buffer
from zmqmq.errors import WireError, error_to_wire
from zmqmq.wire.apis import ERROR, Api
from zmqmq.wire.frame import Fields, encode_header


class Outbox:
    """Effects of the event that is being handled."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._effects: list[Effect] = []
        self.errors_sent = 0

    def emit(self, effect: Effect) -> None:
        """Ask the world for something."""
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        """All that was asked since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def reply(
        self,
        session: Session,
        api: Api,
        correlation: int,
        fields: Fields,
        bodies: Sequence[Buffer] = (),
    ) -> None:
        """Answer a request, unless its session has gone."""
        if bodies:
            self._sessions.note_sent(session, sum(map(len, bodies)))
        header = encode_header(api, correlation, fields)
        self._effects.append(Send(session.route, [header, *bodies]))

    def refuse(self, session: Session, api: Api, correlation: int, error: WireError) -> None:
        """Answer a request with an error in the place of everything else."""
        self.errors_sent += 1
        self.reply(session, api, correlation, {ERROR: error_to_wire(error)})
