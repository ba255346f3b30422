"""The controller: keeps every partition's document as the rules want it (C1-C10, D6-D8, D11).

Every broker has this machine; the one that holds the key acts. It looks at all partitions when it
takes office and then at those that something has happened to, so that a new controller needs
nothing from the one before it (C2). What it writes is guarded by the version of each document, by
the registrations that the decision rests on and by its office: being late, or deposed, costs a
failed commit.

    image -> dirty partitions -> settle -> commits of up to 100 -> image
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from zmqmq.core.control.campaign import Campaign
from zmqmq.core.control.commits import OPERATIONS_PER_COMMIT, Begin, Moment, Pause
from zmqmq.core.control.elections import (
    Report,
    guards,
    preferred,
    preferred_or_refused,
    settle,
    wishes_of,
)
from zmqmq.core.control.finishing import Finishing
from zmqmq.core.control.image import (
    BrokerChange,
    Change,
    Image,
    KnownPartition,
    PartitionChange,
    TopicChange,
)
from zmqmq.core.control.reassignment import begun, cancelled
from zmqmq.core.control.recoveries import AskReport, Recoveries
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import (
    OPERATIONS_MAX,
    AmbiguousError,
    Commit,
    If,
    Op,
    Put,
    StoreError,
)
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.vouching import Place
from zmqmq.errors import Code, WireError, refusal

COMMITS_MAX: Final = 4
"""Under way at a time."""
PREFER_EVERY_NS: Final = 10 * 10**9
PREFER_MAX: Final = 50
"""Partitions that get their preferred leader back each time (C8)."""

Edit = Callable[[PartitionDocument], PartitionDocument]
Answer = Callable[[Moment, WireError | None], None]


class Loss(NamedTuple):
    """A partition was given a leader that may lack acknowledged records (C7, D8)."""

    place: Place
    leader_epoch: int
    """What was acknowledged in earlier ones may be lost."""
    code: str
    """`recovery`: the longest log of all last members leads; `unclean`: by order of an operator."""


class _Step(NamedTuple):
    """A document to be written."""

    place: Place
    before: KnownPartition
    after: PartitionDocument
    guards: tuple[Member, ...]


class _Wish:
    """What an operator has asked for."""

    __slots__ = ("edit", "is_perhaps", "then")

    def __init__(self, edit: Edit, then: Answer) -> None:
        self.edit = edit
        self.then = then
        self.is_perhaps = False
        """Whether a commit of it may have been applied."""

    def refuse(self, now: Moment, error: WireError) -> None:
        """Nobody goes on with it."""
        if self.is_perhaps:
            error = refusal(Code.TIMED_OUT, f"it may have been done; {error.detail}")
        self.then(now, error)


class _Term:
    """What belongs to one controller epoch, and is dropped with it."""

    def __init__(self, epoch: int, recoveries: Recoveries, finishing: Finishing) -> None:
        self.epoch = epoch
        self.recoveries = recoveries
        self.finishing = finishing
        self.dirty: OrderedDict[Place, None] = OrderedDict()
        self.alone: OrderedDict[Place, None] = OrderedDict()
        """Those whose next commit is theirs alone: one in a batch has failed."""
        self.busy: dict[Place, bool] = {}
        """Those in a commit; whether something has happened to them since."""
        self.parked: dict[Place, int] = {}
        """Those whose commit was refused for a reason that the image shows at this revision."""
        self.ahead: dict[Place, KnownPartition] = {}
        """What commits have shown, as long as the image is older."""
        self.astray: dict[Place, None] = {}
        """Those that their first replica does not lead."""
        self.preferring: dict[Place, None] = {}
        self.edits: dict[Place, _Wish] = {}
        """What operators have asked for."""
        self.commits = 0
        self.prefer_ns = 0
        self.pause = Pause()

    def mark(self, place: Place) -> None:
        """Look at a partition, as soon as it is in no commit."""
        if place in self.busy:
            self.busy[place] = True
        elif place not in self.alone:
            self.dirty[place] = None


class Controller:
    """Lives as long as its broker; acts while it is in office."""

    def __init__(
        self,
        broker_id: int,
        keys: KeySpace,
        image: Image,
        begin: Begin,
        ask_report: AskReport,
        unclean_wait_ns: int,
    ) -> None:
        self._unclean_wait_ns = unclean_wait_ns
        self._keys = keys
        self._image = image
        self._begin = begin
        self._ask_report = ask_report
        self._campaign = Campaign(broker_id, keys, image, begin)
        self._term: _Term | None = None
        self._writes = 0
        self.losses: list[Loss] = []
        """For whoever tells people; taken from here."""

    @property
    def is_active(self) -> bool:
        """Whether this broker is the controller, as far as it knows."""
        return self._term is not None

    def registered(self, now: Moment, me: Member) -> None:
        """This run of the broker has a live key, and its data directory knows of it."""
        self._campaign.me = me
        self.changed(now, ())

    def unregistered(self, now: Moment) -> None:
        """The live key is gone, and with it the office."""
        self._campaign.me = None
        self.changed(now, ())

    def changed(self, now: Moment, changes: Sequence[Change]) -> None:
        """The image has moved on; called for every batch, also one without changes."""
        self._campaign.run(now)
        epoch = self._campaign.epoch
        if self._term is None or self._term.epoch != epoch:
            self._new_term(now, epoch)
        term = self._term
        if term is None:
            return
        for change in changes:
            self._note(term, change)
        if term.parked:
            for place, revision in tuple(term.parked.items()):
                if self._image.revision >= revision:
                    del term.parked[place]
                    term.mark(place)
        self._run(now, term)

    def tick(self, now: Moment) -> None:
        """Time went by."""
        term = self._term
        if term is not None:
            for place in term.recoveries.due(now):
                term.mark(place)
            self._prefer(now, term)
        self.changed(now, ())

    @property
    def next_ns(self) -> int | None:
        """When to call `tick`."""
        times = [self._campaign.pause.until_ns]
        term = self._term
        if term is not None:
            times.append(term.recoveries.look_ns)
            times.append(term.prefer_ns if term.astray else None)
            times.append(term.pause.until_ns if term.dirty or term.alone else None)
            times.append(term.finishing.pause.until_ns)
        return min((time for time in times if time is not None), default=None)

    def handle_report(self, now: Moment, report: Report) -> None:
        """A replica says what it has of a partition that nobody leads."""
        term = self._term
        if term is not None and term.recoveries.take(report):
            term.mark(report.place)
            self._run(now, term)

    # What operators ask for, and what evidence shows. Without an office wishes are refused.

    def allow_unclean(self, now: Moment, place: Place) -> bool:
        """Elect whoever has most if nobody who has everything can lead (C7); False: not in office.

        Lasts until the partition is led, or the office ends.
        """
        term = self._term
        if term is None:
            return False
        term.recoveries.allow(place)
        term.mark(place)
        self._run(now, term)
        return True

    def convict(self, now: Moment, member: Member) -> None:
        """There is evidence that this run of a broker has failed: fence it (D11), if we may.

        Tried once: as long as the evidence stands, we are told again. Without an office only who
        has one can be fenced: or nobody would fence the controller.
        """
        if self._term is not None:
            self._term.finishing.fence(now, member)
        else:
            self._campaign.depose(now, member)

    def reassign(self, now: Moment, place: Place, target: tuple[int, ...], then: Answer) -> None:
        """Move a partition to these brokers (C9); `then` is told that it has begun."""
        known = self._image.partitions.get(place)
        replicas = () if known is None else known.document.replicas
        away = [b for b in target if b not in replicas and self._image.broker(b).live is None]
        if away:
            then(now, refusal(Code.INVALID_CONFIG, f"broker(s) {away} are not there"))
            return
        self._edit(now, place, lambda document: begun(document, target), then)

    def cancel_reassignment(self, now: Moment, place: Place, then: Answer) -> None:
        """Go back to the replicas that there were (C9)."""
        self._edit(now, place, cancelled, then)

    def prefer(self, now: Moment, place: Place, then: Answer) -> None:
        """Let the first replica lead, if it could at once (C8); `then` is told when it does."""
        self._edit(now, place, lambda d: preferred_or_refused(d, self._image.brokers), then)

    def _edit(self, now: Moment, place: Place, edit: Edit, then: Answer) -> None:
        term = self._term
        if term is None:
            then(now, refusal(Code.NOT_LEADER, "this broker is not the controller"))
        elif place not in self._image.partitions:
            then(now, refusal(Code.UNKNOWN_PARTITION, "there is no such partition"))
        elif place in term.edits:
            then(now, refusal(Code.CONFLICT, "the partition is being changed already; try again"))
        else:
            term.edits[place] = _Wish(edit, then)
            term.mark(place)
            self._run(now, term)

    # Dirty partitions

    def _new_term(self, now: Moment, epoch: int | None) -> None:
        old, self._term = self._term, None
        if old is not None:
            for place, wish in old.edits.items():
                wish.is_perhaps |= place in old.busy
                wish.refuse(now, refusal(Code.NOT_LEADER, "this broker is the controller no more"))
        if epoch is None:
            return
        recoveries = Recoveries(self._ask_report, self._unclean_wait_ns)
        finishing = Finishing(self._campaign, self._keys, self._image, self._begin)
        term = self._term = _Term(epoch, recoveries, finishing)
        term.prefer_ns = now.ns + PREFER_EVERY_NS
        for place, known in self._image.partitions.items():
            term.dirty[place] = None
            _note_astray(term, place, known)

    def _note(self, term: _Term, change: Change) -> None:
        match change:
            case BrokerChange(broker_id):
                for place in self._image.held.get(broker_id, ()):
                    term.mark(place)
            case TopicChange(topic_id, _, after):
                term.finishing.topic_changed(topic_id, after)
                for number in self._image.numbers.get(topic_id, ()):
                    term.mark((topic_id, number))
            case PartitionChange(place, before, known):
                ahead = term.ahead.get(place)
                if ahead is not None and (known is None or known.revision >= ahead.revision):
                    del term.ahead[place]
                _note_astray(term, place, known)
                self._note_loss(place, before, known)
                term.mark(place)
            case _:
                pass

    def _note_loss(
        self, place: Place, before: KnownPartition | None, after: KnownPartition | None
    ) -> None:
        # Read from the image, so that a commit whose answer was lost is told too.
        if before is None or after is None or after.document.rec <= before.document.rec:
            return
        code = "unclean" if after.document.recovering else "recovery"
        self.losses.append(Loss(place, after.document.rec, code))

    def _prefer(self, now: Moment, term: _Term) -> None:
        if now.ns < term.prefer_ns:
            return
        term.prefer_ns = now.ns + PREFER_EVERY_NS
        for place in term.astray:
            known = self._image.partitions[place]
            if preferred(known.document, self._image.brokers) is not None:
                term.preferring[place] = None
                term.mark(place)
                if len(term.preferring) >= PREFER_MAX:
                    return

    def _run(self, now: Moment, term: _Term) -> None:
        term.finishing.run(now)
        while term.pause.is_over(now) and term.commits < COMMITS_MAX:
            steps = self._gather(now, term)
            if not steps:
                return
            self._send(term, steps)

    def _gather(self, now: Moment, term: _Term) -> list[_Step]:
        """What goes into the next commit."""
        while term.alone:
            step = self._next(now, term, term.alone.popitem(last=False)[0])
            if step is not None:
                return [step]
        steps: list[_Step] = []
        live: dict[Member, None] = {}
        while term.dirty and len(steps) < OPERATIONS_PER_COMMIT:
            place = next(iter(term.dirty))
            step = self._next(now, term, place)
            if step is not None:
                live |= dict.fromkeys(step.guards)
                if 1 + len(live) + len(steps) + 1 > OPERATIONS_MAX and steps:
                    break  # it stays for the next one
                steps.append(step)
            term.dirty.pop(place, None)
        return steps

    def _next(self, now: Moment, term: _Term, place: Place) -> _Step | None:
        topic = self._image.topics.get(place[0])
        before = _newest(term, self._image, place)
        if topic is None or topic.document.state != "ready" or before is None:
            self._answer(now, term, place, refusal(Code.UNKNOWN_TOPIC, "the topic is gone"))
            term.recoveries.forget(place)
            return None
        document, brokers = before.document, self._image.brokers
        wishes = wishes_of(topic)
        changed = None
        if place in term.edits:
            try:
                changed = term.edits[place].edit(document)
            except WireError as error:
                self._answer(now, term, place, error)
        after = settle(document, place, wishes, brokers, changed)
        if document.leader is not None:
            term.recoveries.forget(place)
        elif after is None:
            after = term.recoveries.next(now, place, document, wishes, brokers)
        if after is None and place in term.preferring:
            after = preferred(document, brokers)
        if after is None:
            term.preferring.pop(place, None)
            self._answer(now, term, place, None)
            return None
        return _Step(place, before, after, guards(document, after, brokers))

    def _answer(self, now: Moment, term: _Term, place: Place, error: WireError | None) -> None:
        wish = term.edits.pop(place, None)
        if wish is not None and error is not None:
            wish.refuse(now, error)
        elif wish is not None:
            wish.then(now, None)

    def _send(self, term: _Term, steps: Sequence[_Step]) -> None:
        self._writes += 1
        me = self._campaign.me
        assert me is not None, "only a registered broker is in office"
        write_id = f"{me.broker_id}.{me.broker_epoch}.{self._writes}"
        ops: list[Op] = []
        conditions = [self._campaign.condition]
        conditions += self._live_conditions(step.guards for step in steps)
        for step in steps:
            key = self._keys.partition(*step.place)
            ops.append(Put(key, replace(step.after, write_id=write_id).encode()))
            conditions.append(If(key, "mod", "==", step.before.revision))
            term.busy[step.place] = False
        term.commits += 1

        def answered(now: Moment, outcome: Commit | StoreError) -> None:
            if self._term is term:
                self._answered(now, term, steps, outcome)

        self._begin(ops, conditions, answered)

    def _live_conditions(self, members: Iterable[Sequence[Member]]) -> list[If]:
        once = dict.fromkeys(member for some in members for member in some)
        return [If(self._keys.live(m.broker_id), "create", "==", m.broker_epoch) for m in once]

    def _answered(
        self, now: Moment, term: _Term, steps: Sequence[_Step], outcome: Commit | StoreError
    ) -> None:
        term.commits -= 1
        for step in steps:
            if term.busy.pop(step.place):
                term.dirty[step.place] = None
        if isinstance(outcome, StoreError):
            # Also when it may have been applied, or may yet be: the next attempt has the same
            # guard, so that only one of the two can win, and shows which (L9).
            term.pause.fail(now)
            for step in steps:
                term.mark(step.place)
                if isinstance(outcome, AmbiguousError) and step.place in term.edits:
                    term.edits[step.place].is_perhaps = True
        else:
            term.pause.reset()
            if outcome.ok:
                for step in steps:
                    self._learn(term, step.place, KnownPartition(step.after, outcome.revision))
                    term.preferring.pop(step.place, None)
                    self._answer(now, term, step.place, None)
            elif len(steps) > 1:
                for step in steps:
                    term.dirty.pop(step.place, None)
                    term.alone[step.place] = None
            else:
                self._refused(term, steps[0], outcome)
        self._run(now, term)

    def _refused(self, term: _Term, step: _Step, outcome: Commit) -> None:
        """Take what the store has for the truth, where it is newer; else wait for the image."""
        place = step.place
        kv = outcome.current[self._keys.partition(*place)]
        if kv is not None and kv.mod_revision > step.before.revision:
            document = PartitionDocument.decode(kv.value)
            self._learn(term, place, KnownPartition(document, kv.mod_revision))
            term.mark(place)
        else:
            term.parked[place] = outcome.revision

    def _learn(self, term: _Term, place: Place, known: KnownPartition) -> None:
        """A commit has shown a document; events come in any order, so the image may know it."""
        shown = self._image.partitions.get(place)
        if shown is not None and shown.revision < known.revision:
            term.ahead[place] = known


def _newest(term: _Term, image: Image, place: Place) -> KnownPartition | None:
    known, ahead = image.partitions.get(place), term.ahead.get(place)
    if known is not None and ahead is not None and ahead.revision > known.revision:
        return ahead
    return known


def _note_astray(term: _Term, place: Place, known: KnownPartition | None) -> None:
    leader = None if known is None else known.document.leader
    if known is None or leader is None or leader.broker_id == known.document.replicas[0]:
        term.astray.pop(place, None)
    else:
        term.astray[place] = None
