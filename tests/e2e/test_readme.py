"""What the README shows does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zmqmq.testing import Broker

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_program_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    with Broker(tmp_path) as broker:
        monkeypatch.setenv("ZMQMQ_SERVERS", broker.endpoint)
        exec(compile(program, "README.md", "exec"), {})  # the text is ours

    said = capsys.readouterr().out
    assert "RecordMetadata" in said
    assert re.findall(r"b'table 7' b'(.*?)'", said) == ["two coffees", "one tea"]


def test_everything_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text())

    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
