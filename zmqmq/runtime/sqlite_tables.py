"""The metadata store's tables in one SQLite file: the synchronous half of sqlite_store.py.

Everything here runs in the one thread that made it, and nothing knows of time or of asyncio.
The caller opens a transaction around whatever changes something (`begin`, `end`, `undo`), so that
it can put several commits under one flush.

Three tables: `kv` is what stands now; `log` has each change with what stood before, for watches
and for reading at an older revision, until `compact`; `lease` has who is granted how long.

- WAL with synchronous=FULL: a commit is one write and one flush of the log file.
- One process: an exclusive flock on the file, which the kernel drops when the process dies.
  Of SQLite's own locks one is held all the time too, so it needs no shared memory beside the file.
- The flock is SQLite's file, opened a second time. That closing such a descriptor drops SQLite's
  own POSIX locks of this process does no harm: the flock is still there.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack
from crc32c import crc32c

from zmqmq.core.meta.store import (
    KV,
    Batch,
    Commit,
    CompactedError,
    Delete,
    Event,
    If,
    LeaseGoneError,
    Op,
    Put,
    Snapshot,
    UnavailableError,
    deleted,
    holds,
    prefix_end,
)
from zmqmq.errors import CorruptDataError, DirectoryError

FORMAT: Final = 1
APPLICATION_ID: Final = 0x7A716D71
"""Says in the file's header that it is ours ("zqmq")."""
PAGE_BYTES_MAX: Final = 1024 * 1024
"""A page of events ends with the revision that reaches this many bytes of values."""
PAGE_BATCHES_MAX: Final = 256

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB, crc INT) WITHOUT ROWID",
    "CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB, created INT, modified INT, version INT,"
    " lease INT, crc INT) WITHOUT ROWID",
    "CREATE INDEX kv_lease ON kv (lease) WHERE lease != 0",
    "CREATE TABLE log (revision INT, number INT, key BLOB, value BLOB, created INT, version INT,"
    " lease INT, old_value BLOB, old_created INT, old_modified INT, old_version INT,"
    " old_lease INT, crc INT, PRIMARY KEY (revision, number)) WITHOUT ROWID",
    "CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl_s REAL, crc INT)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
_TABLES = ("meta", "kv", "log", "lease")
_COLUMNS = "key, value, created, modified, version, lease"


@dataclass(frozen=True, slots=True)
class EventPage:
    """The next events of a watch."""

    batches: tuple[Batch, ...]
    next_revision: int
    """Where the next page begins: all events before it are in this page or an earlier one."""
    is_last: bool
    """Whether there was nothing behind it yet."""


