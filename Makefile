# Everything runs in .venv, which any target makes when it is missing or when pyproject.toml changed.
PY ?= python3
BIN = .venv/bin
.PHONY: demo test check long sim format bench fuzz docs clean

demo: .venv/ready ; $(BIN)/zmqmq demo
test: .venv/ready ; $(BIN)/pytest -n auto -m "not slow"
check: .venv/ready ; $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/pytest -q tests/tidy
long: .venv/ready ; ZMQMQ_TEST_SCALE=10 $(BIN)/pytest -n auto --timeout 3600
sim: .venv/ready ; $(BIN)/python -m zmqmq.sim --soak .soak
format: .venv/ready ; $(BIN)/ruff check --fix . ; $(BIN)/ruff format .
bench: .venv/ready ; $(BIN)/python -m bench
fuzz: .venv/ready ; $(BIN)/python tests/fuzz/run.py
docs: .venv/ready ; $(BIN)/python tests/tidy/generate.py
clean: ; rm -rf .venv dist build

.venv/ready: pyproject.toml
	$(PY) -m venv .venv || { echo "Python came without venv: apt-get install python3-venv" >&2; rm -rf .venv; exit 1; }
	$(BIN)/pip install -q -U pip && $(BIN)/pip install -q -e ".[dev]" && touch $@
