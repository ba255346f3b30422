"""Requests of clients: from frames to the part of the broker that answers.

    frames -> header -> session -> the part that answers its API

Every refusal on the way becomes an answer, so nothing that a client sends can make it raise.
"""

from __future__ import annotations

from typing import Final

from zmqmq.core.broker.brokers import Brokers
from zmqmq.core.broker.describe import Describing
from zmqmq.core.broker.events import Send
from zmqmq.core.broker.fetch import Fetching
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.moves import Moves
from zmqmq.core.broker.offsets import Offsets
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.produce import Producing
from zmqmq.core.broker.pushing import Pushing
from zmqmq.core.broker.sessions import REQUESTS_MAX, Session, Sessions
from zmqmq.core.broker.topics import Topics
from zmqmq.core.security.authorize import ANONYMOUS
from zmqmq.core.storage.disk import Buffer
from zmqmq.errors import Code, ProtocolError, WireError, error_to_wire, refusal
from zmqmq.model.limits import (
    BATCH_BYTES_MAX,
    BATCHES_IN_FLIGHT_MAX,
    FRAMES_MAX,
    INTEGER_MAX,
    REPLY_BYTES_MAX,
    REQUEST_BYTES_MAX,
)
from zmqmq.model.now import Now
from zmqmq.wire.apis import COMMON, ERROR, REQUESTS, Api
from zmqmq.wire.frame import VERSION, Fields, decode_header, encode_header
from zmqmq.wire.schema import reader

_read_hello = reader(REQUESTS[Api.HELLO])
_read_ping = reader(REQUESTS[Api.PING])
_read_common = reader(COMMON)
_APIS: Final = {int(api): api for api in REQUESTS}
_WITHOUT_BODY: Final = frozenset(_APIS.values()) - {Api.PRODUCE}


