"""Who is the controller: whoever has the key, on its lease (C1).

The key names a run of a broker; its create_revision is the controller epoch, and every write of a
controller is guarded by it. Whether the own attempt has succeeded is read from the image and
nowhere else: so an answer that was lost changes nothing, and by then the image is as new as the
office.
"""

from __future__ import annotations

from zmqmq.core.control.commits import Begin, Moment, Pause
from zmqmq.core.control.image import Image
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import OWN_LEASE, Commit, Delete, If, Op, Put, StoreError
from zmqmq.core.meta.values import ControllerDocument


class Campaign:
    """Takes the key whenever nobody has it."""

    def __init__(self, broker_id: int, keys: KeySpace, image: Image, begin: Begin) -> None:
        self._broker_id = broker_id
        self._keys = keys
        self._image = image
        self._begin = begin
        self._is_asking = False
        self._asked_revision = 0
        """Until the image is here it may not show what became of the last attempt."""
        self.me: Member | None = None
        """The run of this broker that is registered."""
        self.pause = Pause()

    @property
    def epoch(self) -> int | None:
        """The controller epoch, if this run is the controller."""
        controller = self._image.controller
        if controller is None or self.me is None:
            return None
        return controller.epoch if controller.holder == self.me else None

    @property
    def condition(self) -> If:
        """Holds as long as this is the controller."""
        epoch = self.epoch
        assert epoch is not None, "only a controller acts"
        return If(self._keys.controller, "create", "==", epoch)

    def run(self, now: Moment) -> None:
        """Stand for it if there is none."""
        me, image = self.me, self._image
        if me is None or image.controller is not None:
            return
        if image.revision < me.broker_epoch:  # (C11)
            return
        if image.broker(self._broker_id).is_shutting_down:
            return
        document = ControllerDocument(broker_id=me.broker_id, broker_epoch=me.broker_epoch)
        key = self._keys.controller
        self._ask(now, me, [Put(key, document.encode(), OWN_LEASE)], [If(key, "create", "==", 0)])

    def depose(self, now: Moment, member: Member) -> None:
        """Take the office from this run of a broker, if it has it, and fence it (D11): it has
        failed, and its lease would keep both for as long as that lasts."""
        me, controller = self.me, self._image.controller
        if me is None or controller is None or controller.holder != member:
            return
        office, live = self._keys.controller, self._keys.live(member.broker_id)
        conditions = [
            If(office, "create", "==", controller.epoch),
            If(live, "create", "==", member.broker_epoch),
        ]
        self._ask(now, me, [Delete(office), Delete(live)], conditions)

    def _ask(self, now: Moment, me: Member, ops: list[Op], conditions: list[If]) -> None:
        """One commit at a time, by a run that is registered, and as soon as what became of the
        last one can be seen."""
        is_seen = self._image.revision >= self._asked_revision
        if self._is_asking or not is_seen or not self.pause.is_over(now):
            return
        self._is_asking = True
        mine = If(self._keys.live(me.broker_id), "create", "==", me.broker_epoch)
        self._begin(ops, [*conditions, mine], self._answered)

    def _answered(self, now: Moment, outcome: Commit | StoreError) -> None:
        self._is_asking = False
        if isinstance(outcome, StoreError):
            self.pause.fail(now)
        else:
            self._asked_revision = outcome.revision
            self.pause.reset()
