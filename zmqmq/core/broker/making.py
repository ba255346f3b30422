"""Topics are made, grown and removed in as many commits as their partitions need.

The document of a topic says `creating` from the first commit to the last, or `deleting`, and who is
at it: so what a crash or an outage of the store leaves half done is found, and removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.metadata import Commits, Step, Then, store_refusal
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.control.image import Image, KnownTopic
from zmqmq.core.control.placement import candidates, default_replicas, place_replicas
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, Delete, If, Op, Put, StoreError, UnavailableError
from zmqmq.core.meta.values import (
    PartitionDocument,
    TopicDocument,
    TopicNameDocument,
    TopicState,
)
from zmqmq.errors import Code, WireError, refusal
from zmqmq.model.limits import BATCH_BYTES_MAX
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.model.now import Now
from zmqmq.model.topics import TopicConfig

LOOK_NS: Final = 10**9
"""How often to look for what was left half done."""

OFFSETS_CONFIG: Final[Mapping[str, int | str]] = {
    "cleanup": "compact",
    "segment_bytes": 4 * 1024 * 1024,
    "retention_ms": 0,
    "retention_bytes": 0,
    "capacity_bytes": 0,
    "capacity_records": 0,
    "batch_bytes_max": BATCH_BYTES_MAX,
}
"""Whatever the defaults for topics are: no limit of theirs may refuse or drop a position."""


Made = Callable[[bytes, int | WireError], None]
"""Told the id of a topic, and the revision as of which it is ready, or why it is not."""


class Making:
    """What this broker does to topics just now."""

    def __init__(
        self,
        image: Image,
        commits: Commits,
        identity: Identity,
        keys: KeySpace,
        options: ServingOptions,
        topic_defaults: TopicConfig,
        draw_id: Callable[[], bytes],
    ) -> None:
        self._image = image
        self._commits = commits
        self._identity = identity
        self._keys = keys
        self._options = options
        self._defaults = topic_defaults
        self._draw_id = draw_id
        self._under_way: dict[bytes, None] = {}
        """Topics that are being made or removed."""
        self._is_making_own = False
        self._look_ns = 0

    def tick(self, now: Now) -> None:
        """Go on with what the store let this broker down in."""
        if now.ns < self._look_ns:
            return
        self._look_ns = now.ns + LOOK_NS
        for topic_id in self._image.topics:
            self.finish_removal(topic_id)
        if self._identity.is_alone and self._identity.epoch:
            self.make_own()

    def finish_removal(self, topic_id: bytes) -> None:
        """Remove a topic that this broker has begun to make or to remove, and has given up.

        What others leave behind when they go, the controller marks as if its broker had made it.
        """
        if self.is_given_up(topic_id):
            known = self._image.topics[topic_id]
            self.remove(topic_id, known, lambda _now, _outcome: None)

    def is_under_way(self, topic_id: bytes) -> bool:
        """Whether this broker makes or removes a topic."""
        return topic_id in self._under_way

    def is_given_up(self, topic_id: bytes) -> bool:
        """Whether it was at it, and the store has let it down."""
        known = self._image.topics.get(topic_id)
        return (
            known is not None
            and known.document.state != "ready"
            and known.document.maker == self._me
            and topic_id not in self._under_way
        )

    def make_own(self) -> None:
        """Make the topic of committed offsets, unless it is there or being made."""
        if OFFSETS_TOPIC in self._image.names or self._is_making_own or not self._identity.epoch:
            return
        brokers = len(candidates(self._image))
        if brokers < self._options.offsets_replicas or not brokers:
            return  # some of those that it is to be on are not up yet
        self._is_making_own = True
        replicas = self._options.offsets_replicas or default_replicas(brokers)
        config = self._defaults.changed(OFFSETS_CONFIG)
        count, overrides = self._options.offsets_partitions, dict(OFFSETS_CONFIG)

        def made(_topic_id: bytes, _outcome: int | WireError) -> None:
            self._is_making_own = False

        self.make(OFFSETS_TOPIC, count, replicas, overrides, config, made)

    @property
    def _me(self) -> Member:
        return Member(self._identity.broker_id, self._identity.epoch)

    def make(
        self,
        name: str,
        partitions: int,
        replicas: int,
        overrides: dict[str, int | str],
        config: TopicConfig,
        then: Made,
    ) -> None:
        """Make a topic of these settings, of which `config` is what they come to."""
        topic_id = self._draw_id()
        self._under_way[topic_id] = None
        key = self._keys.topic(topic_id)

        def document(state: TopicState) -> Put:
            return Put(
                key,
                TopicDocument(
                    name=name,
                    topic_id=topic_id,
                    partitions=partitions,
                    replicas=replicas,
                    config=overrides,
                    state=state,
                    maker=None if state == "ready" else self._me,
                ).encode(),
            )

        def end(outcome: int | WireError) -> None:
            del self._under_way[topic_id]
            then(topic_id, outcome)

        def made(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                end(store_refusal(outcome))
            else:
                end(outcome.revision if outcome.ok else self._refused(name, outcome))

        def named(now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, Commit) and outcome.ok:
                # From here on only while nobody else has taken it over.
                mine = (If(key, "mod", "==", outcome.revision),)
                steps = self._partition_steps(topic_id, range(partitions), config, replicas)
                if steps is None:
                    made(now, UnavailableError("too few brokers are up"))
                    return
                all_steps = [(op, (*conditions, *mine)) for op, conditions in steps]
                self._commits.begin_all([*all_steps, (document("ready"), mine)], made)
            elif isinstance(outcome, Commit):
                end(refusal(Code.TOPIC_EXISTS, f"topic {name!r} exists already"))
            else:
                made(now, outcome)

        name_key = self._keys.topic_name(name)
        claim = Put(name_key, TopicNameDocument(topic_id=topic_id).encode())
        self._commits.begin([document("creating"), claim], [If(name_key, "create", "==", 0)], named)

    def grow(
        self,
        after: TopicDocument,
        revision: int,
        numbers: Sequence[int],
        config: TopicConfig,
        then: Then,
    ) -> None:
        """Add these partitions to a topic whose document is of this revision, and change it.

        Raises refusal(INVALID_CONFIG).
        """
        steps = self._partition_steps(after.topic_id, numbers, config, after.replicas)
        if steps is None:
            raise refusal(
                Code.INVALID_CONFIG,
                f"topic {after.name!r} has {after.replicas} replicas, and too few brokers can take "
                "one",
            )
        key = self._keys.topic(after.topic_id)
        unchanged = (If(key, "mod", "==", revision),)
        all_steps = [(op, (*conditions, *unchanged)) for op, conditions in steps]
        self._commits.begin_all([*all_steps, (Put(key, after.encode()), unchanged)], then)

    def remove(self, topic_id: bytes, known: KnownTopic, then: Then) -> None:
        """Mark it, remove its partitions, then itself; whoever finds the mark can go on."""
        self._under_way[topic_id] = None
        key = self._keys.topic(topic_id)
        marked = replace(known.document, state="deleting", maker=self._me)
        name = known.document.name

        def ended(now: Now, outcome: Commit | StoreError) -> None:
            self._under_way.pop(topic_id, None)
            then(now, outcome)

        def go_on(now: Now, outcome: Commit | StoreError) -> None:
            if not isinstance(outcome, Commit) or not outcome.ok:
                ended(now, outcome)
                return
            mine = (If(key, "mod", "==", outcome.revision),)
            numbers = sorted({*range(marked.partitions), *self._image.numbers.get(topic_id, ())})
            steps: list[Step] = [(Delete(self._keys.partition(topic_id, n)), mine) for n in numbers]

            def gone(later: Now, _end: Commit | StoreError) -> None:
                # Once it is marked nobody can keep it, whoever goes on with the removal.
                ended(later, outcome)

            self._commits.begin_all([*steps, (Delete(key), mine)], gone)

        ops: list[Op] = [Put(key, marked.encode())]
        if self._image.names.get(name) == topic_id:
            ops.append(Delete(self._keys.topic_name(name)))
        self._commits.begin(ops, [If(key, "mod", "==", known.revision)], go_on)

    def _refused(self, name: str, outcome: Commit) -> WireError:
        live = self._keys.live_prefix
        known = {self._keys.live(i): k.epoch for i, k in self._image.brokers.items()}
        for key, kv in outcome.current.items():
            if key.startswith(live) and (kv.create_revision if kv else None) != known.get(key):
                return refusal(
                    Code.COORDINATOR_LOADING,
                    f"a broker that was to have replicas of {name!r} has gone meanwhile; try again",
                    {"retry_after_ms": LOOK_NS // 1_000_000},
                )
        return changed_meanwhile(name)

    def _partition_steps(
        self, topic_id: bytes, numbers: Sequence[int], config: TopicConfig, replicas: int
    ) -> list[Step] | None:
        """The documents of new partitions; None if there are too few brokers just now.

        All that are chosen are in the ISR from the beginning: there is nothing yet that they could
        lack. That one of them goes before it hears of it is for the controller, as always (C3).
        """
        if not numbers:
            return []  # settings can be changed whoever is up
        if len(candidates(self._image)) < replicas:
            return None
        brokers = place_replicas(self._image, topic_id, numbers, replicas)
        steps: list[Step] = []
        for number, chosen in zip(numbers, brokers, strict=True):
            isr = tuple(Member(i, self._image.broker(i).epoch or 0) for i in chosen)
            document = PartitionDocument(
                replicas=tuple(chosen),
                adding=(),
                removing=(),
                leader=isr[0],
                leader_epoch=1,
                isr=isr,
                elr=(),
                last_leader=None,
                min_isr=config.min_isr or max(replicas - 1, 1),
                recovering=False,
                rec=0,
                write_id=f"{self._identity.broker_id}.{self._identity.epoch}",
                flush="fsync" if config.flush == "fsync" else "replicated",
            )
            key = self._keys.partition(topic_id, number)
            # Of the runs that are named: one that is over may have lost its directory since.
            live = tuple(
                If(self._keys.live(m.broker_id), "create", "==", m.broker_epoch) for m in isr
            )
            steps.append((Put(key, document.encode()), (If(key, "create", "==", 0), *live)))
        return steps


def changed_meanwhile(name: str) -> WireError:
    """Somebody else was faster."""
    return refusal(Code.CONFLICT, f"topic {name!r} was changed meanwhile; try again")
