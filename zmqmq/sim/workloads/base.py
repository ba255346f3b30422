"""A simulated client: a node, the lives of its process, and the pace at which it asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from zmqmq.client.machines.lookup import Question
from zmqmq.errors import OutcomeUnknownError, RefusedError, UsageError, ZmqmqError
from zmqmq.sim.chance import Chance, Stream
from zmqmq.sim.client_host import ClientHost
from zmqmq.sim.history import END, FAIL, INFO, OK, START, History, Position
from zmqmq.sim.loop import Loop
from zmqmq.sim.network import Network
from zmqmq.sim.node import MS, Node

CALM: Final = 3
"""By how much a client thinks longer when it is to be calm."""


class Stage(NamedTuple):
    """Where the clients are."""

    loop: Loop
    network: Network
    chance: Chance
    history: History
    servers: Sequence[str]


class SimClient:
    """Begins with `start`; its node's restart starts it again, under another name."""

    def __init__(self, stage: Stage, name: str, think_ms: int = 100) -> None:
        self.stage = stage
        self.history = stage.history
        self.node = Node(stage.loop, name, stage.chance)
        self.node.on_restart.append(lambda _: self.start())
        self.stream: Stream = stage.chance.stream(f"client/{name}")
        self.life = 0
        self.name = name
        """Of this life."""
        self.host: ClientHost
        self.is_stopping = False
        self._think = 2 * think_ms * MS
        self._request_timeout_ms = self.stream.choice((1_000, 3_000, 10_000))

    # For whoever directs the play

    def start(self) -> None:
        """Begin a life."""
        self.life += 1
        self.name = f"{self.node.name}.{self.life}"
        self.host = ClientHost(
            self.node,
            self.stage.network,
            self._shuffled_servers(),
            self.name,
            self.stage.chance.stream(f"client/{self.node.name}/machines"),
            self._request_timeout_ms,
        )
        self.begin()
        self.later(self._turn)

    def calm(self) -> None:
        """Do less from now on, so that those who are behind can catch up."""
        self._think *= CALM

    def stop(self) -> None:
        """Begin nothing more; what is under way goes on until `is_idle`."""
        self.is_stopping = True

    @property
    def is_idle(self) -> bool:
        """Whether everything it has asked for has an outcome, or never will."""
        return not self.node.is_up

    # For each kind of client

    def begin(self) -> None:
        """A process has started."""

    def turn(self) -> None:
        """Do one thing."""

    def later(self, action: Callable[[], object]) -> None:
        """Do something when some time has been spent on thinking."""
        think = self.stream.randrange(MS, self._think)
        self.node.call_at(self.node.monotonic_ns() + think, action)

    def _turn(self) -> None:
        if not self.is_stopping:
            self.turn()
            self.later(self._turn)

    def _shuffled_servers(self) -> list[str]:
        servers = list(self.stage.servers)
        self.stream.shuffle(servers)
        return servers

    # What several kinds do

    def ask_offset(
        self, f: str, topic: str, partition: int, then: Callable[[int | ZmqmqError], object]
    ) -> None:
        """Ask where a log ends (f is END) or starts."""
        assert f in (END, START)
        history, asking = self.history, Position(topic, partition, -1)
        asked = history.invoke(self.name, f, asking)
        question = Question(topic, partition, f)

        def answered(outcome: dict[Question, int] | ZmqmqError) -> None:
            if isinstance(outcome, ZmqmqError):
                history.end(asked, type_of(outcome), asking)
                then(outcome)
            else:
                offset = outcome[question]
                history.end(asked, OK, Position(topic, partition, offset))
                then(offset)

        self.host.list_offsets([question], answered)


def type_of(error: ZmqmqError) -> str:
    """What an error means for the history: a definite no, or *perhaps*."""
    return FAIL if isinstance(error, RefusedError | UsageError) else INFO


def is_no_answer(error: ZmqmqError) -> bool:
    """Whether it only says that nobody could answer in time."""
    return isinstance(error, OutcomeUnknownError) or error.retriable
