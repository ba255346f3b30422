"""Damaged copies of partitions that others have too: put aside, and filled again (D5, L17).

Nothing is put aside before the data directory says that this copy vouches for nothing. That is
done at a start, before the registration, which says for which logs this broker vouches; a broker
that is up and finds damage says so on its disk, and halts.
"""

from __future__ import annotations

from typing import Final

from zmqmq.core.broker.events import Halt
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.replica import Replica
from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.control.membership import Membership
from zmqmq.core.storage.log import Log
from zmqmq.model.now import Now

LOOK_NS: Final = 10**9
"""How often to look for damage that nobody has told of."""


class Damage:
    """Judges copies at a start, and those that turn out to be damaged later."""

    def __init__(self, replicas: Replicas, membership: Membership, outbox: Outbox) -> None:
        self._replicas = replicas
        self._membership = membership
        self._outbox = outbox
        self._is_judging = False
        """Whether damaged logs are being put aside."""
        self._given_up: dict[Log, None] = {}
        self._look_ns = 0

    def register_if_ready(self, now: Now) -> None:
        """Once every log is open it is known for which of them this broker vouches (D5)."""
        if self._membership.has_begun or self._is_judging or self._replicas.is_opening:
            return
        damaged = [r for r in self._replicas if self._is_doubtful(r)]
        if not damaged:
            self._membership.begin(now)
            return
        self._is_judging = True

        def put_aside(_: Now) -> None:
            self._is_judging = False
            for replica in damaged:
                self._replicas.open_anew(replica)

        self._membership.unvouch([replica.key.folder for replica in damaged], put_aside)

    def found(self, log: Log) -> None:
        """Bytes of a log are not what was written: where there are other copies, the next start
        puts this one aside (L17, decision 10)."""
        replica = self._replicas.by_log.get(log)
        if replica is None or not self._is_doubtful(replica) or log in self._given_up:
            return
        self._given_up[log] = None
        self._replicas.give_up(replica)
        halt = Halt(f"{log.name} is damaged at {log.damage}")
        self._membership.unvouch([log.key.folder], lambda _: self._outbox.emit(halt))

    def is_given_up(self, log: Log) -> bool:
        """Whether this damaged log is led here no more."""
        self.found(log)
        replica = self._replicas.by_log.get(log)
        return replica is None or replica.role is None

    def look(self, now: Now) -> None:
        """Also where it was found by a look-up or a compaction."""
        if now.ns < self._look_ns or self._membership.me is None:
            return
        self._look_ns = now.ns + LOOK_NS
        for replica in self._replicas:
            if replica.log is not None and replica.log.damage is not None:
                self.found(replica.log)

    def _is_doubtful(self, replica: Replica) -> bool:
        """Whether a copy is damaged, and there are others to fill it from."""
        log, is_shared = replica.log, self._replicas.is_shared(replica.place)
        return log is not None and log.damage is not None and is_shared
