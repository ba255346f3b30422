"""Where brokers are: what users write, and what a socket connects to."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from zmqmq.errors import ConfigError

DEFAULT_PORT: Final = 5755
DEFAULT_SERVER: Final = f"127.0.0.1:{DEFAULT_PORT}"
ENVIRONMENT: Final = "ZMQMQ_SERVERS"
SERVERS_MAX: Final = 64

logger = logging.getLogger("zmqmq.client")

_ADDRESS: Final = re.compile(
    r"(?:zmqmq://)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?/?\Z"
)


def parse_servers(
    servers: str | Iterable[str] | None, environment: Mapping[str, str]
) -> tuple[str, ...]:
    """The addresses as `host:port`, each once, in the order given.

    None takes `ZMQMQ_SERVERS` of the environment, and without it 127.0.0.1:5755. A string may
    hold several, with commas. Raises ConfigError naming the address that is not one.
    """
    if servers is None:
        servers = environment.get(ENVIRONMENT) or DEFAULT_SERVER
    given = [servers] if isinstance(servers, str) else list(servers)
    found: dict[str, None] = {}
    for entry in given:
        if not isinstance(entry, str):
            raise ConfigError(f"server {entry!r} is {type(entry).__name__}; write 'host:port'")
        for address in entry.split(","):
            if address.strip():
                found[parse_server(address.strip())] = None
    if not found:
        raise ConfigError(f"servers {servers!r} names no address; write 'host:port'")
    if len(found) > SERVERS_MAX:
        raise ConfigError(f"servers names {len(found)} addresses; the most is {SERVERS_MAX}")
    return tuple(found)


def parse_server(address: str) -> str:
    """One address as `host:port`; the port is 5755 where none is written."""
    match = _ADDRESS.match(address)
    if match is None:
        raise ConfigError(
            f"server {address!r} is not an address; write 'host:port' or 'zmqmq://host:port'"
        )
    port = int(match["port"] or DEFAULT_PORT)
    if not 1 <= port <= 65_535:
        raise ConfigError(f"server {address!r} has port {port}; allowed are 1 to 65535")
    return f"{match['host']}:{port}"


def endpoint_of(address: str) -> str:
    """What a ZeroMQ socket connects to."""
    return f"tcp://{address}"


def look_up(
    loop: asyncio.AbstractEventLoop, address: str, found: Callable[[str | None], None]
) -> None:
    """Call back on the loop with the address of a host instead of its name, or None.

    At once where there is no name, else from a thread that nobody waits for. libzmq would look
    names up in the one thread that serves all sockets, and one that no name server answers for
    holds that up for many seconds.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        threading.Thread(target=_look_up, args=(loop, host, port, found), daemon=True).start()
    else:
        found(address)


def _look_up(
    loop: asyncio.AbstractEventLoop, host: str, port: str, found: Callable[[str | None], None]
) -> None:
    numeric = None
    try:
        first = str(socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4][0])
        numeric = f"[{first}]:{port}" if ":" in first else f"{first}:{port}"
    except (OSError, ValueError) as error:
        logger.warning("cannot connect to %s:%s: %s", host, port, error)
    with contextlib.suppress(RuntimeError):  # the loop may be closed by now
        loop.call_soon_threadsafe(found, numeric)
