"""A broker of which a test keeps things back: messages of other brokers, commits, flushes, news."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from zmqmq.core.broker.events import (
    CommitMetadata,
    Effect,
    Event,
    FlushFiles,
    MetadataChanged,
    MetadataCommitted,
    PeerAnswered,
    PeerAsked,
    Received,
    Register,
    WriteFormat,
)
from zmqmq.core.meta.store import AmbiguousError, Commit, Put
from zmqmq.core.meta.values import (
    PartitionDocument,
)
from zmqmq.sim.broker_host import BrokerHost
from zmqmq.wire.frame import decode_header, decode_reply_header
from zmqmq.wire.peers import PeerApi


class WorstLuck(Random):
    """For a power cut that leaves exactly what was flushed."""

    def random(self) -> float:
        return 0.999_999

    def choice(self, seq: Any) -> Any:
        return seq[0]


class Held:
    """Messages that were on their way and are kept back."""

    def __init__(self, host: DrivenHost, matches: Callable[[Event, int, PeerApi], bool]) -> None:
        self._host = host
        self.matches = matches
        self.messages: list[Event] = []

    def __len__(self) -> int:
        return len(self.messages)

    def deliver(self, *, keep: bool = False) -> None:
        """Let them arrive; with `keep` a copy of each stays here, to arrive again."""
        messages, self.messages = self.messages, self.messages if keep else []
        for message in messages:
            self._host.let_in(message)

    def drop(self) -> None:
        """Lose them."""
        self.messages.clear()

    def end(self) -> None:
        """Keep back nothing more; what was kept back arrives."""
        self._host.gates.remove(self)
        self.deliver()


class HeldEffects:
    """What a broker has sent, and that is kept back."""

    def __init__(self, host: DrivenHost, matches: Callable[[Effect], bool]) -> None:
        self._host = host
        self.matches = matches
        self.effects: list[Effect] = []

    def __len__(self) -> int:
        return len(self.effects)

    def deliver(self, *numbers: int) -> None:
        """Send these, in this order, and any of them as often as it is named; they stay here."""
        for number in numbers:
            self._host.send_after_all(self.effects[number])

    def drop(self) -> None:
        """Lose them."""
        self.effects.clear()

    def end(self) -> None:
        """Keep back nothing more; what was kept back is sent."""
        self._host.held_effects.remove(self)
        self.deliver(*range(len(self)))


class Separation:
    """A follower that its leader cannot reach: what they say is kept back on both ways."""

    def __init__(self, gates: Sequence[Held]) -> None:
        self._gates = gates

    @property
    def messages(self) -> int:
        """How many are kept back."""
        return sum(len(gate) for gate in self._gates)

    def end(self) -> None:
        """What was kept back arrives late."""
        for gate in self._gates:
            gate.end()

    def lose(self) -> None:
        """What was kept back is lost."""
        for gate in self._gates:
            gate.drop()
            gate.end()


class HeldCommit:
    """A commit that a broker has sent, and that has not reached the store."""

    def __init__(self, host: DrivenHost, effect: CommitMetadata) -> None:
        self._host = host
        self._effect = effect
        self.outcome: Commit | None = None

    @property
    def document(self) -> PartitionDocument:
        """What it would write."""
        op = self._effect.ops[0]
        assert isinstance(op, Put)
        return PartitionDocument.decode(op.value)

    def land(self) -> Commit:
        """It reaches the store; the broker hears nothing of it yet."""
        self.outcome = self._host.commit(self._effect)
        return self.outcome

    def answer(self) -> None:
        """The broker hears what became of it."""
        assert self.outcome is not None
        self._host.feed(MetadataCommitted(self._effect.token, self.outcome))

    def time_out(self) -> None:
        """The broker hears nothing, and gives up waiting; it may land yet."""
        error = AmbiguousError("no answer, by order of the test")
        self._host.feed(MetadataCommitted(self._effect.token, error))

    def go(self) -> None:
        """It lands and is answered."""
        self.land()
        self.answer()


class DrivenHost(BrokerHost):
    """A broker of which the test can keep things back."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open_gates()

    def _open_gates(self) -> None:
        self.gates: list[Held] = []
        self.held_effects: list[HeldEffects] = []
        self.is_blind = False
        """Whether it hears nothing of the metadata, but for the answers to its commits."""
        self._unseen: list[MetadataChanged] = []
        self.holds_commits = False
        self.commits: list[HeldCommit] = []
        self.holds_flushes = False
        self._flushes: list[FlushFiles] = []
        self.holds_format = False
        """Whether the file `format` cannot be replaced: it takes for ever."""
        self.is_kept_out = False
        """Whether it may not register."""
        self._registration: Register | None = None

    def start(self) -> None:
        """As ever. From a new process nothing is kept back but what was said while it was down."""
        is_kept_out, holds_flushes = self.is_kept_out, self.holds_flushes
        holds_format = self.holds_format
        self._open_gates()
        self.is_kept_out, self.holds_flushes = is_kept_out, holds_flushes
        self.holds_format = holds_format
        super().start()

    def crash(self, *, power_cut: bool = False) -> None:
        """As ever, with the worst that the end of the power can do to unflushed data."""
        self.node.crash(power_cut=power_cut)
        self.broker = None
        self.is_kept_out = self.holds_flushes = self.holds_format = False
        if power_cut:
            self.disk = self.disk.power_cut(WorstLuck())

    def arrived(self, event: Received | PeerAsked | PeerAnswered) -> None:
        """Keep it back, or let it in."""
        for gate in self.gates:
            if self._is_held(gate, event):
                gate.messages.append(event)
                return
        super().arrived(event)

    def hold_effects(self, matches: Callable[[Effect], bool]) -> HeldEffects:
        """Keep back what is like that from now on."""
        held = HeldEffects(self, matches)
        self.held_effects.append(held)
        return held

    def send_after_all(self, effect: Effect) -> None:
        """What was kept back is sent."""
        super()._do(effect)

    def let_in(self, event: Event) -> None:
        """What was kept back arrives."""
        assert isinstance(event, Received | PeerAsked | PeerAnswered)
        super().arrived(event)

    def commit(self, effect: CommitMetadata) -> Commit:
        """What it has asked for reaches the store."""
        return self._store.commit(effect.ops, effect.ifs)

    def see(self) -> None:
        """It hears what it has missed, and from now on everything."""
        self.is_blind = False
        unseen, self._unseen = self._unseen, []
        for event in unseen:
            super()._feed(event)

    def flush(self) -> None:
        """Flushes that were kept back happen; so do others from now on."""
        self.holds_flushes = False
        flushes, self._flushes = self._flushes, []
        for effect in flushes:
            super()._flush(effect)

    def let_register(self) -> None:
        """It may register again."""
        self.is_kept_out = False
        registration, self._registration = self._registration, None
        if registration is not None:
            super()._do(registration)

    def _is_held(self, gate: Held, event: Event) -> bool:
        if isinstance(event, PeerAsked):
            number, _, _, fields = decode_header(bytes(event.frames[0]))
            return gate.matches(event, int(fields["broker"]), PeerApi(number))
        if isinstance(event, PeerAnswered):
            number, _, _, _ = decode_reply_header(bytes(event.frames[0]))
            return gate.matches(event, event.broker_id, PeerApi(number))
        return False

    def _feed(self, event: Event) -> None:
        if self.is_blind and isinstance(event, MetadataChanged):
            self._unseen.append(event)
        else:
            super()._feed(event)

    def _do(self, effect: Effect) -> None:
        for held in self.held_effects:
            if held.matches(effect):
                held.effects.append(effect)
                return
        if isinstance(effect, CommitMetadata) and self.holds_commits:
            self.commits.append(HeldCommit(self, effect))
        elif isinstance(effect, Register) and self.is_kept_out:
            self._registration = effect
        elif isinstance(effect, WriteFormat) and self.holds_format:
            pass
        else:
            super()._do(effect)

    def _flush(self, effect: FlushFiles) -> None:
        if self.holds_flushes:
            self._flushes.append(effect)
        else:
            super()._flush(effect)
