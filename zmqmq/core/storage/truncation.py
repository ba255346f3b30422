"""Taking the end of a follower's log away, or all of it (F7, F9, D2, D14).

The log is a leader's no more, and its tail is not what the leader of now has. `cut` runs in a
worker thread while nobody else uses the log, no flush of it included. Before it the world makes a
checkpoint durable that promises no more than will be left, `lowered`: then whatever a crash on
the way leaves is a log without damage, a little longer than it should be, and the leader has it
cut again.

- Files go from the end backwards, each durably before the one before it, so that no crash leaves
  a hole (nats #7100), which looks like damage.
- All is durable when `cut` returns. Else bytes of the old tail could come back behind what is
  written next, fit there, and make a log that no leader ever had.
- Sidecars and states of what is gone go with it: the log will be as long again, with other
  content, and they would be taken for its own.
"""

from __future__ import annotations

from dataclasses import replace

from zmqmq.core.storage.log import Log
from zmqmq.core.storage.recovery import BadBatch, Checkpoint, scan
from zmqmq.core.storage.segment import INDEX_SUFFIX, LOG_SUFFIX, Segment, base_of, file_name
from zmqmq.core.storage.states import (
    State,
    pack_state,
    packed_state,
    remove_states,
    states_in,
    unpack_state,
    write_state,
)
from zmqmq.errors import StorageError


def state_at_start(log: Log) -> bytes:
    """What a follower must know that begins where this log does (F9).

    If the state is lost that was saved there, one is made from what is known now. That is less:
    what has come since has driven older batches out, and may yet be cut (seed 7214).
    """
    start = log.start_offset
    saved = packed_state(log.disk, log.key.folder, start)
    if saved is not None:
        return saved
    first = next((s for s in log.segments if not s.is_empty), None)
    append_ms = log.last_append_ms if first is None else first.first_append_ms
    producers, epochs = log.producers.snapshot(start), log.epochs.snapshot(start)
    return pack_state(State(start, append_ms, producers, epochs))


def lowered(row: Checkpoint, log: Log, to: int, state: bytes | None = None) -> Checkpoint:
    """What the checkpoint file must say of a log, durably, before `cut` with the same arguments."""
    if _is_reset(log, to, state):
        at = min(log.start_offset, to)
    else:
        # `to` may fall within one of our batches, which then goes whole: an entry of the index
        # is a batch's beginning for certain, and at hand.
        at = min(log.segment_of(to).place_before(to)[0], log.end_offset)
    return replace(
        row,
        recovery_point=min(row.recovery_point, at),
        start_offset=min(row.start_offset, at),
        clean=False,
        high_watermark=min(row.high_watermark, at),
    )


def cut(log: Log, to: int, state: bytes | None = None) -> None:
    """Remove what lies at `to` or behind it, and the batch that `to` falls within.

    With `state`, or if the log begins behind `to`, everything goes and it begins anew at `to`,
    with what the state says of what lies before. Afterwards all that is left is flushed.

    Raises StorageError, with the log failed, and CorruptDataError for a state that is not whole.
    """
    if log.damage is not None:
        raise StorageError(f"{log.name} is damaged at {log.damage}")
    if not _is_reset(log, to, state):
        begun = None
    elif state is None:
        begun = State(to, 0, [], log.epochs.snapshot(to))
    else:
        begun = unpack_state(state)._replace(end=to)
    try:
        log.write_out()
        if begun is not None:
            _reset(log, begun)
        elif to < log.end_offset:
            _truncate(log, to)
    except StorageError as error:
        log.fail(error)
        raise


def _is_reset(log: Log, to: int, state: bytes | None) -> bool:
    return state is not None or to < log.start_offset


def _truncate(log: Log, to: int) -> None:
    while _replay(log, to) > log.end_offset:
        to = log.end_offset  # within a compacted batch, which hides that the state is of its end
    disk, folder, active = log.disk, log.key.folder, log.segments[-1]
    # What a compaction has joined to others goes too, once its names are durable.
    disk.sync_directory(folder)
    _remove_segments(log, [base for base in _bases(log) if base > active.base_offset])
    disk.remove(active.index_path)
    remove_states(disk, folder, [at for at in states_in(disk, folder) if at > log.end_offset])
    active.file.truncate(active.size)
    active.allocated = active.size
    log.mark_folder_unsynced()
    # Retention counts on one at the beginning of the last segment or behind it.
    log.save_state()
    _flush(log)


def _replay(log: Log, to: int) -> int:
    """Make what is in memory what a replay up to `to` gives; where the state was from."""
    disk, folder, first = log.disk, log.key.folder, log.segments[0].base_offset
    old = log.segments[: log.segments.index(log.segment_of(to)) + 1]
    states = [offset for offset in states_in(disk, folder) if first <= offset <= to]
    trusted = next((offset for offset in reversed(states) if log.load_state(offset)), None)
    if trusted is None:
        trusted = first
        log.restore(State(first, 0, [], []))
    same = [segment for segment in old[:-1] if segment.end_offset <= trusted]
    if same:
        log.last_append_ms = max(log.last_append_ms, same[-1].last_append_ms)
    # New objects, since somebody may still be reading with the old ones.
    begun = [
        Segment(disk, folder, segment.base_offset, log.options.index_interval_bytes)
        for segment in old[len(same) :]
    ]
    log.rewind([*same, *begun], begun[0].base_offset)
    for segment in begun:
        try:
            scan(log, segment, trusted, to)
        except BadBatch as bad:
            raise StorageError(f"{segment.path} byte {bad.position}: {bad.reason}") from None
        log.mark_unsynced(segment)
    return trusted


def _reset(log: Log, begun: State) -> None:
    disk, folder, to = log.disk, log.key.folder, begun.end
    _remove_segments(log, _bases(log))
    for name in disk.list(folder):
        disk.remove(f"{folder}/{name}")
    disk.sync_directory(folder)
    # The state durably first: a log that begins here without it would have forgotten producers.
    file = write_state(disk, folder, begun)
    file.sync()
    file.close()
    disk.sync_directory(folder)
    segment = Segment(disk, folder, to, log.options.index_interval_bytes)
    segment.create()
    log.rewind([segment], min(log.start_offset, to))
    log.doomed.clear()
    log.start_offset = log.end_offset = to
    log.restore(begun)
    log.mark_unsynced(segment)
    log.mark_folder_unsynced()
    _flush(log)


def _bases(log: Log) -> list[int]:
    """Those of all segment files, forgotten ones included, ascending."""
    bases = (base_of(name, LOG_SUFFIX) for name in log.disk.list(log.key.folder))
    return [base for base in bases if base is not None]


def _remove_segments(log: Log, bases: list[int]) -> None:
    """The last one first, each durably before the next."""
    folder = log.key.folder
    for base in reversed(bases):
        for suffix in (INDEX_SUFFIX, LOG_SUFFIX):
            log.disk.remove(f"{folder}/{file_name(base, suffix)}")
        log.disk.sync_directory(folder)


def _flush(log: Log) -> None:
    flush = log.begin_flush()
    for file in flush.files:
        file.sync()
    for folder in flush.folders:
        log.disk.sync_directory(folder)
    log.end_flush(flush)
