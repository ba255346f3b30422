"""What became of what was published to a client, as far as it can be seen from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from zmqmq.client.machines.effects import Effect, Fetched, Observed
from zmqmq.wire.frame import decode_reply_header


class PushMarks:
    """Of one client process."""

    __slots__ = ("_epochs", "_left", "_marks")

    def __init__(self, marks: Counter[str]) -> None:
        self._marks = marks
        self._epochs: dict[bytes, int] = {}
        """The latest of each subject."""
        self._left: dict[str, None] = {}

    def note(self, frames: Sequence[bytes], effects: Sequence[Effect]) -> None:
        """A SUB socket has got something; what the machines made of it."""
        subject, header, *batch = frames
        is_taken = bool(batch) and any(isinstance(effect, Fetched) for effect in effects)
        if is_taken:
            self._marks["push: delivered"] += 1
        epoch = int(decode_reply_header(header)[3]["epoch"])
        latest = self._epochs.get(subject, 0)
        if batch and epoch < latest and not is_taken:
            self._marks["push: of an old epoch"] += 1
        self._epochs[subject] = max(epoch, latest)
        if any(isinstance(effect, Observed) and effect.event == "push-gap" for effect in effects):
            self._marks["push: gap found by PUSH" if batch else "push: tail found by HEAD"] += 1

    def note_observed(self, effect: Observed) -> None:
        """The machines have joined a subject or left it."""
        place, _, why = effect.detail.partition(": ")
        if effect.event == "push-joined":
            self._marks["push: joined"] += 1
            if self._left.pop(place, 0) is None:
                self._marks["push: came back"] += 1
        elif effect.event == "push-left":
            self._marks[f"push: left, {why}"] += 1
            self._left[place] = None
