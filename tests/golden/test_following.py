"""docs/vectors/following.json: what the reader of examples/raw/push.py does, others do too.

test_vectors.py makes the file again, so that reader does what it says. Here are the client's
consumer, which fetches ahead and while things are published, and the example for Node.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import node_modules
from tests.unit.client.scripted import Fetching, Sent, World
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.layout import log_seed
from zmqmq.client.machines.effects import MS
from zmqmq.client.machines.push import LOOK_EVERY, SILENCE_MAX
from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.errors import Code, error_to_wire, refusal
from zmqmq.wire.apis import Api

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/raw"
FILE = ROOT / "docs/vectors/following.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())
TOPIC_ID, PARTITION = bytes.fromhex(VECTORS["topic id"]), VECTORS["partition"]
OUTCOME = ["delivers", "next", "last epoch", "then"]


class Replay:
    """A consumer to which the events of a sequence happen."""

    def __init__(self, start: int) -> None:
        self.world = World(ids={"t": TOPIC_ID})
        place = Place(PlaceKind.OFFSET, start)
        self.machine = Fetching(self.world, start=place, mode="push").machine
        self.world.greet()

    def happen(self, step: dict[str, Any]) -> None:
        match step["event"]:
            case "METADATA":
                self.find_leader(step["epoch"])
            case "FETCH":
                data = bytes.fromhex(step["body"])
                entry = [len(data), step["end"], 0]
                self.world.answer(self.last_fetch(), {"partitions": [entry]}, [data])
            case "SUBSCRIBE":
                self.world.tell_subjects()
            case "silence":
                self.world.advance((SILENCE_MAX + 2 * LOOK_EVERY) / MS)
            case _:
                frames = [bytes.fromhex(frame) for frame in step["frames"]]
                (socket,) = self.world.subscribers
                self.world.core.handle_message(self.world.now, socket, frames)
                self.world.take_effects()
                self.world.step()
        self.world.sent = [s for s in self.world.sent if not s.fields.get("leave")]

    def find_leader(self, epoch: int) -> None:
        """It asks who leads, or the leader that it knows."""
        self.world.epoch = epoch
        if any(sent.api is Api.METADATA for sent in self.world.sent):
            self.world.tell_metadata()
        elif self.asked()[1] != epoch:
            hints = {"leader": 1, "leader_epoch": epoch}
            error = error_to_wire(refusal(Code.FENCED_LEADER_EPOCH, "scripted", hints))
            self.world.answer(self.last_fetch(), {"partitions": [error]})
            self.world.advance(100)

    def last_fetch(self) -> Sent:
        return [sent for sent in self.world.sent if sent.api is Api.FETCH][-1]

    def asked(self) -> tuple[int, int, int | None]:
        """Offset, leader epoch, and leader epoch of the record before, of the last fetch."""
        ((_, _, offset, _, epoch, last_epoch),) = self.last_fetch().fields["partitions"]
        return offset, epoch, last_epoch

    def delivered(self) -> list[int]:
        """Offsets of the records that lie ready, as a caller gets them."""
        offsets: list[int] = []
        seed = log_seed(TOPIC_ID, PARTITION)
        while self.machine.chunks:
            chunk = self.machine.chunks.popleft()
            self.machine.taken += len(chunk.data)
            for batch in decode_batches(chunk.data, seed, "t", PARTITION):
                offsets += [offset for offset in batch.offsets if offset >= chunk.position]
        return offsets


@pytest.mark.parametrize("sequence", VECTORS["sequences"], ids=lambda s: s["name"])
def test_the_client_does_the_same(sequence: dict[str, Any]) -> None:
    replay, is_heard = Replay(sequence["start"]), False
    for step in sequence["steps"]:
        replay.happen(step)

        stream = replay.machine.streams["t", PARTITION]
        assert replay.delivered() == step["delivers"], step
        assert (stream.position, stream.last_epoch) == (step["next"], step["last epoch"]), step
        is_heard |= step["event"] in ("PUSH", "HEAD")
        if step["then"] == "begin":
            assert not any(replay.world.subscribers.values()), step
            is_heard = False
        elif step["then"] == "fetch":
            assert stream.request is not None, step
            assert not stream.is_pushed, step
            assert replay.asked() == (step["next"], replay.world.epoch, step["last epoch"]), step
        else:
            assert stream.is_pushed is is_heard, step


def test_the_example_for_node_does_the_same(tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules(EXAMPLES / "package.json"))
    shutil.copy(EXAMPLES / "push.mjs", tmp_path)
    program = shutil.copy(Path(__file__).with_name("follow.mjs"), tmp_path)
    done = subprocess.run(
        ["node", program, str(FILE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for sequence, happened in zip(VECTORS["sequences"], json.loads(done.stdout), strict=True):
        said = [{key: step[key] for key in OUTCOME} for step in sequence["steps"]]
        assert happened == said, sequence["name"]
