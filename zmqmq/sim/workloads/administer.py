"""An administrator: makes, changes and deletes topics, some of them under old names again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from zmqmq.errors import ZmqmqError, error_from_wire
from zmqmq.sim.history import (
    ALTER,
    CREATE,
    DELETE,
    ELECT,
    MOVE,
    OK,
    Described,
    Moving,
    label_of,
)
from zmqmq.sim.workloads.base import SimClient, Stage, type_of
from zmqmq.wire.apis import Api

TOPICS_MAX = 4
"""Topics that one administrator has at a time."""
PARTITIONS_MAX = 3
GROWN_MAX = 6
"""To how many partitions shared topics may grow."""

LIVE_SETTINGS: Mapping[str, tuple[object, ...]] = {
    "segment_bytes": (4_096, 65_536, 1 << 20),
    "retention_ms": (60_000, 3_600_000),
    "batch_bytes_max": (65_536, 1 << 20),
    "capacity_records": (0, 1_000),
}
SAFETY_SETTINGS: Mapping[str, tuple[object, ...]] = {
    "min_isr": (0, 1, 2),
    "flush": ("fsync", "replicated"),
}


class AdministeringClient(SimClient):
    """Each has topics of its own. `growable` are topics of all that it adds partitions to, up to
    GROWN_MAX; `replicas` are the numbers of replicas that it asks for.

    With `movable`, topics of all and their partitions, it moves those and its own among `brokers`,
    never to fewer than two while there are two, asks for preferred leaders, and changes how safe
    their records are.
    """

    def __init__(
        self,
        stage: Stage,
        name: str,
        think_ms: int = 400,
        *,
        growable: Mapping[str, int] | None = None,
        replicas: tuple[int, ...] = (1,),
        movable: Mapping[str, int] | None = None,
        brokers: Sequence[int] = (),
    ) -> None:
        super().__init__(stage, name, think_ms)
        self._growable = dict(growable or {})
        self._replicas = replicas
        self._movable = dict(movable or {})
        self._brokers = list(brokers)
        self._own: dict[str, int] = {}
        """Names of topics that are there, and their partitions."""
        self._lives: dict[str, int] = {}
        """Names that were deleted, and how often they have been used."""
        self._made = 0
        self._is_asking = False
        self.actions: list[Callable[[], object]] = [
            self._create,
            self._create,
            self._alter,
            self._grow,
            self._delete,
            self._look,
        ]
        if self._brokers:
            self.actions += [self._move, self._move, self._elect, self._secure]
        """One of them is done at each turn. Kinds of work to come are added here."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return super().is_idle or not self._is_asking

    def begin(self) -> None:
        """A process has started. What the last one was about nobody knows: other names."""
        self._is_asking = False
        self._own = {}
        self._lives = {}

    def turn(self) -> None:
        """Do one thing, unless one is under way."""
        if not self._is_asking:
            self.stream.choice(self.actions)()

    # What it does

    def _create(self) -> None:
        if len(self._own) >= TOPICS_MAX:
            return
        reusable = [name for name in self._lives if name not in self._own]
        if reusable and self.stream.randrange(2):
            name = self.stream.choice(reusable)
        else:
            self._made += 1
            name = f"{self.name}.{self._made}"
        partitions = self.stream.randrange(1, PARTITIONS_MAX + 1)
        replicas, config = self.stream.choice(self._replicas), self._draw_config()
        fields = {"topic": name, "partitions": partitions, "replicas": replicas, "config": config}
        label = label_of(name, self._lives.get(name, 0))

        def made(outcome: str) -> None:
            if outcome == OK:
                self._own[name] = partitions
            else:
                self._lives.pop(name, None)

        self._ask(CREATE, Described(label, partitions, config), Api.CREATE_TOPIC, fields, made)

    def _alter(self) -> None:
        if self._own:
            name = self.stream.choice(list(self._own))
            config = self._draw_config()
            fields: dict[str, Any] = {"topic": name, "config": config}
            partitions = 0
            if not config or self.stream.randrange(2):
                partitions = fields["partitions"] = self._own[name] + 1
            asking = Described(label_of(name, self._lives.get(name, 0)), partitions, config)

            def altered(outcome: str) -> None:
                if outcome == OK and partitions:
                    self._own[name] = partitions

            self._ask(ALTER, asking, Api.ALTER_TOPIC, fields, altered)

    def _grow(self) -> None:
        if self._growable:
            name = self.stream.choice(list(self._growable))
            partitions = self._growable[name] + 1
            if partitions <= GROWN_MAX:
                self._growable[name] = partitions
                fields = {"topic": name, "partitions": partitions}
                asking = Described(name, partitions, {})
                self._ask(ALTER, asking, Api.ALTER_TOPIC, fields)

    def _delete(self) -> None:
        if self._own:
            name = self.stream.choice(list(self._own))
            life = self._lives.get(name, 0)
            del self._own[name]
            self._lives.pop(name, None)

            def deleted(outcome: str) -> None:
                if outcome == OK:
                    self._lives[name] = life + 1  # only now may the name be used again

            asking = Described(label_of(name, life), 0, {})
            self._ask(DELETE, asking, Api.DELETE_TOPIC, {"topic": name}, deleted)

    def _move(self) -> None:
        """Move a partition to other brokers, or give up what may be under way."""
        name, label, partition = self._draw_partition()
        if name:
            brokers = None
            if self.stream.randrange(4):
                least = min(2, len(self._brokers))
                count = self.stream.randrange(least, len(self._brokers) + 1)
                brokers = tuple(self.stream.sample(self._brokers, count))
            fields = {"topic": name, "partitions": [(partition, brokers)]}
            self._ask(MOVE, Moving(label, partition, brokers), Api.REASSIGN, fields)

    def _elect(self) -> None:
        """Ask for the preferred leader."""
        name, label, partition = self._draw_partition()
        if name:
            fields = {"topic": name, "kind": "preferred", "partitions": [partition]}
            self._ask(ELECT, Moving(label, partition, None), Api.ELECT, fields)

    def _secure(self) -> None:
        """Change how many replicas must have a record, or whether on their disks."""
        name, label, _ = self._draw_partition()
        if name:
            setting = self.stream.choice(list(SAFETY_SETTINGS))
            config = {setting: self.stream.choice(SAFETY_SETTINGS[setting])}
            fields = {"topic": name, "config": config}
            self._ask(ALTER, Described(label, 0, config), Api.ALTER_TOPIC, fields)

    def _draw_partition(self) -> tuple[str, str, int]:
        """Name and label of a topic, and a partition; no name: there is none."""
        names = [*self._movable, *self._own]
        if not names:
            return "", "", 0
        name = self.stream.choice(names)
        if name in self._movable:
            return name, name, self.stream.randrange(self._movable[name])
        label = label_of(name, self._lives.get(name, 0))
        return name, label, self.stream.randrange(self._own[name])

    def _look(self) -> None:
        """Ask for everything, as monitoring does; what is answered may be a little old."""
        self._is_asking = True
        kind = self.stream.choice(("topics", "groups", "broker", "sessions"))
        self.host.call(Api.DESCRIBE, {"kind": kind}, self._looked)

    # Inside

    def _ask(
        self,
        f: str,
        asking: Described | Moving,
        api: Api,
        fields: dict[str, Any],
        then: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._is_asking = True
        asked = self.history.invoke(self.name, f, asking)
        self.host.call(api, fields, partial(self._answered, asked, asking, then))

    def _answered(
        self,
        asked: int,
        asking: Described | Moving,
        then: Callable[[str], object],
        outcome: object,
    ) -> None:
        self._is_asking = False
        if isinstance(outcome, dict):
            (result,) = outcome.get("results", (None,))
            outcome = outcome if result is None else error_from_wire(result)
        type_ = type_of(outcome) if isinstance(outcome, ZmqmqError) else OK
        self.history.end(asked, type_, asking)
        then(type_)

    def _looked(self, _outcome: object) -> None:
        self._is_asking = False

    def _draw_config(self) -> dict[str, object]:
        names = [name for name in LIVE_SETTINGS if self.stream.randrange(3) == 0]
        return {name: self.stream.choice(LIVE_SETTINGS[name]) for name in names}
