"""The client's only contact with sockets, clocks and chance: carries out what the machines decide.

Runs on one asyncio loop: in a thread of its own for the blocking client (io_thread.py), on the
caller's loop for `zmqmq.aio`. Sockets are plain pyzmq sockets, registered by their file
descriptor and drained in bursts (zeromq.md 1.2). That descriptor signals the socket's mailbox and
is edge-triggered, and a send may swallow the edge; hence `_check_again` after each pump.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic_ns
from typing import Final, Protocol, cast

import zmq

from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import (
    NEVER,
    Body,
    CloseSocket,
    CommitDue,
    Effect,
    Fetched,
    Link,
    Observed,
    OpenSocket,
    OpenSubscriber,
    Rejected,
    Resolved,
    Settled,
    Subscribe,
    Transmit,
    Unsubscribe,
)
from zmqmq.client.machines.producer import Producer
from zmqmq.client.monitor import MONITORED, link_of
from zmqmq.client.servers import endpoint_of, look_up
from zmqmq.errors import ClosedError, DisconnectedError, UsageError
from zmqmq.wire.apis import PUSH_BYTES_MAX, PUSH_QUEUE

BURST: Final = 64
"""Messages read from one socket before others get their turn."""
COPY_BELOW: Final = 65_536
"""Frames below this are copied; above it the copy costs more than pyzmq's bookkeeping without."""
GOODBYE_LINGER_MS: Final = 50
"""How long the last message of a client may take out of the process."""
SEND_AGAIN: Final = 0.002
"""Seconds until the next attempt to send, if the socket does not say first that it has room."""

# As plain numbers: arithmetic on enum members costs as much as a system call.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)

logger = logging.getLogger("zmqmq.client")


class Waiter(Protocol):
    """What a command's result is given to."""

    def resolve(self, value: object) -> None:
        """It is done."""

    def reject(self, error: BaseException) -> None:
        """It has failed."""


class Pumped(Protocol):
    """A producer's face to the driver."""

    def woken(self) -> Producer | None:
        """From now on a new batch calls again; the machine, once there is one."""


class Listener(Protocol):
    """A producer's or consumer's face to its user."""

    def notify(self) -> None:
        """Something has changed: look again."""

    def commit_due(self, now: int) -> None:
        """Commit what has been consumed (consumers only)."""

    def crash(self, error: BaseException) -> None:
        """Nothing will ever change again."""


