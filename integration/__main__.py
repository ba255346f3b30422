"""`python -m integration SEED`: a schedule, the run, and the verdict; its exit code is 1 if
anything is wrong."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from integration import sandbox
from integration.faults import KINDS, NEED_DISKS, Planned
from integration.processes import BROKERS, MEMBERS
from integration.run import run
from integration.schedule import draw

SHOWN_MAX = 40


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m integration", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--faults", type=int, default=20, help="how many (20)")
    parser.add_argument(
        "--kinds", default=",".join(KINDS), help=f"only these of {', '.join(KINDS)}"
    )
    parser.add_argument("--schedule", type=Path, help="lines as they are printed, from this file")
    parser.add_argument("--disks-lie", action="store_true", help="to see that the judge notices")
    parser.add_argument("--folder", type=Path, help="keep logs, disks and the history here")
    parser.add_argument("--plan", action="store_true", help="only print the schedule")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if not sandbox.is_root() and sandbox.INSIDE not in os.environ:
        print(f"without root brokers have no disks: no {', '.join(sorted(NEED_DISKS))}")
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"no such kinds: {', '.join(wrong)}")
    if options.schedule is None:
        schedule = draw(options.seed, options.faults, BROKERS, MEMBERS, kinds)
    else:
        lines = options.schedule.read_text().splitlines()
        schedule = sorted(Planned.parse(line) for line in lines if line.strip())
    if not sandbox.is_root():
        schedule = [plan for plan in schedule if plan.kind not in NEED_DISKS]
    if options.plan:
        print(*schedule, sep="\n")
        return 0
    if problem := sandbox.lacking():
        print(f"cannot run here: {problem}", file=sys.stderr)
        return 2
    sandbox.enter()

    folder: Path = options.folder or Path(tempfile.mkdtemp(prefix="zmqmq-integration-"))
    folder.mkdir(parents=True, exist_ok=True)
    etcd = os.environ.get("ZMQMQ_ETCD") or shutil.which("etcd")
    if etcd is None:
        print("cannot run here: no etcd on PATH or in ZMQMQ_ETCD", file=sys.stderr)
        return 2
    logging.basicConfig(filename=folder / "clients.log", format="%(asctime)s %(message)s")
    print(f"seed {options.seed}, {len(schedule)} faults, {folder}", flush=True)
    verdict = run(
        options.seed,
        schedule,
        folder,
        etcd,
        lambda line: print(line, flush=True),
        disks_lie=options.disks_lie,
    )
    with (folder / "history.jsonl").open("w") as file:
        file.writelines(f"{line}\n" for line in verdict.history.lines())
    print("faults:", json.dumps(verdict.faults), "spared:", json.dumps(verdict.spared))
    print("figures:", json.dumps({k: round(v, 1) for k, v in verdict.figures.items()}))
    for violation in verdict.violations[:SHOWN_MAX]:
        print(f"VIOLATION {violation}")
    kinds_found = Counter(violation.kind for violation in verdict.violations)
    print(f"{len(verdict.violations)} violations", json.dumps(kinds_found))
    if options.folder is None and not verdict.violations:
        shutil.rmtree(folder)
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
