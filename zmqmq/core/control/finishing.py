"""What a controller does besides partitions: fences brokers, and takes over deserted topics.

A topic that is `creating` or `deleting` names the run of a broker that is at it. When that run is
over nobody will finish it, so the controller marks it `deleting` with itself as the maker, and its
broker removes it as if a client had asked (core/broker/making.py). A maker guards each of its
writes by the version of the topic's document: one that does not know yet that it is out leaves
nothing behind, and what it wrote before is in the image that shows the mark.

Documents alone are removed that way. A broker deletes data because it saw a topic go, never
because it finds no document (C12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zmqmq.core.control.campaign import Campaign
from zmqmq.core.control.commits import Begin, Moment, Pause
from zmqmq.core.control.image import Image, KnownTopic
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, Delete, If, Op, Put, StoreError

Target = bytes | int
"""A topic's id or a broker's."""


class Finishing:
    """Of one controller epoch; nothing happens once that is over."""

    def __init__(self, campaign: Campaign, keys: KeySpace, image: Image, begin: Begin) -> None:
        self._campaign = campaign
        self._epoch = campaign.epoch
        self._keys = keys
        self._image = image
        self._begin = begin
        self._unready: dict[bytes, None] = dict.fromkeys(
            topic_id for topic_id, topic in image.topics.items() if topic.document.state != "ready"
        )
        self._busy: dict[Target, None] = {}
        self._seen_revision: dict[Target, int] = {}
        """What became of the last commit about it is in the image from here on."""
        self.pause = Pause()

    def fence(self, now: Moment, member: Member) -> None:
        """Take this run's registration away (D11); the broker will register again."""
        broker_id, epoch = member
        is_there = self._image.broker(broker_id).epoch == epoch
        if is_there and self._is_due(now) and self._may(broker_id):
            key = self._keys.live(broker_id)
            self._commit(broker_id, [Delete(key)], If(key, "create", "==", epoch))

    def topic_changed(self, topic_id: bytes, topic: KnownTopic | None) -> None:
        """The image has another state of a topic."""
        if topic is None or topic.document.state == "ready":
            self._unready.pop(topic_id, None)
            self._seen_revision.pop(topic_id, None)
        else:
            self._unready[topic_id] = None

    def run(self, now: Moment) -> None:
        """Do what can be done now."""
        if not self._is_due(now):
            return
        for topic_id in tuple(self._unready):
            topic = self._image.topics[topic_id]
            if self._may(topic_id) and self._is_deserted(topic):
                self._take_over(topic_id, topic)

    def _is_due(self, now: Moment) -> bool:
        return self._campaign.epoch == self._epoch and self.pause.is_over(now)

    def _may(self, target: Target) -> bool:
        if target in self._busy:
            return False
        return self._image.revision >= self._seen_revision.get(target, 0)

    def _is_deserted(self, topic: KnownTopic) -> bool:
        maker = topic.document.maker
        return maker is None or self._image.broker(maker.broker_id).epoch != maker.broker_epoch

    def _take_over(self, topic_id: bytes, topic: KnownTopic) -> None:
        key, document = self._keys.topic(topic_id), topic.document
        marked = replace(document, state="deleting", maker=self._campaign.me)
        ops: list[Op] = [Put(key, marked.encode())]
        # A name goes in the commit that marks its topic: it is still this topic's if the mark is
        # not there yet, which the guard makes sure of.
        if self._image.names.get(document.name) == topic_id:
            ops.append(Delete(self._keys.topic_name(document.name)))
        self._commit(topic_id, ops, If(key, "mod", "==", topic.revision))

    def _commit(self, target: Target, ops: Sequence[Op], condition: If) -> None:
        def answered(now: Moment, outcome: Commit | StoreError) -> None:
            del self._busy[target]
            if isinstance(outcome, StoreError):
                self.pause.fail(now)
            else:
                self.pause.reset()
                self._seen_revision[target] = outcome.revision

        self._busy[target] = None
        self._begin(ops, [condition, self._campaign.condition], answered)