class _Wire:
    """One DEALER or SUB with its monitor."""

    __slots__ = ("descriptors", "monitor", "number", "socket", "unsent")

    def __init__(self, number: int, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
        self.number = number
        self.socket = socket
        self.monitor = monitor
        self.unsent: deque[Sequence[Body]] = deque()
        self.descriptors = cast("int", socket.fd), cast("int", monitor.fd)


class Driver:
    """Drives one client's machines. All methods but `post` belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, core: Core) -> None:
        self.core = core
        self.is_closed = False
        self.is_forked = False
        self.crashed: BaseException | None = None
        """Why the machines cannot be trusted any more."""
        self.listeners: set[Listener] = set()
        self._loop = loop
        self._context = zmq.Context()
        self._wires: dict[int, _Wire] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._is_pump_due = False
        self._linger_ms = 0
        self._sent_on: dict[int, _Wire] = {}
        self._waiters: set[Waiter] = set()
        _alive.add(self)

    # From any thread

    def post(self, action: Callable[..., None], *arguments: object) -> None:
        """Run `action(now, *arguments)` on the loop, then let the machines do what follows."""
        if self.is_closed or self.is_forked:
            self.check_usable()
        try:
            self._loop.call_soon_threadsafe(self._run, action, arguments)
        except RuntimeError:
            self.is_closed = True
            self.check_usable()

    def check_usable(self) -> None:
        """Raise what is wrong, if anything is."""
        if self.is_forked:
            raise UsageError(
                "this client belongs to the parent process: connections do not survive a fork; "
                "connect anew in the child, or start it with the method 'spawn'"
            )
        if self.crashed is not None:
            raise self.crashed
        if self.is_closed:
            raise ClosedError("the client is closed; zmqmq.connect() makes another one")

    # On the loop

    def post_producer(self, sender: Pumped) -> None:
        """Have the machine of one producer look at its records."""
        if self.is_closed or self.is_forked:
            self.check_usable()
        try:
            self._loop.call_soon_threadsafe(self._pump_producer, sender)
        except RuntimeError:
            self.is_closed = True
            self.check_usable()

    def command(self, action: Callable[..., None], waiter: Waiter, *arguments: object) -> None:
        """Run a command whose waiter must hear of its end, whatever happens."""
        if self.is_closed or self.crashed is not None:
            waiter.reject(self.crashed or ClosedError("the client is closed"))
            return
        self._waiters.add(waiter)
        self._run(action, (waiter, *arguments))

    def pump_soon(self) -> None:
        """Look at the machines before the loop waits again."""
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def close(self) -> None:
        """End every connection and give every command and batch its outcome."""
        if self.is_closed:
            return
        self.is_closed = True
        self._linger_ms = GOODBYE_LINGER_MS
        try:
            self.core.close(monotonic_ns())
            self._carry_out()
        finally:
            for wire in list(self._wires.values()):
                self._close_wire(wire)
            if self._timer is not None:
                self._timer.cancel()
            self._context.destroy(linger=0)
            for waiter in list(self._waiters):
                waiter.reject(DisconnectedError("the client was closed"))
            self._waiters.clear()
            for listener in list(self.listeners):
                listener.notify()

    def _run(self, action: Callable[..., None], arguments: Sequence[object]) -> None:
        if self.is_closed or self.crashed is not None:
            return
        try:
            action(monotonic_ns(), *arguments)
        except Exception as error:  # noqa: BLE001 - see _crash
            self._crash(error)
            return
        self._pump()

    def _pump(self) -> None:
        self._is_pump_due = False
        if self.is_closed or self.crashed is not None:
            return
        now = monotonic_ns()
        try:
            self.core.pump(now)
            self._carry_out()
            wake = self.core.next_wake()
        except Exception as error:  # noqa: BLE001 - see _crash
            self._crash(error)
            return
        self._wake_at(now, wake)

    def _pump_producer(self, sender: Pumped) -> None:
        machine = sender.woken()
        if self.is_closed or self.crashed is not None or machine is None:
            return
        now = monotonic_ns()
        try:
            wake = self.core.pump_producer(now, machine)
            self._carry_out()
        except Exception as error:  # noqa: BLE001 - see _crash
            self._crash(error)
            return
        self._wake_at(now, wake)

    def _wake_at(self, now: int, wake: int) -> None:
        """Come back at that time at the latest, and sooner if there is news."""
        if self._sent_on:
            self._check_again()
        if wake <= now or self.core.news.is_fresh:
            self.pump_soon()
        elif wake < self._timer_at or self._timer is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = wake
            if wake < NEVER:
                self._timer = self._loop.call_later((wake - now) / 1e9, self._timer_over)

    def _timer_over(self) -> None:
        self._timer, self._timer_at = None, NEVER
        self._pump()

    def _crash(self, error: BaseException) -> None:
        """A machine is wrong: nothing it says can be trusted. Everybody who waits hears so."""
        logger.critical("the client has a bug and stops; please report it", exc_info=error)
        self.crashed = error
        for waiter in list(self._waiters):
            waiter.reject(error)
        self._waiters.clear()
        for listener in list(self.listeners):
            listener.crash(error)

    # Effects

    def _carry_out(self) -> None:
        effects = self.core.effects
        for effect in effects:  # more may be appended meanwhile
            self._effect(effect)
        effects.clear()

    def _effect(self, effect: Effect) -> None:
        match effect:
            case Transmit(number, frames):
                wire = self._wires.get(number)
                if wire is not None:
                    self._send(wire, frames)
            case Settled(batches, promise):
                for batch in batches:
                    if batch.watchers:
                        _call_watchers(batch.watchers)
                cast("Listener", promise).notify()
            case Fetched(promise):
                cast("Listener", promise).notify()
            case Resolved(promise, value):
                waiter = cast("Waiter", promise)
                self._waiters.discard(waiter)
                waiter.resolve(value)
            case Rejected(promise, error):
                waiter = cast("Waiter", promise)
                self._waiters.discard(waiter)
                waiter.reject(error)
            case CommitDue(promise):
                cast("Listener", promise).commit_due(monotonic_ns())
            case OpenSocket(number, address):
                self._open_wire(number, address, zmq.DEALER)
            case OpenSubscriber(number, address):
                self._open_wire(number, address, zmq.SUB)
            case Subscribe(number, subject):
                self._set(number, zmq.SUBSCRIBE, subject)
            case Unsubscribe(number, subject):
                self._set(number, zmq.UNSUBSCRIBE, subject)
            case CloseSocket(number):
                wire = self._wires.get(number)
                if wire is not None:
                    self._close_wire(wire)
            case Observed(event, detail, is_warning):
                logger.log(logging.WARNING if is_warning else logging.INFO, "%s: %s", event, detail)

    # Sockets

    def _open_wire(self, number: int, address: str, kind: int) -> None:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        # To a SUB subscriptions are messages, lost where there is no room. To a DEALER comes only
        # what was asked for, and a finite queue for that can abort (zeromq.md 0).
        queues = (0, PUSH_QUEUE, PUSH_BYTES_MAX) if kind == zmq.SUB else (64, 0, -1)
        for option, value in (
            (zmq.SNDHWM, queues[0]),
            (zmq.RCVHWM, queues[1]),
            (zmq.MAXMSGSIZE, queues[2]),
            (zmq.LINGER, 0),
            (zmq.IPV6, 1),
            (zmq.RECONNECT_IVL, random.randint(100, 500)),  # noqa: S311
            (zmq.RECONNECT_IVL_MAX, 10_000),
            (zmq.CONNECT_TIMEOUT, 5_000),
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.TCP_KEEPALIVE_IDLE, 30),
            (zmq.TCP_KEEPALIVE_INTVL, 10),
            (zmq.TCP_KEEPALIVE_CNT, 3),
        ):
            socket.setsockopt(option, value)
        monitor = socket.get_monitor_socket(MONITORED)
        wire = self._wires[number] = _Wire(number, socket, monitor)
        self._loop.add_reader(wire.descriptors[0], self._drain, wire)
        self._loop.add_reader(wire.descriptors[1], self._drain_monitor, wire)
        look_up(self._loop, address, partial(self._connect, wire))

    def _connect(self, wire: _Wire, address: str | None) -> None:
        if address is None or self._wires.get(wire.number) is not wire:
            self._link(wire, Link.UNKNOWN)  # ignored if the wire was given up meanwhile
            return
        try:
            wire.socket.connect(endpoint_of(address))
        except zmq.ZMQError as error:
            logger.warning("cannot connect to %s: %s", address, error)
            self._loop.call_soon(self._link, wire, Link.REFUSED)
        self._loop.call_soon(self._drain_monitor, wire)  # an edge may be gone already
        self._sent_on[wire.number] = wire

    def _set(self, number: int, option: int, subject: bytes) -> None:
        """Change what a SUB socket gets."""
        wire = self._wires.get(number)
        if wire is not None:
            wire.socket.setsockopt(option, subject)
            self._sent_on[number] = wire

    def _close_wire(self, wire: _Wire) -> None:
        del self._wires[wire.number]
        self._sent_on.pop(wire.number, None)
        for descriptor in wire.descriptors:
            self._loop.remove_reader(descriptor)
        wire.socket.disable_monitor()
        wire.socket.close(linger=self._linger_ms)
        wire.monitor.close(linger=0)

    def _send(self, wire: _Wire, frames: Sequence[Body]) -> None:
        if wire.unsent or not self._send_now(wire, frames):
            # Kept until there is room; the machines hear of it and make no more meanwhile.
            wire.unsent.append(frames)
            if len(wire.unsent) == 1:
                self.core.network.note_congestion(wire.number, is_congested=True)
                self._loop.call_later(SEND_AGAIN, self._send_unsent, wire)
        self._sent_on[wire.number] = wire

    def _send_now(self, wire: _Wire, frames: Sequence[Body]) -> bool:
        send = wire.socket.send
        last = len(frames) - 1
        try:
            for index, frame in enumerate(frames):
                flags = _NOBLOCK if index == last else _MORE
                send(frame, flags, copy=len(frame) < COPY_BELOW)
        except zmq.Again:
            # Only the first frame can be refused: libzmq takes a message whole or not at all.
            return False
        return True

    def _send_unsent(self, wire: _Wire) -> None:
        if wire.number not in self._wires or not wire.unsent:
            return
        while wire.unsent and self._send_now(wire, wire.unsent[0]):
            wire.unsent.popleft()
        self._sent_on[wire.number] = wire
        if wire.unsent:
            self._loop.call_later(SEND_AGAIN, self._send_unsent, wire)
        else:
            self.core.network.note_congestion(wire.number, is_congested=False)
        self.pump_soon()

    def _check_again(self) -> None:
        """A send may have consumed the signal that something came in: look."""
        wires, self._sent_on = self._sent_on, {}
        for wire in wires.values():
            if cast("int", wire.socket.getsockopt(_EVENTS)) & _POLLIN:
                self._loop.call_soon(self._drain, wire)

    def _drain(self, wire: _Wire) -> None:
        """Read what has come in, up to a burst; then once more if there may be more."""
        if wire.number not in self._wires:
            return
        receive, get = wire.socket.recv, wire.socket.getsockopt
        now = monotonic_ns()
        try:
            for _ in range(BURST):
                # Cheaper than an exception at the end of every burst, which is mostly one message.
                if not cast("int", get(_EVENTS)) & _POLLIN:
                    break
                frame = receive(_NOBLOCK, copy=False)
                frames: list[Body] = [frame.bytes]
                while frame.more:
                    frame = receive(_NOBLOCK, copy=False)
                    # A small frame would pin the 8 KiB that it was received into.
                    frames.append(frame.buffer if len(frame) >= COPY_BELOW else frame.bytes)
                self.core.handle_message(now, wire.number, frames)
                if wire.number not in self._wires:
                    break
            else:
                self._loop.call_soon(self._drain, wire)
        except zmq.Again:
            pass
        except Exception as error:  # noqa: BLE001 - see _crash
            self._crash(error)
            return
        if wire.unsent:
            self._send_unsent(wire)
        # Whoever waits for an answer is woken first: the threads' change of hands takes as long as
        # the pump does.
        self._carry_out()
        if self.core.news.is_fresh:
            self._pump()

    def _drain_monitor(self, wire: _Wire) -> None:
        while wire.number in self._wires:
            try:
                event = wire.monitor.recv_multipart(zmq.NOBLOCK)[0]
            except zmq.Again:
                return
            link = link_of(event)
            if link is not None:
                self._link(wire, link)

    def _link(self, wire: _Wire, link: Link) -> None:
        if wire.number not in self._wires:
            return
        try:
            self.core.handle_link(monotonic_ns(), wire.number, link)
        except Exception as error:  # noqa: BLE001 - see _crash
            self._crash(error)
            return
        self._pump()


def _call_watchers(watchers: list[Callable[[], None]]) -> None:
    """Each is taken out first: other threads take theirs out when they find the outcome there."""
    while watchers:
        try:
            watch = watchers.pop(0)
        except IndexError:
            return
        try:
            watch()
        except Exception:
            logger.exception("a callback raised")


_alive: weakref.WeakSet[Driver] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child: ZeroMQ's threads are gone and its sockets shared, so nothing may touch them."""
    for driver in _alive:
        driver.is_forked = True
        for listener in list(driver.listeners):
            listener.crash(UsageError("forked"))


os.register_at_fork(after_in_child=_after_fork)
