"""LIST_OFFSETS for any partitions: each asked at its leader, asked again until it knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from zmqmq.client.machines.backoff import Backoff
from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import MS, NEVER, Chance, Failure, Reply
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.routing import MOVED, Routing
from zmqmq.errors import (
    ProtocolError,
    TimedOutError,
    WireError,
    ZmqmqError,
    error_from_wire,
)
from zmqmq.wire.apis import Api

ENTRIES_AT_ONCE = 1_000
"""Partitions in one request: what surely fits a header of 64 KiB."""

At = str | int
"""`"start"`, `"end"` or an append time in ms."""


class Question(NamedTuple):
    """Where in this partition is `at`?"""

    topic: str
    partition: int
    at: At


Answers = Mapping[Question, int | ZmqmqError]
OnAnswers = Callable[[int, Answers], None]


class _Job:
    def __init__(self, questions: Sequence[Question], deadline: int, on_done: OnAnswers) -> None:
        self.open = dict.fromkeys(questions)
        """What is neither answered nor being asked."""
        self.asked_count = 0
        self.answers: dict[Question, int | ZmqmqError] = {}
        self.deadline = deadline
        self.on_done = on_done
        self.not_before = 0


class Lookup:
    """All lookups of a client that are under way."""

    def __init__(self, network: Network, routing: Routing, chance: Chance) -> None:
        self._network = network
        self._routing = routing
        self._chance = chance
        self._backoff = Backoff(chance, longest=1_000 * MS)
        self._jobs: list[_Job] = []

    def ask(
        self, now: int, questions: Sequence[Question], deadline: int, on_done: OnAnswers
    ) -> None:
        """Find out; `on_done` gets an answer or an error for each question, all at once."""
        self._jobs.append(_Job(questions, deadline, on_done))
        for topic in dict.fromkeys(question.topic for question in questions):
            self._routing.want(now, topic)

    def pump(self, now: int) -> bool:
        """Ask what can be asked now, and end what is done or overdue; whether anything ended."""
        has_ended = False
        for job in list(self._jobs):
            if now >= job.deadline:
                for question in job.open:
                    where = f"{question.topic}/{question.partition}"
                    job.answers[question] = TimedOutError(
                        f"LIST_OFFSETS: no leader of {where} answered; {self._network.failures()}"
                    )
                job.open.clear()
            if job.open and now >= job.not_before:
                self._ask_leaders(now, job)
            if not job.open and not job.asked_count:
                self._jobs.remove(job)
                job.on_done(now, job.answers)
                has_ended = True
        return has_ended

    def next_wake(self) -> int:
        """When `pump` has something to do next."""
        return min(
            (min(j.deadline, max(j.not_before, 1) if j.open else NEVER) for j in self._jobs),
            default=NEVER,
        )

    def _ask_leaders(self, now: int, job: _Job) -> None:
        by_leader: dict[Connection, list[Question]] = {}
        job.not_before = now + 50 * MS
        for question in list(job.open):
            refused = self._routing.unknown.get(question.topic)
            if refused is not None:
                del job.open[question]
                job.answers[question] = refused
                continue
            connection = self._routing.to_leader(now, question.topic, question.partition)
            if connection is not None:
                by_leader.setdefault(connection, []).append(question)
        for connection, questions in by_leader.items():
            for at in range(0, len(questions), ENTRIES_AT_ONCE):
                part = questions[at : at + ENTRIES_AT_ONCE]
                for question in part:
                    del job.open[question]
                job.asked_count += 1
                ids = [self._routing.topics[q.topic].id for q in part]
                entries = [(i, q.partition, q.at) for i, q in zip(ids, part, strict=True)]
                connection.request(
                    now,
                    Api.LIST_OFFSETS,
                    {"partitions": entries},
                    (),
                    job.deadline,
                    partial(self._take_answer, job, part, ids, connection),
                )

    def _take_answer(
        self,
        job: _Job,
        part: Sequence[Question],
        ids: Sequence[bytes],
        connection: Connection,
        now: int,
        answer: Reply | Failure,
    ) -> None:
        job.asked_count -= 1
        job.not_before = now
        entries = answer.fields.get("offsets") if isinstance(answer, Reply) else None
        if type(entries) is not list or len(entries) != len(part):
            entries = [None] * len(part)
        for question, topic_id, entry in zip(part, ids, entries, strict=True):
            if type(entry) is list and entry and type(entry[0]) is int:
                job.answers[question] = entry[0]
                self._backoff.reset()
                continue
            error: ZmqmqError = ProtocolError(f"LIST_OFFSETS was answered with {entry!r:.100}")
            if isinstance(entry, dict):
                error = error_from_wire(entry)
            elif isinstance(answer, Failure):
                error = answer.error
            if isinstance(error, WireError) and (error.retriable or error.code in MOVED):
                # Asked again until metadata says for good that there is none, or time is over.
                where = question.topic, topic_id, question.partition
                self._routing.note_error(now, *where, connection, error)
                job.open[question] = None
                job.not_before = now + self._backoff.next_delay()
            else:
                job.answers[question] = error