class SqliteTables:
    """The open file. Owned by one thread from construction to `close`."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it; its directory has to exist.

        Raises DirectoryError if another process (or store) has it, or it is not ours or newer;
        CorruptDataError if SQLite cannot read it; UnavailableError if the system refuses.
        """
        self._path = path
        self._lock = _lock(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            os.close(self._lock)
            raise translated(error, f"cannot open {path}") from error
        except UnicodeDecodeError as error:  # SQLite quotes names out of a damaged schema
            os.close(self._lock)
            raise CorruptDataError(f"{path} is damaged: restore it from a backup") from error
        except BaseException:
            os.close(self._lock)
            raise

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        if self._pragma("application_id") != APPLICATION_ID:
            if self._one("SELECT count(*) FROM sqlite_master") != 0:
                raise DirectoryError(f"{self._path} is an SQLite file, but not a metadata store")
            self._create()
        version = self._pragma("user_version")
        if version != FORMAT:
            raise DirectoryError(f"{self._path} has format {version}; this zmqmq reads {FORMAT}")
        self._set_modes()
        self._check()
        self.revision = self._number("revision")
        """The revision of the newest commit, also of one under way."""
        self.compacted = self._number("compacted")
        self.cluster_id = str(self._one("SELECT value FROM meta WHERE name = 'cluster_id'"))
        self._saved = (self.revision, self.compacted)

    def _check(self) -> None:
        """Raise CorruptDataError unless all is as it was written.

        SQLite has no checksums of its own outside its log: a flipped bit in a value would be
        served. Metadata is small, so all of it is looked at once, when the file is opened.
        """
        found = self._one("PRAGMA quick_check(1)")
        if found != "ok":
            raise CorruptDataError(f"{self._path} is damaged: {found}; restore it from a backup")
        for table in _TABLES:
            for row in self._db.execute(f"SELECT * FROM {table}"):  # noqa: S608
                if _sealed(row[:-1]) != row:
                    raise CorruptDataError(
                        f"{self._path} is damaged: a row of {table!r} does not have its checksum; "
                        "restore it from a backup"
                    )

    def _set_modes(self) -> None:
        mode = self._db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise UnavailableError(f"cannot open {self._path}: no WAL on this file system ({mode})")
        self._db.execute("PRAGMA synchronous = FULL")

    def _create(self) -> None:
        self._set_modes()
        # In one transaction: a crash leaves an empty file or a whole store.
        self._db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            self._db.execute(statement)
        rows = [("revision", 1), ("compacted", 0), ("cluster_id", secrets.token_hex(16))]
        self._db.executemany("INSERT INTO meta VALUES (?, ?, ?)", map(_sealed, rows))
        self._db.execute("COMMIT")
        # SQLite flushes the directory for its journals, and not for the file that we made.
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def begin(self) -> None:
        """Open a transaction. All that follows becomes durable together, with `end`."""
        self._saved = (self.revision, self.compacted)
        self._db.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        """Make it durable. An error means that nobody knows whether it is."""
        self._db.execute("COMMIT")

    def undo(self) -> None:
        """Take back everything since `begin`."""
        self.revision, self.compacted = self._saved
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def get(self, key: bytes) -> KV | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM kv WHERE key = ?", (key,)).fetchone()  # noqa: S608
        return None if row is None else KV(*row)

    def list(self, prefix: bytes, limit: int, after: bytes | None, revision: int) -> Snapshot:
        """See MetadataStore.list."""
        within, keys = _range(prefix, after)
        if revision == 0 or revision == self.revision:
            sql = f"SELECT {_COLUMNS} FROM kv WHERE {within} ORDER BY key LIMIT ?"  # noqa: S608
            rows = self._db.execute(sql, (*keys, limit or -1))
            return Snapshot(self.revision, tuple(KV(*row) for row in rows))
        if revision > self.revision:
            raise ValueError(f"revision {revision} is yet to come; the store is at {self.revision}")
        if revision < self.compacted:
            raise CompactedError(self.compacted)
        # What has not changed since, and of the rest what stood before its first change since.
        # With min() SQLite takes the other columns from the row that has the minimum.
        sql = f"""
            SELECT {_COLUMNS} FROM kv WHERE {within} AND modified <= ?
            UNION ALL
            SELECT key, old_value, old_created, old_modified, old_version, old_lease FROM (
                SELECT *, min(revision) FROM log WHERE {within} AND revision > ? GROUP BY key
            ) WHERE old_created IS NOT NULL
            ORDER BY key LIMIT ?"""  # noqa: S608
        rows = self._db.execute(sql, (*keys, revision, *keys, revision, limit or -1))
        return Snapshot(revision, tuple(KV(*row) for row in rows))

    def commit(self, ops: Sequence[Op], ifs: Sequence[If]) -> Commit:
        """See MetadataStore.commit. Changes nothing if it raises, SQLite's own errors apart."""
        current = {condition.key: self.get(condition.key) for condition in ifs}
        if not all(holds(condition, current[condition.key]) for condition in ifs):
            return Commit(ok=False, revision=self.revision, current=current)
        for lease in {op.lease for op in ops if isinstance(op, Put)} - {0}:
            self._check_lease(lease)
        return Commit(ok=True, revision=self._apply(ops), current={})

    def _apply(self, ops: Iterable[Op]) -> int:
        revision, count = self.revision + 1, 0
        for op in ops:
            before = self.get(op.key)
            if isinstance(op, Put):
                created, version = (
                    (before.create_revision, before.version + 1) if before else (revision, 1)
                )
                after = KV(op.key, op.value, created, revision, version, op.lease)
                row = (op.key, op.value, created, revision, version, op.lease)
                self._db.execute("REPLACE INTO kv VALUES (?, ?, ?, ?, ?, ?, ?)", _sealed(row))
            elif before is not None:
                after = deleted(op.key, revision)
                self._db.execute("DELETE FROM kv WHERE key = ?", (op.key,))
            else:
                continue
            self._note(count, after, before)
            count += 1
        if count:
            self._set("revision", revision)
            self.revision = revision
        return self.revision

    def _note(self, number: int, after: KV, before: KV | None) -> None:
        new = (after.key, after.value, after.create_revision, after.version, after.lease)
        old: tuple[object, ...] = (None,) * 5
        if before is not None:
            old = (before.value, before.create_revision, before.mod_revision)
            old += (before.version, before.lease)
        row = (after.mod_revision, number, *new, *old)
        sql = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._db.execute(sql, _sealed(row))

    def events(self, prefix: bytes, from_revision: int) -> EventPage:
        """The next events under the prefix, whole revisions at a time. Raises CompactedError."""
        if from_revision < self.compacted:
            raise CompactedError(self.compacted)
        if from_revision > self.revision:
            return EventPage((), from_revision, is_last=True)
        within, keys = _range(prefix, None)
        sql = f"SELECT * FROM log WHERE revision >= ? AND {within} ORDER BY revision, number"  # noqa: S608
        rows = self._db.execute(sql, (from_revision, *keys))
        batches: list[Batch] = []
        size = 0
        for revision, group in itertools.groupby(rows, key=lambda row: int(row[0])):
            events = tuple(_events(group))
            batches.append(Batch(revision, events))
            size += sum(len(e.kv.value) + (len(e.prev.value) if e.prev else 0) for e in events)
            if size >= PAGE_BYTES_MAX or len(batches) >= PAGE_BATCHES_MAX:
                rows.close()
                return EventPage(tuple(batches), revision + 1, revision == self.revision)
        return EventPage(tuple(batches), self.revision + 1, is_last=True)

    def leases(self) -> dict[int, float]:
        """Every lease with its TTL."""
        return dict(self._db.execute("SELECT id, ttl_s FROM lease").fetchall())

    def grant(self, lease: int, ttl_s: float) -> None:
        self._db.execute("INSERT INTO lease VALUES (?, ?, ?)", _sealed((lease, float(ttl_s))))

    def revoke(self, lease: int) -> None:
        """Delete the lease and its keys, in order. Raises LeaseGoneError."""
        self._check_lease(lease)
        rows = self._db.execute("SELECT key FROM kv WHERE lease = ? ORDER BY key", (lease,))
        self._apply([Delete(key) for (key,) in rows.fetchall()])
        self._db.execute("DELETE FROM lease WHERE id = ?", (lease,))

    def _check_lease(self, lease: int) -> None:
        if self._db.execute("SELECT 1 FROM lease WHERE id = ?", (lease,)).fetchone() is None:
            raise LeaseGoneError(lease)

    def compact(self, revision: int) -> None:
        """See MetadataStore.compact. The events of `revision` itself stay readable."""
        if revision > self.revision:
            raise ValueError(f"revision {revision} is yet to come; the store is at {self.revision}")
        if revision <= self.compacted:
            raise CompactedError(self.compacted)
        self._db.execute("DELETE FROM log WHERE revision < ?", (revision,))
        self._set("compacted", revision)
        self.compacted = revision

    def close(self) -> None:
        """Close the file and let others have it. SQLite moves its log into it first."""
        try:
            self._db.close()
        finally:
            os.close(self._lock)

    def _set(self, name: str, value: int) -> None:
        self._db.execute("REPLACE INTO meta VALUES (?, ?, ?)", _sealed((name, value)))

    def _number(self, name: str) -> int:
        value = self._one("SELECT value FROM meta WHERE name = ?", name)
        if type(value) is not int:
            raise CorruptDataError(f"{self._path}: {name} is {value!r}")
        return value

    def _pragma(self, name: str) -> object:
        return self._one(f"PRAGMA {name}")

    def _one(self, sql: str, *values: object) -> object:
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]


