"""make fuzz: throw bytes at the decoders and at recovery until the time is over.

    python tests/fuzz/run.py [--seconds 60] [--seed 1] [header] [batch] [recovery]

With atheris installed (pip install atheris) it guides the mutation of one target by coverage: name
the target and give --atheris. Otherwise mutation is blind, and a failure prints the seed and the
bytes that repeat it.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz.targets import TARGETS, seeds


def mutate(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One of the corpus with a few changes."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 3:
            del data[at : at + chance.randrange(1, 9)]
        elif kind == 4:
            data[at : at + 4] = chance.choice((0, 1, 2**31, 2**32 - 1)).to_bytes(4, "big")
        else:
            data[at:] = chance.choice(corpus)[at:]
    return bytes(data)


def run_blind(name: str, seconds: float, seed: int) -> int:
    """Rounds done. Raises what the target raises, with the bytes noted."""
    target, corpus, chance = TARGETS[name], seeds(name), random.Random(f"{name}{seed}")
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutate(chance, corpus)
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"target {name}, seed {seed}, round {rounds}, bytes {data.hex()}")
            raise
        rounds += 1
    return rounds


def run_guided(name: str, seconds: int) -> None:
    """Hand over to atheris; it does not come back."""
    import atheris  # type: ignore[import-not-found]

    for module in [m for m in sys.modules if m.startswith(("zmqmq", "tests.fuzz.targets"))]:
        del sys.modules[module]
    with atheris.instrument_imports(include=["zmqmq"]):
        targets = importlib.import_module("tests.fuzz.targets")
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}"], targets.TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="header, batch, recovery; default: all")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--atheris", action="store_true")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    if given.atheris:
        run_guided(names[0], given.seconds)
    for name in names:
        rounds = run_blind(name, given.seconds / len(names), given.seed)
        sys.stdout.write(f"{name}: {rounds} rounds with seed {given.seed}, nothing found\n")


if __name__ == "__main__":
    main()
