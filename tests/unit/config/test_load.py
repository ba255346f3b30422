"""Where does each setting come from, and what is said about a wrong one?"""

from __future__ import annotations

from pathlib import Path

import pytest

from zmqmq.config.broker import BrokerConfig, BrokerOptions
from zmqmq.config.load import DECLARED, Loaded, default_data_dir, environment_name, load
from zmqmq.core.broker.options import ServingOptions
from zmqmq.errors import ConfigError

HOME = {"HOME": "/home/ann"}


def loaded(
    tmp_path: Path,
    text: str = "",
    environ: dict[str, str] | None = None,
    flags: dict[str, str] | None = None,
) -> Loaded:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    return load(file, HOME | (environ or {}), flags or {})


def problems(
    tmp_path: Path,
    text: str = "",
    environ: dict[str, str] | None = None,
    flags: dict[str, str] | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, environ, flags)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_without_anything_the_defaults_stand() -> None:
    result = load(None, HOME, {})

    expected = {name: d.default for name, d in DECLARED.items()}
    expected["broker.data_dir"] = "/home/ann/.local/share/zmqmq"
    assert result.config.settings() == expected
    assert set(result.origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("base", "expected"),
    [("/data", "/data/zmqmq"), ("", "/home/ann/.local/share/zmqmq"), ("rel", None)],
)
def test_the_default_data_directory_follows_xdg(base: str, expected: str | None) -> None:
    assert default_data_dir(HOME | {"XDG_DATA_HOME": base}) == (
        expected or "/home/ann/.local/share/zmqmq"
    )


def test_a_flag_beats_a_variable_beats_a_file_beats_a_default(tmp_path: Path) -> None:
    text = "[broker]\nid = 2\nbind = '127.0.0.1:1'\nadvertise = 'a:1'\n"
    environ = {"ZMQMQ_BROKER__BROKER__BIND": "127.0.0.1:2", environment_name("broker.id"): "3"}
    result = loaded(tmp_path, text, environ, {"broker.bind": "127.0.0.1:3"})

    assert result.config.broker.advertise == "a:1"
    assert result.config.broker.id == 3
    assert result.config.broker.bind == "127.0.0.1:3"
    assert result.origins["broker.advertise"] == f"{tmp_path}/broker.toml:4"
    assert result.origins["broker.id"] == "ZMQMQ_BROKER__BROKER__ID"
    assert result.origins["broker.bind"] == "--bind"
    assert result.origins["broker.metadata"] == "default"


def test_sizes_and_durations_have_units(tmp_path: Path) -> None:
    text = "[topics]\nsegment_bytes = '64MiB'\nretention_ms = '7d'\nretention_bytes = 5_000\n"
    result = loaded(tmp_path, text, {"ZMQMQ_BROKER__STORAGE__CHECKPOINT_MS": "2s"})

    assert result.config.topics.segment_bytes == 64 << 20
    assert result.config.topics.retention_ms == 7 * 86_400_000
    assert result.config.topics.retention_bytes == 5_000
    assert result.config.storage.checkpoint_ms == 2_000


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("0", False), ("TRUE", True)])
def test_truth_in_the_environment(tmp_path: Path, word: str, value: bool) -> None:
    result = loaded(tmp_path, environ={"ZMQMQ_BROKER__BROKER__INSECURE": word})

    assert result.config.broker.insecure is value


def test_all_problems_come_at_once_each_with_its_origin(tmp_path: Path) -> None:
    text = """\
[storage]
checkpoint_ms = 5
chekpoint_ms = 1
segment_bytes = 1
producers_max = "many"

[topics]
segment_bytes = "12Q"
retention_ms = 1.5
cleanup = "shred"

[storge]
x = 1
"""
    environ = {
        "ZMQMQ_BROKER__SERVING__SESSIONS_MAX": "many",
        "ZMQMQ_BROKER__SERVING__SESION_LEASE_MS": "1",
        "ZMQMQ_BROKER__BROKER__INSECURE": "perhaps",
        "ZMQMQ_BROKER__UNHEARD": "1",
    }
    flags = {"broker.bind": "nowhere", "broker.data_dir": ""}

    assert problems(tmp_path, text, environ, flags) == [
        "broker.toml:2: storage.checkpoint_ms is 5; the least is 100",
        "broker.toml:3: storage.chekpoint_ms is unknown; did you mean storage.checkpoint_ms?",
        "broker.toml:4: storage.segment_bytes is unknown; did you mean topics.segment_bytes?",
        "broker.toml:5: storage.producers_max is str 'many'; it must be int",
        "broker.toml:8: topics.segment_bytes: '12Q' is not a size; "
        "try 64MiB, 1GB or a number of bytes",
        "broker.toml:9: topics.retention_ms is float 1.5; it must be int",
        "broker.toml:10: topics.cleanup is 'shred'; allowed are delete, compact",
        "broker.toml:12: section [storge] is unknown; did you mean [storage]?",
        "ZMQMQ_BROKER__BROKER__INSECURE: broker.insecure: 'perhaps' is neither true nor false",
        "ZMQMQ_BROKER__SERVING__SESION_LEASE_MS: there is no such setting; "
        "did you mean ZMQMQ_BROKER__SERVING__SESSION_LEASE_MS?",
        "ZMQMQ_BROKER__SERVING__SESSIONS_MAX: serving.sessions_max: 'many' is not a whole number",
        "ZMQMQ_BROKER__UNHEARD: there is no such setting",
        "--bind: broker.bind is 'nowhere'; it must be HOST:PORT with a port of 0 to 65535, "
        "as in 127.0.0.1:5755",
    ]


