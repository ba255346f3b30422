"""Things with one value at a time: a group's offset, whether a topic exists, its settings.

Of each write is known when it began and ended; *perhaps* ends never, a definite *no* must not
show. A read may return a write that no other write has surely replaced before the read began: one
that began after the first had ended, and ended itself. What a read has returned has happened, so
no later read may return what it replaced. That takes no search, as each value names its write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from zmqmq.sim.checkers.facts import Facts, Violation, name_of
from zmqmq.sim.history import (
    ALTER,
    COMMIT,
    COMMITTED,
    CREATE,
    DELETE,
    FAIL,
    INVOKE,
    OK,
    STORED,
    SURVEY,
    Committing,
    Described,
    Entry,
    Log,
    Resumed,
)

NEVER = 2**63


class _Write:
    __slots__ = ("began", "ended", "is_refused", "seen", "value")

    def __init__(self, value: object, began: int, ended: int) -> None:
        self.value = value
        self.began = began
        self.ended = ended
        self.is_refused = False
        self.seen = -1
        """A read that can have returned nothing else."""


class Register:
    """One thing, and who has written to it."""

    __slots__ = ("_by_asked", "_by_value", "_repeats", "newest")

    def __init__(self, initial: object, *, repeats: bool = False) -> None:
        self._repeats = repeats
        """Whether who was not answered writes again what may have been written already."""
        self.newest = -1
        """When the latest write began that has surely happened."""
        self._by_value: dict[object, list[_Write]] = {initial: [_Write(initial, -1, -1)]}
        self._by_asked: dict[int, _Write] = {}

    def begin(self, index: int, value: object) -> None:
        """A write is asked for."""
        write = self._by_asked[index] = _Write(value, index, NEVER)
        self._by_value.setdefault(value, []).append(write)

    def end(self, asked: int, index: int) -> None:
        """It has happened."""
        write = self._by_asked[asked]
        write.ended = min(write.ended, index)
        self.newest = max(self.newest, asked)

    def refuse(self, asked: int) -> int:
        """It has not happened and never will; the read that says otherwise, or -1."""
        write = self._by_asked[asked]
        write.is_refused = True
        return write.seen

    def may_be(self, newest: int, value: object) -> bool:
        """Whether a read that began when `newest` was the newest may find this."""
        writes = self._by_value.get(value, ())
        return any(w.ended >= newest and not w.is_refused for w in writes)

    def read(self, index: int, newest: int, value: object) -> str | None:
        """A read has ended that began when `newest` was the newest; what is wrong with it."""
        writes = self._by_value.get(value)
        if writes is None:
            return "was never written"
        possible = [w for w in writes if w.ended >= newest and not w.is_refused]
        if not possible:
            is_refused = any(w.ended >= newest for w in writes)
            return "was refused for good" if is_refused else "had been replaced"
        if len(possible) == 1:
            write = possible[0]
            if not self._repeats:
                write.ended = min(write.ended, index)
            write.seen = index
            self.newest = max(self.newest, write.began)
        return None


class Registers:
    """Registers by whatever names them."""

    __slots__ = ("_found", "_initial", "_repeats")

    def __init__(self, initial: object, *, repeats: bool = False) -> None:
        self._found: dict[object, Register] = {}
        self._initial = initial
        self._repeats = repeats

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def __getitem__(self, key: object) -> Register:
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = Register(self._initial, repeats=self._repeats)
        return found

    def write(self, entry: Entry, key: object, value: object) -> int:
        """Take a step of a write in; the read that contradicts it, or -1."""
        if entry.type == INVOKE:
            self[key].begin(entry.number, value)
        elif entry.type == OK:
            self[key].end(entry.asked, entry.number)
        elif entry.type == FAIL:
            return self[key].refuse(entry.asked)
        return -1


def commits_are_kept(facts: Facts) -> Iterator[Violation]:
    """A group's offset is the one that was committed last, and never lost (I19, I20).

    Two members that commit for one partition at a time may undo one another: a commit without an
    answer is sent again, and may have been replaced meanwhile (seed 9639).
    """
    registers = Registers(None, repeats=True)
    newest: dict[tuple[int, Log], int] = {}
    """By read and log: the newest write when the read began."""
    for entry in facts.entries:
        if entry.f == COMMIT:
            asked: Committing = facts.entries[entry.asked].value
            for log, offset in asked.offsets.items():
                seen = registers.write(entry, (asked.group, log), offset)
                if seen >= 0:
                    wrong = "was refused for good"
                    yield _bad_offset(asked.group, log, offset, wrong, (entry.number, seen))
        elif entry.f in (COMMITTED, STORED):
            group, offsets = _read(entry)
            for log, offset in offsets.items():
                register = registers[group, log]
                if entry.type == INVOKE:
                    newest[entry.number, log] = register.newest
                elif entry.type == OK and log[0] not in facts.deleted:
                    since = newest[entry.asked, log]
                    # Whoever begins to read where nothing is committed begins at the start.
                    is_start = offset == 0 or log[0] in facts.allowed.trimmed
                    if entry.f == STORED and is_start and register.may_be(since, None):
                        continue
                    wrong_read = register.read(entry.number, since, offset)
                    if wrong_read:
                        numbers = max(since, 0), entry.asked, entry.number
                        yield _bad_offset(group, log, offset, wrong_read, numbers)


def _read(entry: Entry) -> tuple[str, Mapping[Log, int | None]]:
    value: Committing | Resumed = entry.value
    if isinstance(value, Resumed):
        return value.group, {(value.topic, value.partition): value.offset}
    return value.group, value.offsets


def _bad_offset(
    group: str, log: Log, offset: int | None, wrong: str, entries: tuple[int, ...]
) -> Violation:
    detail = f"group {group!r} has offset {offset}, which {wrong}"
    return Violation("committed offset", name_of(log), detail, entries)


def topics_are_as_ordered(facts: Facts) -> Iterator[Violation]:
    """At the end a topic is there or gone as the last create or delete said, with its settings."""
    registers = Registers(None)
    created: dict[str, int] = {}
    for entry in facts.entries:
        if entry.f in (CREATE, ALTER, DELETE):
            asked: Described = facts.entries[entry.asked].value
            for name, value in _settings(entry.f, asked).items():
                registers.write(entry, (asked.topic, name), value)
            if entry.f == CREATE and entry.type == OK:
                first = created.setdefault(asked.topic, entry.number)
                if first != entry.number:
                    numbers = first, entry.number
                    yield Violation("topic", asked.topic, "it was created twice", numbers)
        elif entry.f == SURVEY and entry.type == OK:
            yield from _survey(entry, registers)


def _survey(entry: Entry, registers: Registers) -> Iterator[Violation]:
    seen: Described = entry.value
    found: dict[str, object] = {"exists": True if seen.partitions else None}
    if seen.partitions:
        found |= {"partitions": seen.partitions, **seen.config}
    for name, value in found.items():
        key = seen.topic, name
        if key in registers or name == "exists":  # otherwise nobody has set it
            register = registers[key]
            wrong = register.read(entry.number, register.newest, value)
            is_default = register.newest < 0 and name in seen.config
            if wrong and not is_default:
                detail = f"{name} is {value!r}, which {wrong}"
                numbers = max(register.newest, 0), entry.number
                yield Violation("topic", seen.topic, detail, numbers)


def _settings(f: str, asked: Described) -> Mapping[str, object]:
    if f == DELETE:
        return {"exists": None}
    settings: dict[str, object] = dict(asked.config)
    if asked.partitions:
        settings["partitions"] = asked.partitions
    if f == CREATE:
        settings["exists"] = True
    return settings
