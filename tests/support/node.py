"""Node and the packages of an example, for tests that run programs of another language."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.broker_process import missing

INSTALL = "npm install --ignore-scripts --no-audit --no-fund --no-package-lock --prefer-offline"


def node_modules(package: Path) -> Path:
    """What a package.json wants, installed once into a cache; skips the test without npm."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            missing(f"no {program} on PATH: on Debian, apt-get install nodejs npm")
    wanted = package.read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zmqmq"
    folder = cache / f"node-{hashlib.sha256(wanted).hexdigest()[:16]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            made = Path(name) / "made"
            made.mkdir()
            (made / package.name).write_bytes(wanted)
            done = subprocess.run(
                INSTALL.split(), cwd=made, capture_output=True, text=True, timeout=100, check=False
            )
            if done.returncode:
                missing(f"`{INSTALL}` of {package} failed: {done.stderr.strip()[-500:]}")
            try:
                made.rename(folder)
            except OSError:  # another test was as fast
                assert folder.exists()
    return folder / "node_modules"