class Front:
    """Knows the sessions, and who answers what."""

    def __init__(
        self,
        identity: Identity,
        options: ServingOptions,
        sessions: Sessions,
        outbox: Outbox,
        producing: Producing,
        fetching: Fetching,
        pushing: Pushing,
        offsets: Offsets,
        topics: Topics,
        describing: Describing,
        moves: Moves,
        brokers: Brokers,
    ) -> None:
        self.identity = identity
        self.options = options
        self.sessions = sessions
        self.outbox = outbox
        self.producing = producing
        self.fetching = fetching
        self.pushing = pushing
        self.offsets = offsets
        self.topics = topics
        self.describing = describing
        self.moves = moves
        self.brokers = brokers
        self.is_draining = False
        self.requests = 0

    def close(self, session: Session) -> None:
        """End a session and what it waits for."""
        self.sessions.close(session)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        self.fetching.forget(session)
        self.fetching.credit_came(session)
        self.pushing.forget(session)

    def tick(self, now: Now) -> None:
        """Time went by."""
        for session in self.sessions.idle(now.ns):
            self.close(session)

    def receive(self, now: Now, route: bytes, frames: list[Buffer]) -> None:
        """A message of a client."""
        self.requests += 1
        api_number, correlation = 0, 0
        try:
            self._check_frames(frames)
            try:
                api_number, version, correlation, fields = decode_header(bytes(frames[0]))
            except ProtocolError as error:
                raise refusal(Code.MALFORMED, str(error)) from None
            if version != VERSION:
                raise refusal(
                    Code.UNSUPPORTED_VERSION,
                    f"protocol version {version} is not spoken here; {VERSION} is",
                    {"min": VERSION, "max": VERSION},
                )
            api = _APIS.get(api_number)
            if api is None:
                raise refusal(Code.UNKNOWN_API, f"there is no API {api_number}")
            if len(frames) > 1 and api in _WITHOUT_BODY:
                raise refusal(Code.MALFORMED, f"{api.name} has no body frames")
            if api is Api.HELLO:
                self._hello(now, route, correlation, fields)
                return
            session = self.sessions.of(route, now.ns)
            self._common(now, session, fields)
            self._dispatch(now, session, api, correlation, fields, frames[1:])
        except WireError as error:
            if api_number == Api.PRODUCE and self._wants_no_answer(frames):
                return
            self.outbox.count(error)
            header = encode_header(api_number, correlation, {ERROR: error_to_wire(error)})
            is_req = len(frames) > 0 and not len(frames[0])
            # A REQ socket shows its owner only what has an empty frame in front.
            self.outbox.emit(Send(route, [b"", header] if is_req else [header]))

    def _check_frames(self, frames: list[Buffer]) -> None:
        if frames and not len(frames[0]):
            raise refusal(
                Code.MALFORMED, "the first frame is empty: use a DEALER socket, not a REQ"
            )
        size = sum(map(len, frames))
        if not frames or len(frames) > FRAMES_MAX or size > REQUEST_BYTES_MAX:
            raise refusal(
                Code.TOO_LARGE,
                f"message has {len(frames)} frames and {size} bytes; the limits are "
                f"{FRAMES_MAX} and {REQUEST_BYTES_MAX}",
            )

    def _wants_no_answer(self, frames: list[Buffer]) -> bool:
        try:
            return decode_header(bytes(frames[0]))[3].get("acks") == 0
        except ProtocolError:
            return False

    def _common(self, now: Now, session: Session, fields: Fields) -> None:
        """What any request may carry (wire.apis.COMMON)."""
        if fields.keys().isdisjoint(COMMON):
            return
        read_bytes, expires_ms, _ = _read_common(fields)
        if read_bytes is not None and self.sessions.note_read(session, read_bytes):
            self.fetching.credit_came(session)
        if expires_ms is not None and expires_ms < now.ms:
            raise refusal(
                Code.DEADLINE_PASSED,
                f"the request was to be carried out before {expires_ms}; it is {now.ms} here",
                {"time_ms": now.ms},
            )

    def _dispatch(
        self,
        now: Now,
        session: Session,
        api: Api,
        correlation: int,
        fields: Fields,
        bodies: list[Buffer],
    ) -> None:
        if session.waiting >= REQUESTS_MAX:
            raise refusal(
                Code.THROTTLED,
                f"{session.waiting} requests of this session wait; the limit is {REQUESTS_MAX}",
                {"retry_after_ms": 100},
            )
        if self.is_draining and api not in (Api.FETCH, Api.PING, Api.METADATA):
            raise refusal(Code.SHUTTING_DOWN, "the broker is stopping", {"retry_after_ms": 500})
        match api:
            case Api.PRODUCE:
                self.producing.handle(now, session, correlation, fields, bodies)
            case Api.FETCH:
                self.fetching.handle(now, session, correlation, fields)
            case Api.PING:
                (is_last,) = _read_ping(fields)
                self.outbox.reply(session, api, correlation, {"time_ms": now.ms})
                if is_last:
                    self.close(session)
            case Api.OFFSET_COMMIT:
                self.offsets.handle_commit(now, session, correlation, fields)
            case Api.OFFSET_FETCH:
                self.offsets.handle_fetch(now, session, correlation, fields)
            case Api.LIST_OFFSETS:
                self.offsets.handle_list(now, session, correlation, fields)
            case Api.DESCRIBE:
                self.describing.handle(now, session, correlation, fields)
            case Api.REASSIGN | Api.ELECT:
                self.moves.handle(now, session, api, correlation, fields)
            case Api.CORDON:
                self.brokers.cordon(now, session, correlation, fields)
            case Api.SUBSCRIBE:
                self.pushing.handle(session, correlation, fields)
            case _:
                self.topics.handle(now, session, api, correlation, fields)

    def _hello(self, now: Now, route: bytes, correlation: int, fields: Fields) -> None:
        client, oldest, newest, session_id, cluster = _read_hello(fields)
        if not oldest <= VERSION <= newest:
            raise refusal(
                Code.UNSUPPORTED_VERSION,
                f"the client speaks versions {oldest} to {newest}; this broker speaks {VERSION}",
                {"min": VERSION, "max": VERSION},
            )
        if cluster is not None and cluster != self.identity.cluster:
            raise refusal(
                Code.WRONG_CLUSTER,
                f"this broker is of cluster {self.identity.cluster.hex()}, not of {cluster.hex()}",
            )
        new = Session(route, session_id, client, ANONYMOUS, now.ms, now.ns)
        for old in self.sessions.open(new):
            self._forget(old)
        options = self.options
        self.outbox.reply(
            new,
            Api.HELLO,
            correlation,
            {
                "version": VERSION,
                "server": self.identity.server,
                "cluster": self.identity.cluster,
                "broker": self.identity.broker_id,
                "broker_epoch": self.identity.epoch,
                "principal": new.principal.name,
                "lease_ms": options.session_lease_ms,
                "time_ms": now.ms,
                "endpoints": dict(self.identity.endpoints),
                "limits": {
                    "request_bytes": REQUEST_BYTES_MAX,
                    "reply_bytes": REPLY_BYTES_MAX,
                    "frames": FRAMES_MAX,
                    "batch_bytes": BATCH_BYTES_MAX,
                    "credit_bytes": options.credit_bytes,
                    "in_flight": BATCHES_IN_FLIGHT_MAX,
                    "fetches": options.fetches_max,
                    "integer": INTEGER_MAX,
                },
            },
        )