def test_a_key_outside_any_section_is_led_to_its_place(tmp_path: Path) -> None:
    assert problems(tmp_path, "\nbind = 'x:1'\nserving = 3\nzzzz = 1\n") == [
        "broker.toml:2: bind is unknown; did you mean broker.bind?",
        "broker.toml:3: serving must be a table, as in [serving]",
        "broker.toml:4: zzzz is unknown",
    ]


def test_a_broken_file_is_told_with_its_line(tmp_path: Path) -> None:
    assert problems(tmp_path, "[broker]\nid = = 1\n") == [
        "broker.toml:2: invalid value, at column 6"
    ]
    assert problems(tmp_path, "a = [1,\n\n") == ["broker.toml:2: invalid value"]
    (tmp_path / "latin.toml").write_bytes(b"[broker]\n# \xfc\n")
    with pytest.raises(ConfigError, match=r"latin\.toml:2: is not UTF-8"):
        load(tmp_path / "latin.toml", HOME, {})


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file or directory"):
        load(tmp_path / "none.toml", HOME, {})
    with pytest.raises(ConfigError, match="is a directory"):
        load(tmp_path, HOME, {})


@pytest.mark.parametrize("bind", ["0.0.0.0:5755", "192.168.1.5:1", "[::]:5755", "example.org:1"])
def test_listening_beyond_this_machine_needs_insecure(tmp_path: Path, bind: str) -> None:
    (problem,) = problems(tmp_path, flags={"broker.bind": bind})

    assert problem.startswith(f"--bind: broker.bind is {bind}, which other machines can reach")
    assert "CURVE comes later" in problem
    assert "--insecure" in problem
    flags = {"broker.bind": bind, "broker.insecure": "true", "broker.advertise": "here:1"}
    assert loaded(tmp_path, flags=flags).config.broker.bind == bind


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "localhost:5755", "[::1]:5755", "127.9.9.9:1"])
def test_loopback_needs_nothing(tmp_path: Path, bind: str) -> None:
    assert loaded(tmp_path, flags={"broker.bind": bind}).config.broker.bind == bind


@pytest.mark.parametrize("address", ["5755", "a:", ":1", "a:70000", "a:b", "::1:5", "tcp://a:1"])
def test_what_is_not_an_address_is_refused(tmp_path: Path, address: str) -> None:
    (problem,) = problems(tmp_path, flags={"broker.advertise": address})

    assert problem.startswith(f"--advertise: broker.advertise is {address!r}; it must be HOST:PORT")


@pytest.mark.parametrize("bind", ["0.0.0.0:5755", "[::]:5755"])
def test_listening_everywhere_needs_an_address_to_tell(tmp_path: Path, bind: str) -> None:
    """Clients connect to what METADATA tells them; told 0.0.0.0, they would look at home."""
    (problem,) = problems(tmp_path, flags={"broker.bind": bind, "broker.insecure": "true"})

    assert problem.startswith(f"--bind: broker.advertise is empty while broker.bind is {bind}")


@pytest.mark.parametrize("address", ["0.0.0.0:5755", "[::]:5755", "a:0"])
def test_nobody_is_told_to_connect_to_nowhere(tmp_path: Path, address: str) -> None:
    (problem,) = problems(tmp_path, flags={"broker.advertise": address})

    assert "to which nobody can connect" in problem


def test_a_relative_data_directory_starts_where_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/usr")
    from_file = loaded(tmp_path, "[broker]\ndata_dir = 'd'\n")
    from_flag = loaded(tmp_path, flags={"broker.data_dir": "d"})

    assert from_file.config.broker.data_dir == f"{tmp_path}/d"
    assert from_flag.config.broker.data_dir == "/usr/d"


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert loaded(tmp_path, "[broker]\ndata_dir = '~/d'").config.broker.data_dir == "/home/ann/d"
    (problem,) = problems(tmp_path, "[broker]\ndata_dir = '~nobody-such/d'")
    assert problem.startswith("broker.toml:2: broker.data_dir is '~nobody-such/d': ")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "[serving]\nmemory_bytes = '16MiB'\nunflushed_bytes = '4MiB'\ncredit_bytes = '17MiB'",
            "serving.credit_bytes",
        ),
        ("[serving]\nmemory_bytes = '100MiB'", "serving.unflushed_bytes"),
        ("[serving]\npartitions_max = 7", "serving.offsets_partitions"),
        ("[topics]\nretention_bytes = 20\ncapacity_bytes = 10", "topics.retention_bytes"),
    ],
)
def test_settings_may_not_contradict_one_another(tmp_path: Path, text: str, name: str) -> None:
    (problem,) = problems(tmp_path, text)

    origin, said, _ = problem.split(": ", 2)
    assert origin.startswith("broker.toml:"), "the origin is one that somebody wrote"
    assert said.startswith(f"{name} is ")


def test_a_configuration_made_in_code_keeps_the_same_rules() -> None:
    with pytest.raises(ConfigError, match=r"broker\.data_dir is ''; it must be an absolute path"):
        BrokerConfig(broker=BrokerOptions())
    with pytest.raises(ConfigError, match=r"serving\.sessions_max is 0; the least is 1"):
        BrokerConfig(broker=BrokerOptions(data_dir="/d"), serving=ServingOptions(sessions_max=0))
