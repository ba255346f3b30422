"""Runs a plan: begins a bounded number of moves at a time, and says how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from zmqmq_cli.cluster_tables import named
from zmqmq_cli.exits import PartialError
from zmqmq_cli.tables import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zmqmq import Client, Move, Progress
    from zmqmq_cli.output import Output

LOOK_SECONDS: Final = 0.5
"""Between two looks; the first ones come sooner, for most moves are small."""
SAY_SECONDS: Final = 10.0
"""So often it says something where nobody sees a line change."""


def run_plan(client: Client, output: Output, plan: list[Move], at_a_time: int) -> None:
    """Wait until it is done. Raises PartialError when the controller refuses a move, and in the end
    if somebody else has moved some of the partitions."""
    if not plan:
        return
    so_far: Sequence[Move] | Progress = plan
    said, pause = time.monotonic(), LOOK_SECONDS / 8
    try:
        while True:
            so_far = progress = client.cluster.advance(so_far, at_a_time)
            if progress.refused:
                move, error = progress.refused[0]
                raise PartialError(
                    f"{len(progress.done)} of {plural(len(plan), 'move')} done; "
                    f"{move.topic}/{move.partition}: {error}"
                )
            if progress.is_done:
                break
            text = _line(progress, len(plan))
            output.progress(text)
            if time.monotonic() - said >= SAY_SECONDS:
                said = time.monotonic()
                output.say(text)
            time.sleep(pause)
            pause = min(2 * pause, LOOK_SECONDS)
    except KeyboardInterrupt:
        output.say(
            "interrupted: what is under way goes on by itself; the same command goes on with "
            "the rest"
        )
        raise
    if progress.changed:
        names = [(m.topic, m.partition) for m in progress.changed]
        raise PartialError(
            f"{len(progress.done)} of {plural(len(plan), 'move')} done; {named(names)} changed "
            "meanwhile: somebody else moves the same. Run it again to plan anew"
        )


def _line(progress: Progress, count: int) -> str:
    parts = [f"{len(progress.done)} of {count} done"]
    if progress.under_way:
        first = progress.under_way[0]
        lag = progress.lag[first.topic, first.partition]
        behind = "" if lag is None else f" ({lag:,} records behind)"
        names = [(m.topic, m.partition) for m in progress.under_way]
        parts.append(f"under way: {named(names)}{behind}")
    if progress.stuck:
        parts.append(f"nobody leads {named(progress.stuck)}: they wait for their brokers")
    if progress.changed:
        parts.append(f"{len(progress.changed)} changed meanwhile")
    return "; ".join(parts)
