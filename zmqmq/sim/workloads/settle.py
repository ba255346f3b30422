"""What comes before and after all: the topics are made; everything that was stored is read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from zmqmq.client.options import ConsumerOptions
from zmqmq.errors import Code, WireError, ZmqmqError
from zmqmq.sim.history import (
    CREATE,
    DRAINED,
    END,
    INFO,
    INVOKE,
    OK,
    START,
    SURVEY,
    Described,
    Drained,
    Log,
)
from zmqmq.sim.workloads.base import SimClient, Stage, type_of
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.wire.apis import Api


class FoundingClient(SimClient):
    """Makes the topics that the others use, one after the other."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        topics: Mapping[str, int],
        replicas: int = 1,
        configs: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        super().__init__(stage, name)
        self._left = dict(topics)
        self._replicas = replicas
        self._configs = configs or {}
        self._is_asking = False

    @property
    def is_idle(self) -> bool:
        """Whether all are there."""
        return not self._left

    def begin(self) -> None:
        """A process has started."""
        self._is_asking = False

    def turn(self) -> None:
        """Ask for the next."""
        if self._left and not self._is_asking:
            topic, partitions = next(iter(self._left.items()))
            config = dict(self._configs.get(topic, {}))
            fields = {
                "topic": topic,
                "partitions": partitions,
                "replicas": self._replicas,
                "config": config,
            }
            asking = Described(topic, partitions, config)
            asked = self.history.invoke(self.name, CREATE, asking)
            self._is_asking = True
            self.host.call(Api.CREATE_TOPIC, fields, partial(self._answered, asked, asking))

    def _answered(self, asked: int, asking: Described, outcome: object) -> None:
        self._is_asking = False
        type_ = type_of(outcome) if isinstance(outcome, ZmqmqError) else OK
        self.history.end(asked, type_, asking)
        if type_ == OK or (isinstance(outcome, WireError) and outcome.code is Code.TOPIC_EXISTS):
            self._left.pop(asking.topic)


class DrainingClient(ConsumingClient):
    """Begins once everything is well again and nobody writes: reads every log from its start to
    the end that its leader tells, then looks at every topic that anybody ever wanted to make."""

    def __init__(self, stage: Stage, name: str, topics: Mapping[str, int]) -> None:
        super().__init__(stage, name, topics, think_ms=50)
        self._ends: dict[Log, int] = {}
        self._asked: dict[Log, None] = {}
        self._drained: dict[Log, None] = {}
        self._is_looking_at_topic = False
        self._unseen: dict[str, str] | None = None
        """Topics to look at yet, name and label; None: not begun."""

    def _draw_options(self) -> ConsumerOptions:
        return ConsumerOptions(auto_commit=False)

    @property
    def is_done(self) -> bool:
        """Whether all has been read and looked at."""
        return self._unseen == {}

    def turn(self) -> None:
        """Find out where each log ends, note those that were read so far, then look at topics."""
        streams = self._consumer.machine.streams
        if self._unseen is not None:
            self._survey()
        elif self._consumer.machine.is_placed and len(self._drained) == len(streams):
            self._unseen = self._labels()
        else:
            for log, position in self._consumer.positions.items():
                if log not in self._asked:
                    self._asked[log] = None
                    self.ask_offset(END, *log, partial(self._end_told, log))
                elif log in self._ends and position >= self._ends[log] and self._consumer.is_dry:
                    end = self._ends.pop(log)
                    self.ask_offset(START, *log, partial(self._start_told, log, end))

    def _end_told(self, log: Log, outcome: int | ZmqmqError) -> None:
        if isinstance(outcome, ZmqmqError):
            del self._asked[log]
        else:
            self._ends[log] = outcome

    def _start_told(self, log: Log, end: int, outcome: int | ZmqmqError) -> None:
        if isinstance(outcome, ZmqmqError):
            self._ends[log] = end
        else:
            # Asked for afterwards: what retention removed meanwhile is not missed.
            self.history.note(self.name, DRAINED, Drained(*log, outcome, end))
            self._drained[log] = None

    def _survey(self) -> None:
        if self._unseen and not self._is_looking_at_topic:
            name, label = next(iter(self._unseen.items()))
            asking = Described(label, 0, {})
            asked = self.history.invoke(self.name, SURVEY, asking)
            self._is_looking_at_topic = True
            fields = {"kind": "topics", "names": [name]}
            self.host.call(Api.DESCRIBE, fields, partial(self._surveyed, asked, name, label))

    def _surveyed(self, asked: int, name: str, label: str, outcome: object) -> None:
        assert self._unseen is not None
        self._is_looking_at_topic = False
        found = Described(label, 0, {})
        if isinstance(outcome, dict):
            (item,) = outcome["items"]
            found = Described(label, len(item["partitions"]), item["config"])
        elif not (isinstance(outcome, WireError) and outcome.code is Code.UNKNOWN_TOPIC):
            self.history.end(asked, INFO, found)
            return
        self.history.end(asked, OK, found)
        del self._unseen[name]

    def _labels(self) -> dict[str, str]:
        """By name, the label of the last topic that somebody wanted to make under it."""
        labels: dict[str, str] = {}
        for entry in self.history.entries:
            if entry.f == CREATE and entry.type == INVOKE:
                label = entry.value.topic
                labels[label.partition("@")[0]] = label
        return labels
