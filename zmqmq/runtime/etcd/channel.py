"""gRPC, of which nothing is typed, behind the little that is used of it.

The one module that imports it; messages.py is the same for protobuf. What gRPC raises is a
CallError here, and the end of a stream of replies is None.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import grpc
import grpc.aio

from zmqmq.runtime.etcd.address import EtcdAddress
from zmqmq.runtime.etcd.messages import STREAMS, Message, Method

REPLY_BYTES_MAX: Final = 128 * 1024 * 1024
"""A page of 1000 keys with the largest value takes half of it."""
_OPTIONS: Final = (
    # A host that vanished is noticed after 13 s; etcd takes pings every 5 s at most. And none at
    # all where no call is under way: it ends the connections of whoever does not stop after three.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", REPLY_BYTES_MAX),
    # Nobody else's retries, proxies or connections: who tries a write again must know that it
    # was not applied.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

Metadata = tuple[tuple[str, str], ...]
Call = Any
"""A call of gRPC, or what makes one."""


class CallError(Exception):
    """A call or a stream failed: by etcd's word, or on the way."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details or code)
        self.code = code
        """The name of gRPC's status code."""


class Stream:
    """Requests one way and replies the other, until it is cancelled or etcd ends it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._ended = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note_ended)

    async def read(self) -> Message | None:
        """The next reply; None when etcd has ended the stream. Cancelling this ends it."""
        try:
            reply = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None
        return None if reply is grpc.aio.EOF else reply

    async def write(self, message: Message, *, timeout_s: float) -> None:
        """Raises TimeoutError when the message is not taken in time.

        Nothing happens if the stream has ended: the next read says why. And gRPC forgets about a
        write to a stream that ends while it begins, which is why nothing waits for one alone.
        """
        writing = asyncio.ensure_future(self._call.write(message))
        first = asyncio.FIRST_COMPLETED
        try:
            done, _ = await asyncio.wait(
                (writing, self._ended), timeout=timeout_s, return_when=first
            )
            if not done:
                raise TimeoutError("a stream takes no messages")
        finally:
            writing.cancel()
            with contextlib.suppress(
                asyncio.CancelledError, asyncio.InvalidStateError, grpc.aio.AioRpcError
            ):
                await writing

    def cancel(self) -> None:
        """End it. Again: nothing happens."""
        self._call.cancel()

    def _note_ended(self, _: object) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


class Channel:
    """Calls to one member. Connects when it is needed, and again after a loss."""

    def __init__(self, target: str, address: EtcdAddress) -> None:
        if address.ca is None:
            self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(address.ca, address.key, address.cert)
            self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        self._procedures: dict[Method, Call] = {}

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as gRPC has noticed; begins one if not."""
        state = self._channel.get_state(try_to_connect=True)
        return bool(state is grpc.ChannelConnectivity.READY)

    async def call(
        self, method: Method, request: Message, *, timeout_s: float, metadata: Metadata
    ) -> Message:
        """The reply. Raises CallError."""
        try:
            return await self._procedure(method)(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None

    def stream(self, method: Method, *, metadata: Metadata) -> Stream:
        """Begin a call with streams; whoever begins it ends it."""
        return Stream(self._procedure(method)(metadata=metadata))

    async def close(self) -> None:
        """End everything; to whoever waits it looks as if his task had been cancelled."""
        await self._channel.close()

    def _procedure(self, method: Method) -> Call:
        if method not in self._procedures:
            channel = self._channel
            make = channel.stream_stream if method in STREAMS else channel.unary_unary
            self._procedures[method] = make(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )
        return self._procedures[method]


def _translated(error: grpc.aio.AioRpcError) -> CallError:
    return CallError(error.code().name, error.details() or "")
