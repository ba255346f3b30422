"""DESCRIBE: what is here, for people and dashboards. docs/protocol.md lists the fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from zmqmq.core.broker.brokers import Brokers
from zmqmq.core.broker.catalog import Catalog, Leadership, Topic
from zmqmq.core.broker.cold_reads import ColdReads
from zmqmq.core.broker.fetch import Fetching
from zmqmq.core.broker.flushing import Flushing
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.offsets import Offsets
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.produce import Producing
from zmqmq.core.broker.pushing import Pushing
from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.broker.sessions import Session, Sessions
from zmqmq.core.broker.traffic import Traffic
from zmqmq.core.control.image import Image
from zmqmq.core.replication.partition import Partition
from zmqmq.core.security.authorize import Action, authorize
from zmqmq.core.storage.read_cache import ReadCache
from zmqmq.errors import Code, refusal
from zmqmq.model.now import Now
from zmqmq.wire.apis import REQUESTS, Api
from zmqmq.wire.frame import Fields
from zmqmq.wire.schema import malformed, reader

_read = reader(REQUESTS[Api.DESCRIBE])
PARTITIONS_PER_PAGE: Final = 10_000
SESSIONS_PER_PAGE: Final = 1_000


class Describing:
    """Answers from what the other parts know; changes nothing."""

    def __init__(
        self,
        catalog: Catalog,
        image: Image,
        replicas: Replicas,
        brokers: Brokers,
        traffic: Traffic,
        outbox: Outbox,
        sessions: Sessions,
        producing: Producing,
        fetching: Fetching,
        pushing: Pushing,
        flushing: Flushing,
        reads: ColdReads,
        cache: ReadCache,
        offsets: Offsets,
        identity: Identity,
    ) -> None:
        self._catalog = catalog
        self._image = image
        self._replicas = replicas
        self._brokers = brokers
        self._traffic = traffic
        self._outbox = outbox
        self._sessions = sessions
        self._producing = producing
        self._fetching = fetching
        self._pushing = pushing
        self._flushing = flushing
        self._reads = reads
        self._cache = cache
        self._offsets = offsets
        self._identity = identity
        self.measures: Mapping[str, float] = {}
        """The world's last Measured."""

    def handle(self, now: Now, session: Session, correlation: int, fields: Fields) -> None:
        """DESCRIBE."""
        kind, names, internal, after = _read(fields)
        if names is not None and any(type(name) is not str for name in names):
            raise malformed("field 'names' holds something that is not str")
        if not authorize(session.principal, Action.DESCRIBE, kind, "*"):
            raise refusal(Code.DENIED, f"may not describe {kind}")
        match kind:
            case "topics":
                items, more = self._topics(now, names, after, internal=internal)
            case "groups":
                items, more = self._groups(names, after)
            case "sessions":
                items, more = self._session_items(now.ms, after)
            case "broker":
                items, more = [self._broker()], False
            case "brokers":
                items, more = self._brokers.items(), False
            case "config":
                items, more = [dict(self._identity.settings)], False
            case _:
                raise malformed(
                    f"kind {kind!r} is not broker, brokers, topics, groups, sessions or config"
                )
        self._outbox.reply(session, Api.DESCRIBE, correlation, {"items": items, "more": more})

    def _topics(
        self, now: Now, names: list[str] | None, after: str, *, internal: bool
    ) -> tuple[list[dict[str, Any]], bool]:
        if names is not None:
            wanted = [self._catalog.topic(name) for name in names]
        else:
            wanted = [
                topic
                for name, topic in sorted(self._catalog.by_name.items())
                if topic.state == "ready" and (internal or not name.startswith("__"))
            ]
        items: list[dict[str, Any]] = []
        room = PARTITIONS_PER_PAGE
        for topic in wanted:
            if topic.name <= after:
                continue
            if items and topic.partition_count > room:
                return items, True
            room -= topic.partition_count
            items.append(self._topic(now, topic))
        return items, False

    def _topic(self, now: Now, topic: Topic) -> dict[str, Any]:
        return {
            "name": topic.name,
            "id": topic.id,
            "replicas": topic.replicas,
            "config": topic.config.as_map(),
            "overrides": topic.overrides,
            "partitions": [self._partition(now, topic, n) for n in range(topic.partition_count)],
        }

    def _partition(self, now: Now, topic: Topic, number: int) -> dict[str, Any]:
        place = topic.id, number
        leader, epoch, _ = topic.leaders.get(number, Leadership())
        item: dict[str, Any] = {"partition": number, "leader": leader, "leader_epoch": epoch}
        known = self._image.partitions.get(place)
        if known is not None:
            document = known.document
            item |= {
                "replicas": document.replicas,
                "isr": [member.broker_id for member in document.isr],
                "elr": [member.broker_id for member in document.elr],
                "adding": document.adding,
                "removing": document.removing,
                "min_isr": document.effective_min_isr,
                "flush": document.flush,
            }
        found: Partition | None = self._catalog.partitions.get(place)
        if found is None:
            if place in self._catalog.unopened:
                item["error"] = self._catalog.unopened[place]
            elif leader is None:
                item["error"] = "nobody leads it"
            elif leader == self._identity.broker_id:
                item["error"] = "not open here yet"
            return item
        log = found.log
        item |= {
            "start": log.start_offset,
            "committed_end": found.high_watermark,
            "end": log.end_offset,
            "flushed_end": log.flushed_end,
            "bytes": log.size_bytes,
            "records": log.record_count,
            "segments": len(log.segments),
            "producers": len(log.producers),
            "last_append_ms": log.last_append_ms,
            "followers": [_follower(found, broker_id) for broker_id in _others(found)],
            **self._traffic.of_partition(now.ns, found),
        }
        if log.damage is not None:
            item["error"] = f"damaged at {log.damage}"
        elif log.failed is not None:
            item["error"] = f"offline: {log.failed}"
        return item

    def _groups(self, names: list[str] | None, after: str) -> tuple[list[dict[str, Any]], bool]:
        items: list[dict[str, Any]] = []
        room = PARTITIONS_PER_PAGE
        for group, places in self._offsets.groups():
            if group <= after or (names is not None and group not in names):
                continue
            if items and len(places) > room:
                return items, True
            room -= len(places)
            offsets = []
            for (topic_id, number), committed in sorted(places.items()):
                topic = self._catalog.by_id.get(topic_id)
                if topic is None:
                    continue
                partition = self._catalog.partitions.get((topic_id, number))
                end = partition.high_watermark if partition else None
                offsets.append(
                    {
                        "topic": topic.name,
                        "partition": number,
                        "offset": committed.offset,
                        "committed_end": end,
                        "lag": None if end is None else max(end - committed.offset, 0),
                        "note": committed.note,
                        "commit_ms": committed.commit_ms,
                    }
                )
            items.append({"name": group, "offsets": offsets})
        return items, False

    def _session_items(self, now_ms: int, after: str) -> tuple[list[dict[str, Any]], bool]:
        items = [
            {
                # A part of the id: who knows all of it can fence the session.
                "name": session.id.hex()[:12],
                "client": session.client,
                "principal": session.principal.name,
                "connected_s": (now_ms - session.since_ms) // 1000,
                "outstanding_bytes": session.outstanding,
                "waiting": session.waiting + len(session.fetches),
            }
            for session in self._sessions
            if session.id.hex()[:12] > after
        ]
        items.sort(key=lambda item: str(item["name"]))
        return items[:SESSIONS_PER_PAGE], len(items) > SESSIONS_PER_PAGE

    def _broker(self) -> dict[str, Any]:
        open_partitions = self._catalog.partitions.values()
        return {
            "broker": self._identity.broker_id,
            "broker_epoch": self._identity.epoch,
            "cluster": self._identity.cluster,
            "server": self._identity.server,
            "endpoints": dict(self._identity.endpoints),
            "sessions": len(self._sessions),
            "topics": sum(1 for t in self._catalog.by_name if not t.startswith("__")),
            "partitions": len(open_partitions),
            "offline": len(self._catalog.unopened)
            + sum(1 for p in open_partitions if p.log.failed or p.log.damage),
            "bytes": sum(p.log.size_bytes for p in open_partitions),
            "replicas": len(self._replicas.all),
            "replica_bytes": sum(r.log.size_bytes for r in self._replicas if r.log is not None),
            "batches_in": self._producing.batches,
            "bytes_in": self._producing.bytes,
            "flushes": self._flushing.count,
            "bytes_out": self._fetching.bytes,
            "bytes_out_of_copies": self._fetching.bytes_of_copies,
            "sent_elsewhere": self._fetching.sent_elsewhere,
            "cold_reads": self._reads.count,
            "shared_reads": self._cache.hits,
            "read_cache_bytes": self._cache.bytes,
            "subjects": len(self._pushing),
            "pushes": self._pushing.pushes,
            "bytes_pushed": self._pushing.bytes,
            "heads": self._pushing.heads,
            "subscriptions_refused": self._pushing.refused,
            "errors": dict(self._outbox.errors),
            "reply_bytes_outstanding": self._sessions.outstanding,
            **self._traffic.of_broker(),
            **self.measures,
        }


def _others(partition: Partition) -> list[int]:
    """The brokers that follow it, or should."""
    isr = partition.isr
    return [b for b in isr.document.replicas if b != isr.me.broker_id]


def _follower(partition: Partition, broker_id: int) -> dict[str, Any]:
    """How far a follower has said that it is, in this leader epoch; nil: it has not yet."""
    progress = partition.isr.followers.get(broker_id)
    if progress is None:
        return {"broker": broker_id, "end": None, "flushed_end": None, "lag": None}
    return {
        "broker": broker_id,
        "end": progress.written,
        "flushed_end": progress.flushed,
        "lag": max(partition.log.end_offset - progress.written, 0),
    }
