"""What the setting `broker.metadata` says about an etcd: where, under which prefix, as whom.

    etcd3://HOST:PORT,HOST:PORT/PREFIX
    etcd3://USER@HOST:PORT/PREFIX?password_file=FILE&ca=FILE&cert=FILE&key=FILE

A password stands in a file, since settings are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote

from zmqmq.config.broker import split_address
from zmqmq.errors import ConfigError

FORM: Final = "etcd3://HOST:PORT,HOST:PORT/PREFIX"
ENDPOINTS_MAX: Final = 16
FILES: Final = ("password_file", "ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """An address that has been read, with what its files hold."""

    endpoints: tuple[str, ...]
    """`HOST:PORT` of the members that are asked, as they were written."""
    prefix: bytes
    """In front of all our keys; empty, or ends with `/`."""
    user: str = ""
    password: str = ""
    ca: bytes | None = None
    """Certificates in PEM by which members are recognised; without them nothing is encrypted."""
    cert: bytes | None = None
    key: bytes | None = None
    """Our own certificate, for an etcd that asks for one."""


def parse(url: str) -> EtcdAddress:
    """Read an address and its files. Raises ConfigError."""
    rest = url.partition("://")[2]
    rest, _, query = rest.partition("?")
    rest, _, path = rest.partition("/")
    user, _, hosts = rest.rpartition("@")
    if ":" in user:
        raise ConfigError(
            "broker.metadata has a password in it, which whoever sees the settings could read: "
            "put it into a file and say etcd3://USER@…?password_file=FILE"
        )
    files = _files(query)
    password = files["password_file"].decode(errors="replace").rstrip("\r\n")
    if bool(user) != bool(password):
        raise ConfigError(
            f"broker.metadata has user {user!r} and {'a' if password else 'no'} password: "
            "a user needs password_file=FILE with the password, and no user needs none"
        )
    ca, cert, key = (files[name] or None for name in ("ca", "cert", "key"))
    if (cert is None) != (key is None) or (cert is not None and ca is None):
        raise ConfigError(
            "broker.metadata: cert=FILE and key=FILE go together, and need ca=FILE, by which the "
            "members of etcd are recognised"
        )
    return EtcdAddress(
        _endpoints(hosts), _prefix(path), unquote(user), password, ca=ca, cert=cert, key=key
    )


def _endpoints(hosts: str) -> tuple[str, ...]:
    endpoints = tuple(dict.fromkeys(hosts.split(",")))
    if not 1 <= len(endpoints) <= ENDPOINTS_MAX:
        raise ConfigError(
            f"broker.metadata names {len(endpoints)} members of etcd; the most is {ENDPOINTS_MAX}"
        )
    for endpoint in endpoints:
        try:
            split_address(endpoint)
        except ConfigError:
            raise ConfigError(
                f"broker.metadata names the member {endpoint!r} of etcd; the form is {FORM}"
            ) from None
    return endpoints


def _prefix(path: str) -> bytes:
    path = unquote(path).strip("/")
    if not (path.isascii() and path.isprintable() and "//" not in path and " " not in path):
        raise ConfigError(
            f"broker.metadata has the prefix {path!r}; it must be printable ASCII without spaces "
            "and empty parts"
        )
    return f"{path}/".encode() if path else b""


def _files(query: str) -> dict[str, bytes]:
    found = dict.fromkeys(FILES, b"")
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in found:
            raise ConfigError(
                f"broker.metadata has {name!r} behind the question mark; there are "
                f"{', '.join(FILES)}, each with the name of a file"
            )
        try:
            found[name] = Path(value).expanduser().read_bytes()
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"broker.metadata: {name}={value} cannot be read: {error}") from None
        if not found[name].strip():
            raise ConfigError(f"broker.metadata: {name}={value} is empty")
    return found
