# Everything a developer and CI run. `make` alone lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# one try may fail for the network's sake
SYNC = $(BIN)/python -m uv pip sync -q --python $(BIN)/python requirements.txt

.PHONY: help setup demo test lint format typecheck lock bench bench-gpu test-gpu test-kafka soak train package clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: .venv/.installed ## create .venv with the pinned dependencies (the other targets do it too)

# --no-deps: what is installed is the lock and nothing else
.venv/.installed: pyproject.toml requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: no $(PYTHON) on the PATH" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed: $(PYTHON) is $$($(PYTHON) -V); name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Installing the pinned dependencies into .venv (some 5 GB, one to three minutes the first time)"
	@mkdir -p .venv
	@{ test -x $(BIN)/pip || $(PYTHON) -m venv .venv; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check uv && { $(SYNC) || $(SYNC); } && \
	  $(BIN)/python -m uv pip install -q --python $(BIN)/python --no-deps -e .; } >.venv/install.log 2>&1 || { \
	  cat .venv/install.log >&2; echo "The installation failed: see above" >&2; exit 1; }
	@touch $@

demo: .venv/.installed ## sample listings through a real broker and worker, tags live
	@$(BIN)/streamer demo

test: lint typecheck ## lint, types, all tests
	$(BIN)/pytest $(ARGS)

lint: .venv/.installed ## ruff: rules and format
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .

format: .venv/.installed ## ruff: put the format right, and what rules it can
	$(BIN)/ruff check -q --fix .
	$(BIN)/ruff format -q .

typecheck: .venv/.installed ## mypy, strict
	$(BIN)/mypy

lock: .venv/.installed ## pin the dependencies of pyproject.toml anew; UPGRADE=1 takes the newest
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --extra dev $(if $(UPGRADE),--upgrade) \
	  --no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements.txt

bench: .venv/.installed ## the figures of the README
	$(BIN)/python benchmarks/stream.py
	$(BIN)/python benchmarks/tagging.py
	$(BIN)/python benchmarks/footprint.py
	$(BIN)/python benchmarks/adapters.py

bench-gpu: .venv/.installed ## what adapters cost on a CUDA device, and its share of the matrix peak
	$(BIN)/python benchmarks/adapters.py --device cuda

test-kafka: .venv/.installed ## the long tests on Apache Kafka: kills, bad connections, brokers that go
	REQUIRE_JAVA=1 $(BIN)/pytest -s -m "kafka and slow" tests/faults tests/integration

soak: .venv/.installed ## 100 random kills and a million hostile inputs, each within SOAK_S (3600) seconds
	REQUIRE_JAVA=1 SOAK_S=$(or $(SOAK_S),3600) \
	  $(BIN)/pytest -s -m slow tests/faults/test_processes.py -k "random or joining"
	timeout $(or $(SOAK_S),3600) $(BIN)/python -m tests.fuzz 1000000 $(or $(FAULT_SEED),20261124)

test-gpu: .venv/.installed ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu $(ARGS)

train: .venv/.installed ## make the default adapter again; OA_MINE=PATH reads OA-Mine's train.jsonl besides
	$(BIN)/taggen train --epochs 16 --learning-rate 1.2e-3 --dev-share 0.08 --out build/default_adapter \
	  $(if $(OA_MINE),--oa-mine $(OA_MINE))
	rm -r taggen/default_adapter && mv build/default_adapter taggen/

package: .venv/.installed ## wheel and sdist into dist/
	rm -rf dist
	$(BIN)/uv build -q

clean: ## remove what tests and builds leave; .venv and fetched jars stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/kafka/target
	find benchmarks schemas streamer taggen tests -name __pycache__ -type d -prune -exec rm -rf {} +
