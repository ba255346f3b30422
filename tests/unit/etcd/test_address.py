"""What an address of etcd says, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from zmqmq.errors import ConfigError
from zmqmq.runtime.etcd.address import ENDPOINTS_MAX, parse


def test_members_and_prefix() -> None:
    address = parse("etcd3://one:2379,127.0.0.1:1,[::1]:2,one:2379/a/b/")

    assert address.endpoints == ("one:2379", "127.0.0.1:1", "[::1]:2")
    assert address.prefix == b"a/b/"
    assert (address.user, address.password, address.ca) == ("", "", None)
    assert parse("etcd3://one:2379").prefix == b""


def test_the_files_are_read(tmp_path: Path) -> None:
    for name in ("password", "ca", "cert", "key"):
        (tmp_path / name).write_text(f"{name} of mine\n")

    address = parse(
        f"etcd3://a%40b@one:1/p?password_file={tmp_path}/password&ca={tmp_path}/ca"
        f"&cert={tmp_path}/cert&key={tmp_path}/key"
    )

    assert (address.user, address.password) == ("a@b", "password of mine")
    assert (address.ca, address.cert) == (b"ca of mine\n", b"cert of mine\n")
    assert address.key == b"key of mine\n"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("etcd3://", "the member '' of etcd; the form is etcd3://HOST:PORT"),
        ("etcd3://one", "the member 'one'"),
        ("etcd3://one:2379,two/p", "the member 'two'"),
        ("etcd3://" + ",".join(f"m{i}:1" for i in range(ENDPOINTS_MAX + 1)), "17 members"),
        ("etcd3://user:secret@one:1/p", "has a password in it"),
        ("etcd3://user@one:1/p", "'user' and no password"),
        ("etcd3://one:1/p?password_file={file}", "'' and a password"),
        ("etcd3://one:1/p?ca={file}&cert={file}", "go together"),
        ("etcd3://one:1/p?cert={file}&key={file}", "need ca=FILE"),
        ("etcd3://one:1/p?ca=/none/such", "ca=/none/such cannot be read"),
        ("etcd3://one:1/p?ca={empty}", "is empty"),
        ("etcd3://one:1/p?cafile={file}", "'cafile'"),
        ("etcd3://one:1/a b", "prefix 'a b'"),
        ("etcd3://one:1/a//b", "prefix 'a//b'"),
        ("etcd3://one:1/%C3%A4", "prefix 'ä'"),
    ],
)
def test_what_is_wrong_is_said(url: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").write_text("\n")

    with pytest.raises(ConfigError) as caught:
        parse(url.format(file=tmp_path / "file", empty=tmp_path / "empty"))

    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)