def _sealed(row: tuple[object, ...]) -> tuple[object, ...]:
    """The row with the CRC-32C of what it says."""
    return (*row, crc32c(msgpack.packb(row)))


def _lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise DirectoryError(f"{path} is in use by another process") from None
        raise UnavailableError(f"cannot lock {path}: {error.strerror}") from error
    return descriptor


def _range(prefix: bytes, after: bytes | None) -> tuple[str, tuple[bytes, ...]]:
    """The condition on the column `key`, and the values for it."""
    end = prefix_end(prefix)
    bounds = [(">=", prefix), ("<", end), (">", after)]
    given = [(op, key) for op, key in bounds if key is not None]
    return " AND ".join(f"key {op} ?" for op, _ in given), tuple(key for _, key in given)


def _events(rows: Iterable[Sequence[object]]) -> Iterator[Event]:
    for row in rows:
        revision, _, key, value, created, version, lease, *old = row[:-1]
        kv = KV(key, value, created, revision, version, lease)  # type: ignore[arg-type]
        prev = None if old[1] is None else KV(key, *old)  # type: ignore[arg-type]
        yield Event("put" if version else "delete", kv, prev)


def translated(error: sqlite3.Error, what: str) -> Exception:
    """What callers of the store see of an error of SQLite after which nothing was applied."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return CorruptDataError(f"{what}: {error}")
    return UnavailableError(f"{what}: {error}")
