"""A real broker inside your test process: `Broker`, and pytest fixtures (see broker.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zmqmq.testing.broker import Broker as Broker

__all__ = ["Broker"]


def __getattr__(name: str) -> object:
    # Late, because pytest imports this package in every project that has zmqmq installed.
    if name == "Broker":
        from zmqmq.testing.broker import Broker

        return Broker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
