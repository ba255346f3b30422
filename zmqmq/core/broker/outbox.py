"""Where the parts of the broker put what they ask of the world, and answers to clients."""

from __future__ import annotations

from collections.abc import Sequence

from zmqmq.core.broker.events import AnswerPeer, Effect, Send
from zmqmq.core.broker.sessions import Session, Sessions
from zmqmq.core.storage.disk import Buffer
from zmqmq.errors import WireError, error_to_wire
from zmqmq.wire.apis import ERROR, Api
from zmqmq.wire.frame import Fields, encode_header
from zmqmq.wire.peers import PeerApi


class Outbox:
    """Effects of the event that is being handled."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._effects: list[Effect] = []
        self.errors: dict[str, int] = {}
        """How often each error was answered, by its name."""

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
        """Answer a request. Data for a session that has gone meanwhile is not sent."""
        if bodies:
            if not self._sessions.is_open(session):
                return  # nobody would ever say that these bytes were read
            self._sessions.note_sent(session, sum(map(len, bodies)))
        header = encode_header(api, correlation, fields)
        self._effects.append(Send(session.route, [header, *bodies]))

    def answer_peer(
        self,
        route: bytes,
        api: PeerApi,
        correlation: int,
        fields: Fields,
        bodies: Sequence[Buffer] = (),
    ) -> None:
        """Answer another broker."""
        header = encode_header(api, correlation, fields)
        self._effects.append(AnswerPeer(route, [header, *bodies]))

    def refuse(self, session: Session, api: Api, correlation: int, error: WireError) -> None:
        """Answer a request with an error in the place of everything else."""
        self.count(error)
        self.reply(session, api, correlation, {ERROR: error_to_wire(error)})

    def count(self, error: WireError) -> None:
        """An error was answered."""
        self.errors[error.code.name] = self.errors.get(error.code.name, 0) + 1
