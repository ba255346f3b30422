"""This broker's registration: what its live key says of its data, and when it may stop.

    begin -> registered -> format written -> the image has it -> up
                 ^                                               |
                 +---------------- lost <------------------------+

What is told to others must not be more than the data directory will know after a crash (D4, D5):
nothing is served in a new epoch before `format` names it, and a log loses its voucher on disk
before anything is done to it. A broker that lost its registration keeps its data and registers
again; one that was killed begins here anew.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from zmqmq.core.control.commits import Begin, Moment, Pause
from zmqmq.core.control.image import Image
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, If, Put, StoreError
from zmqmq.core.meta.values import BrokerDocument, LiveDocument
from zmqmq.core.storage.data_directory import Format
from zmqmq.core.storage.log import LOGS_FOLDER
from zmqmq.errors import StorageError

DRAIN_NS: Final = 10 * 10**9
"""A broker that is to stop waits no longer than this for others to take over (C10)."""
STEADY_NS: Final = 10 * 10**9
"""A registration that lasted so long is no part of a series of failures."""


class Orders(Protocol):
    """What it asks of the world."""

    def register(self, document: LiveDocument) -> None:
        """Put this under the live key, on a lease; answered by `Membership.registered`."""
        ...

    def unregister(self) -> None:
        """Give the lease up."""
        ...

    def write_format(self, values: Format) -> None:
        """Replace the file, durably; answered by `Membership.format_written`."""
        ...

    def halt(self, reason: str) -> None:
        """End the process."""
        ...


class Process(NamedTuple):
    """What this process says of itself."""

    broker_id: int
    instance: bytes
    """16 random bytes."""
    endpoints: Mapping[str, str]
    rack: str | None
    version: str


class _State(enum.Enum):
    DOWN = "down"
    """Not begun, or lost: registers when the pause is over."""
    REGISTERING = "registering"
    WRITING = "writing"
    """Registered, and `format` does not say so yet; or the image does not (C11)."""
    UP = "up"
    STOPPING = "stopping"
    STOPPED = "stopped"


Up = Callable[[Moment, Member], None]
Down = Callable[[Moment, str], None]


class Membership:
    """Lives as long as its process."""

    def __init__(
        self,
        process: Process,
        values: Format,
        keys: KeySpace,
        image: Image,
        orders: Orders,
        begin: Begin,
        up: Up,
        down: Down,
    ) -> None:
        self._process = process
        if values.clean_epoch != values.epoch:
            values = replace(values, since_clean=None)
        self._format = values
        """What is to stand in the file once all writes are done."""
        self._keys = keys
        self._image = image
        self._orders = orders
        self._begin_commit = begin
        self._up = up
        self._down = down
        self._state = _State.DOWN
        self.has_begun = False
        """Whether this broker is registered, or is to be."""
        self._written_epoch = values.epoch
        """The epoch that the file names."""
        self._writes: list[tuple[Format, Callable[[Moment], None]]] = []
        """Under way, and behind it those that wait."""
        self._since_ns = 0
        self._pause = Pause()
        self._is_leaving = False
        self._drain_ns: int | None = None
        """When to stop waiting for others to take over; None: not waiting."""
        self._is_flagging = False
        self._flag_pause = Pause()

    @property
    def is_writing(self) -> bool:
        """Whether the file `format` is not as it is to be yet."""
        return bool(self._writes)

    @property
    def me(self) -> Member | None:
        """The run of this broker that may serve; None: it is not registered, or not ready."""
        if self._state is not _State.UP:
            return None
        return Member(self._process.broker_id, self._format.epoch)

    @property
    def format(self) -> Format:
        """What the data directory says, or will as soon as it is written."""
        return self._format

    @property
    def is_stopped(self) -> bool:
        """Whether the stop is on disk, and the registration given up."""
        return self._state is _State.STOPPED

    @property
    def next_ns(self) -> int | None:
        """When to call `tick`."""
        times = [self._pause.until_ns, self._flag_pause.until_ns, self._drain_ns]
        return min((time for time in times if time is not None), default=None)

    # Registration

    def begin(self, now: Moment) -> None:
        """Register: the logs have been opened, so it is known what is damaged."""
        self.has_begun = True
        self.tick(now)

    def tick(self, now: Moment) -> None:
        """Time went by."""
        if self._drain_ns is not None and self._drain_ns <= now.ns:
            self._drain_ns = None
        is_over = self._pause.is_over(now)
        if self.has_begun and self._state is _State.DOWN and is_over and not self._writes:
            self._state = _State.REGISTERING
            self._orders.register(self._document())
        self._flag(now)

    def registered(self, now: Moment, epoch: int) -> None:
        """There is a live key, created at this revision."""
        if self._state in (_State.STOPPING, _State.STOPPED):
            self._orders.unregister()  # asked for before; another epoch would undo the clean stop
            return
        assert self._state is _State.REGISTERING, "nobody asked for it"
        values = self._format
        if epoch <= values.epoch:
            self._orders.halt(
                f"the metadata store gave broker epoch {epoch}, and this data directory has been "
                f"in {values.epoch}: the store was restored from a backup, or is another one"
            )
            return
        self._state = _State.WRITING
        self._since_ns = now.ns
        self._write(
            replace(
                values,
                epoch=epoch,
                since_fsync=epoch if values.since_fsync is None else values.since_fsync,
                since_clean=epoch if values.since_clean is None else values.since_clean,
                clean_epoch=None,
                unvouched={
                    folder: epoch if since is None else since
                    for folder, since in values.unvouched.items()
                },
            ),
            self.changed,
        )

    def lost(self, now: Moment, reason: str) -> None:
        """The live key is gone: this run goes on, and registers again."""
        if self._state not in (_State.WRITING, _State.UP):
            return
        was_up = self._state is _State.UP
        self._state = _State.DOWN
        if now.ns - self._since_ns >= STEADY_NS:
            self._pause.reset()
        self._pause.fail(now)
        if was_up:
            self._down(now, reason)

    def changed(self, now: Moment) -> None:
        """The image has moved on: it may show this registration now (C11), or the flags."""
        epoch = self._format.epoch
        is_written = self._state is _State.WRITING and self._written_epoch == epoch
        if is_written and self._image.revision >= epoch:
            self._state = _State.UP
            self._up(now, Member(self._process.broker_id, epoch))
        if self._state is _State.UP:
            self._check_fenced(now)
        self._flag(now)

    def _check_fenced(self, now: Moment) -> None:
        """Somebody may have taken the live key away (D11): the lease under it is of no use then."""
        if self._image.broker(self._process.broker_id).epoch != self._format.epoch:
            self._orders.unregister()
            self.lost(now, "the live key was removed: this broker was fenced")

    def format_written(self, now: Moment, error: StorageError | None) -> None:
        """A write of the file is done. Without it nothing is certain any more."""
        values, then = self._writes.pop(0)
        if error is not None:
            self._orders.halt(f"cannot write what the data directory says of itself: {error}")
            return
        self._written_epoch = values.epoch
        if self._writes:
            self._orders.write_format(self._writes[0][0])
        then(now)
        self.tick(now)

    def unvouch(self, folders: Sequence[str], then: Callable[[Moment], None]) -> None:
        """These logs are damaged or lost (D5); once that is durable `then` may act on it.

        Whoever is registered has said otherwise: a broker that runs has to halt afterwards.
        """
        values = self._format
        for folder in folders:
            values = values.without(folder)
        self._write(values, then)

    def _write(self, values: Format, then: Callable[[Moment], None]) -> None:
        self._format = values
        self._writes.append((values, then))
        if len(self._writes) == 1:
            self._orders.write_format(values)

    def _document(self) -> LiveDocument:
        process, values = self._process, self._format
        unvouched: dict[str, int | None] = {}
        for folder, since in values.unvouched.items():
            # A log beside the data counts as the partition: topic, partition, number.
            text = folder.removeprefix(f"{LOGS_FOLDER}/").rpartition(".")[0]
            known = unvouched.get(text, 0)
            unvouched[text] = None if known is None or since is None else max(known, since)
        return LiveDocument(
            instance=process.instance,
            endpoints=process.endpoints,
            rack=process.rack,
            version=process.version,
            since_fsync=values.since_fsync,
            since_clean=values.since_clean,
            unvouched=unvouched,
        )

    # Controlled shutdown (C10)

    def shut_down(self, now: Moment) -> None:
        """Ask the controller to let others take over."""
        if not self._is_leaving:
            self._is_leaving = True
            self._drain_ns = now.ns + DRAIN_NS
            self._flag(now)

    def may_stop(self, now: Moment) -> bool:
        """Whether nobody needs this broker any more, or it has waited long enough."""
        assert self._is_leaving, "shut_down() comes first"
        if self._drain_ns is None or self._drain_ns <= now.ns or self.me is None:
            return True
        others = [
            known.broker_id
            for known in self._image.brokers.values()
            if known.is_staying and known.broker_id != self._process.broker_id
        ]
        if not others:
            return True
        if not self._image.broker(self._process.broker_id).is_shutting_down:
            return False
        return not any(self._is_needed(place, others) for place in self._places())

    def finish(self, *, is_clean: bool) -> None:
        """Go; where everything is flushed, say so on disk first (C10). A log that has failed is not
        flushed, and under `replicated` must not count as if it was (D6)."""

        def written(_now: Moment) -> None:
            self._state = _State.STOPPED
            self._orders.unregister()

        self._state = _State.STOPPING
        clean_epoch = self._format.epoch if is_clean else None
        self._write(replace(self._format, clean_epoch=clean_epoch), written)

    def _places(self) -> Collection[tuple[bytes, int]]:
        return self._image.held.get(self._process.broker_id, {})

    def _is_needed(self, place: tuple[bytes, int], others: Collection[int]) -> bool:
        """Whether it is in an ISR from which another one can take over."""
        isr = self._image.partitions[place].document.isr
        ids = [member.broker_id for member in isr]
        return self._process.broker_id in ids and any(b in others for b in ids)

    def _flag(self, now: Moment) -> None:
        """Say in the store that this run will stop, until it stands there."""
        me = self.me
        is_due = self._flag_pause.is_over(now)
        if not self._is_leaving or me is None or self._is_flagging or not is_due:
            return
        known = self._image.broker(me.broker_id)
        if known.is_shutting_down:
            return
        key = self._keys.broker(me.broker_id)
        document = BrokerDocument(
            broker_epoch=me.broker_epoch, shutting_down=True, cordoned=known.is_cordoned
        )
        if known.flags is not None:
            document = replace(document, extra=known.flags.extra)
        self._is_flagging = True
        self._begin_commit(
            [Put(key, document.encode())],
            [
                If(key, "mod", "==", known.flags_revision),
                If(self._keys.live(me.broker_id), "create", "==", me.broker_epoch),
            ],
            self._flagged,
        )

    def _flagged(self, now: Moment, outcome: Commit | StoreError) -> None:
        self._is_flagging = False
        if isinstance(outcome, StoreError) or not outcome.ok:
            self._flag_pause.fail(now)
        else:
            self._flag_pause.reset()
