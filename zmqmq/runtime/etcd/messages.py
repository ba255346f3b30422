"""etcd's messages: those that we send, and of the replies what we read.

Declared here and turned into classes at import, in a descriptor pool of our own. So nothing was
generated that a version of protobuf could refuse, and another etcd client in the same process,
which declares the same names in the common pool, does no harm (etcd.md 1).

Numbers and types are those of etcd's published API, version 3. Enumerations are `int32`, which is
the same on the wire. Fields that are left out are skipped by whoever reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Message = Any
"""An instance of one of the classes below; mypy knows no fields of what is made at import."""

_PACKAGE: Final = "zmqmq.etcd"
_DECLARED: Final = """
ResponseHeader           cluster_id:uint64=1 revision:int64=3
KeyValue                 key:bytes=1 create_revision:int64=2 mod_revision:int64=3 version:int64=4
                         value:bytes=5 lease:int64=6
Event                    type:int32=1 kv:KeyValue=2 prev_kv:KeyValue=3
RangeRequest             key:bytes=1 range_end:bytes=2 limit:int64=3 revision:int64=4
RangeResponse            header:ResponseHeader=1 kvs:KeyValue*=2
PutRequest               key:bytes=1 value:bytes=2 lease:int64=3
DeleteRangeRequest       key:bytes=1
Compare                  result:int32=1 target:int32=2 key:bytes=3 version:int64=4/union
                         create_revision:int64=5/union mod_revision:int64=6/union
                         value:bytes=7/union lease:int64=8/union
RequestOp                request_range:RangeRequest=1/union request_put:PutRequest=2/union
                         request_delete_range:DeleteRangeRequest=3/union
ResponseOp               response_range:RangeResponse=1
TxnRequest               compare:Compare*=1 success:RequestOp*=2 failure:RequestOp*=3
TxnResponse              header:ResponseHeader=1 succeeded:bool=2 responses:ResponseOp*=3
CompactionRequest        revision:int64=1
CompactionResponse       header:ResponseHeader=1
LeaseGrantRequest        TTL:int64=1
LeaseGrantResponse       header:ResponseHeader=1 ID:int64=2 TTL:int64=3
LeaseRevokeRequest       ID:int64=1
LeaseRevokeResponse      header:ResponseHeader=1
LeaseTimeToLiveRequest   ID:int64=1
LeaseTimeToLiveResponse  header:ResponseHeader=1 TTL:int64=3
LeaseKeepAliveRequest    ID:int64=1
LeaseKeepAliveResponse   header:ResponseHeader=1 ID:int64=2 TTL:int64=3
WatchCreateRequest       key:bytes=1 range_end:bytes=2 start_revision:int64=3 prev_kv:bool=6
                         fragment:bool=8
WatchProgressRequest
WatchRequest             create_request:WatchCreateRequest=1/union
                         progress_request:WatchProgressRequest=3/union
WatchResponse            header:ResponseHeader=1 created:bool=3 canceled:bool=4
                         compact_revision:int64=5 cancel_reason:string=6 fragment:bool=7
                         events:Event*=11
AuthenticateRequest      name:string=1 password:string=2
AuthenticateResponse     header:ResponseHeader=1 token:string=2
StatusRequest
StatusResponse           header:ResponseHeader=1 version:string=2
"""
"""A message a line: name and fields. A field is name:type=number; `*` is a list, `/union` means
at most one of those that say so."""

_FIELD: Final = re.compile(r"(\w+):(\w+)(\*?)=(\d+)(/\w+)?")
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final[dict[str, Any]] = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint64": _Field.TYPE_UINT64,
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="zmqmq_etcd.proto", package=_PACKAGE, syntax="proto3"
    )
    message = None
    for word in _DECLARED.split():
        parts = _FIELD.fullmatch(word)
        if parts is None:
            message = file.message_type.add(name=word)
            continue
        assert message is not None
        name, kind, is_list, number, union = parts.groups()
        label = _Field.LABEL_REPEATED if is_list else _Field.LABEL_OPTIONAL
        field = message.field.add(name=name, number=int(number), label=label)
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
        if union:
            if not message.oneof_decl:
                message.oneof_decl.add(name=union[1:])
            field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        m.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{m.name}"))
        for m in file.message_type
    }


_CLASSES: Final = _classes()
Compare: Final = _CLASSES["Compare"]
DeleteRangeRequest: Final = _CLASSES["DeleteRangeRequest"]
PutRequest: Final = _CLASSES["PutRequest"]
RequestOp: Final = _CLASSES["RequestOp"]
WatchCreateRequest: Final = _CLASSES["WatchCreateRequest"]
WatchProgressRequest: Final = _CLASSES["WatchProgressRequest"]


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One procedure of etcd's API. Calling it makes its request."""

    path: str
    request: Any
    reply: Any

    def __call__(self, **fields: object) -> Message:
        return self.request(**fields)


def _method(service: str, name: str, messages: str = "") -> Method:
    return Method(
        f"/etcdserverpb.{service}/{name}",
        _CLASSES[f"{messages or name}Request"],
        _CLASSES[f"{messages or name}Response"],
    )


AUTHENTICATE: Final = _method("Auth", "Authenticate")
COMPACT: Final = _method("KV", "Compact", "Compaction")
LEASE_GRANT: Final = _method("Lease", "LeaseGrant")
LEASE_KEEP_ALIVE: Final = _method("Lease", "LeaseKeepAlive")
LEASE_REVOKE: Final = _method("Lease", "LeaseRevoke")
LEASE_TIME_TO_LIVE: Final = _method("Lease", "LeaseTimeToLive")
RANGE: Final = _method("KV", "Range")
STATUS: Final = _method("Maintenance", "Status")
TXN: Final = _method("KV", "Txn")
WATCH: Final = _method("Watch", "Watch")
STREAMS: Final = frozenset({LEASE_KEEP_ALIVE, WATCH})
"""Those with a stream of requests and one of replies; the others have one of each."""
