"""Readers, and those who publish to them, without one of their rules."""

from __future__ import annotations

from typing import Any

from tests.sim.mutants import Patch, mutant
from zmqmq.batch.layout import unpack_header
from zmqmq.client.machines import push
from zmqmq.client.machines.push import Push, Subscription
from zmqmq.client.machines.pushed import Pushed
from zmqmq.core.broker.pushing import Pushing
from zmqmq.wire.apis import PUSHED, Api
from zmqmq.wire.frame import decode_reply_header, encode_header
from zmqmq.wire.schema import reader


@mutant("U1", schedules=["a_push_that_is_lost"], seeds=[85])
def gaps_taken(patch: Patch) -> None:
    """What is published is taken, whatever is missing before it."""
    published = Pushed._published

    def taken(self: Pushed, stream: Any, now: int, what: Any) -> None:
        published(self, stream, now, what if what.data is None else what._replace(prev=0))

    patch.setattr(Pushed, "_published", taken)


@mutant("U2", schedules=["pushes_that_come_twice"], seeds=[85])
def seen_taken(patch: Patch) -> None:
    """What was read already is taken again when it comes again."""
    take = Pushed._take

    def again(self: Pushed, stream: Any, data: Any) -> bool:
        stream.position = min(stream.position, unpack_header(data, 0).base_offset)
        return take(self, stream, data)

    patch.setattr(Pushed, "_take", again)


@mutant("U3", schedules=["what_was_published_before_a_fetch"], seeds=[85])
def beside_a_fetch(patch: Patch) -> None:
    """What is published is taken while a fetch is under way, and what that brings too."""
    take = Pushed._take

    def both(self: Pushed, stream: Any, data: Any) -> bool:
        request = stream.request
        is_taken = take(self, stream, data)
        stream.request = request
        return is_taken

    patch.setattr(Pushed, "_take", both)


@mutant("U4", schedules=["a_tail_that_is_lost"])
def deaf_to_head(patch: Patch) -> None:
    """HEAD says nothing but that the subscription works."""
    published = Pushed._published

    def heard(self: Pushed, stream: Any, now: int, what: Any) -> None:
        if what.data is not None:
            published(self, stream, now, what)

    patch.setattr(Pushed, "_published", heard)


@mutant("U4", schedules=["whoever_hears_nothing"])
def silence_is_rest(patch: Patch) -> None:
    """Whoever hears nothing thinks that there is nothing."""
    patch.setattr(push, "SILENCE_MAX", 10**18)


@mutant("U5", schedules=["a_push_of_a_leaders_former_term"])
def any_epoch(patch: Patch) -> None:
    """What is published is taken, whatever leader epoch it is of."""
    handle = Push.handle_message
    read = reader(PUSHED[Api.PUSH])

    def of_now(self: Push, now: int, socket: int, frames: Any) -> bool:
        feed = self._by_socket.get(socket)
        wanted = feed.subjects.get(bytes(frames[0])) if feed else None
        if wanted and len(frames) == 3:
            prev, end, _ = read(decode_reply_header(bytes(frames[1]))[3])
            fields = {"prev": prev, "end": end, "epoch": wanted[0].epoch}
            frames = [frames[0], encode_header(Api.PUSH, 0, fields), frames[2]]
        return handle(self, now, socket, frames)

    patch.setattr(Push, "handle_message", of_now)


@mutant("U6", schedules=["a_subscription_that_never"])
def trusts_at_once(patch: Patch) -> None:
    """Nothing is fetched any more as soon as a broker has promised to publish."""
    patch.setattr(Subscription, "is_live", property(lambda self: not self.is_over))


@mutant("U7", schedules=["nothing_is_published_before"], seeds=[73])
def publishes_what_is_written(patch: Patch) -> None:
    """A leader publishes what it has, committed or not."""
    moved = Pushing.moved

    def early(self: Pushing, partition: Any) -> None:
        mark, partition.high_watermark = partition.high_watermark, partition.log.written_end
        moved(self, partition)
        partition.high_watermark = mark

    patch.setattr(Pushing, "moved", early)
