"""What this client calls itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def software(client_name: str) -> str:
    """The `client` field of HELLO: software, version, and the name that the user gave."""
    try:
        release = version("zmqmq")
    except PackageNotFoundError:
        release = "?"
    return f"zmqmq-python {release}" + (f" ({client_name})" if client_name else "")
