# Two commands: `make demo` and `make test`. Each needs git, make and Python >= 3.12, nothing else:
# what is missing is installed into .venv beside this file, with uv where there is one, else pip.

VENV := .venv
BIN := $(VENV)/bin
NEEDED := 3.12
PYTHON ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
MUTANTS ?=
# For uv, such as --resolution lowest-direct: the lowest versions that pyproject.toml allows.
INSTALL_ARGS ?=
UV := $(shell command -v uv 2>/dev/null)
# Threads that wait for one another by spinning make training ten times slower on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE
# Installation compiles nothing, so that what the first import compiles has to be kept.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all mutants install format lint types docs site readthedocs package clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.stamp-run ## train on 700 real cells, compare, draw (under a minute)
	$(BIN)/scssl demo $(DEMO_ARGS)

# One process a core, each with one thread: two that share a core wait for one another. Of numba too, which as soon as
# scanpy calls it gives PyTorch as many threads as it has itself, and with them other last bits.
ONE_THREAD = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
TEST = $(ONE_THREAD) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(VENV)/.stamp-test ## the tests, without those marked slow
	$(TEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.stamp-test ## all tests, with a coverage report
	$(TEST) --cov --cov-report=term $(PYTEST_ARGS)

mutants: $(VENV)/.stamp-test ## break the source on purpose, and see that tests notice (MUTANTS="ema train": some)
	$(BIN)/python -m tests.mutants.run $(MUTANTS)

install: $(VENV)/.stamp-dev ## everything a developer needs, into .venv

format: $(VENV)/.stamp-dev ## format the code and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: $(VENV)/.stamp-dev ## check formatting and style
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(VENV)/.stamp-dev ## check types
	$(BIN)/mypy

docs: $(VENV)/.stamp-dev ## build the documentation into docs/_build/html, warnings as errors
	rm -rf docs/_build/html docs/generated
	$(ONE_THREAD) $(BIN)/python -m sphinx -W --keep-going -j auto -b html docs docs/_build/html

site: $(VENV)/.stamp-test ## look at the pages that `make docs` built in Chromium; skipped where there is none
	$(BIN)/python -m pytest tests/test_site.py -q

readthedocs: $(VENV)/.stamp-dev ## the commands of .readthedocs.yaml, in an environment of their own
	$(BIN)/python docs/readthedocs.py

package: | $(BIN)/python ## wheel and source archive into dist/, each tried in an empty environment, with pip and with uv
	rm -rf dist
	@[ -n "$(UV)" ] || $(BIN)/python -m pip install --quiet uv
	$(or $(UV),$(BIN)/uv) build
	$(or $(UV),$(BIN)/uv) venv --quiet --seed --python $(BIN)/python dist/pip
	dist/pip/bin/python -m pip install --quiet dist/*.whl
	cd dist && pip/bin/scssl --version && pip/bin/scssl demo --out demo
	rm -rf dist/pip dist/demo
	$(or $(UV),$(BIN)/uv) venv --quiet --python $(BIN)/python dist/uv
	$(or $(UV),$(BIN)/uv) pip install --quiet --python dist/uv/bin/python dist/*.tar.gz
	cd dist && uv/bin/scssl --version && uv/bin/scssl demo --out demo
	rm -rf dist/uv dist/demo

clean: ## remove caches and built documentation (.venv stays)
	rm -rf docs/_build docs/generated dist htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# --- environment -----------------------------------------------------------------------------

# The first Python that is new enough; PYTHON=... takes that one and no other.
define make_venv
chosen=; \
for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python); do \
  if command -v $$candidate >/dev/null 2>&1 && $$candidate -c \
    'import sys; sys.exit(sys.version_info < tuple(map(int, "$(NEEDED)".split("."))))' \
    >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
done; \
if [ -n "$(UV)" ]; then \
  "$(UV)" venv --quiet --clear --python "$${chosen:-$(NEEDED)}" $(VENV); \
elif [ -n "$$chosen" ]; then \
  $$chosen -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }; \
else \
  wanted=$(or $(PYTHON),python3); \
  if command -v $$wanted >/dev/null 2>&1; then found=$$($$wanted --version 2>&1 | head -n 1); fi; \
  echo "scssl needs Python $(NEEDED) or newer; $$wanted is $${found:-not installed}." >&2; \
  echo "Install Python $(NEEDED), then: make $(MAKECMDGOALS) PYTHON=python$(NEEDED)" >&2; \
  exit 1; \
fi
endef

# $(1): what to install. A venv made by another tool may lack pip or have one too old for groups.
# uv unpacks several packages at once, which takes a third of pip's time; where it cannot be had, or
# does not find the index that pip is set up for, pip does it, unless it is to be INSTALL_ARGS.
# Not compiled: of 20,000 files Python compiles those that are imported, once, when they are first.
define install
@echo "Installing into $(VENV) (the first time this downloads PyTorch and takes some minutes)"
@if [ -n "$(UV)" ]; then \
  "$(UV)" pip install --python $(BIN)/python $(INSTALL_ARGS) $(1); \
else \
  { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; } && \
  { $(BIN)/python -m pip install --quiet uv && \
    $(BIN)/uv pip install --quiet --python $(BIN)/python $(INSTALL_ARGS) $(1); } || \
  { [ -z "$(INSTALL_ARGS)" ] && $(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" && \
    $(BIN)/python -m pip install --quiet --no-compile $(1); }; \
fi
@touch $@
endef

$(BIN)/python:
	@$(make_venv)

# Order-only: the interpreter's date says nothing about what is installed, pyproject.toml's does.
$(VENV)/.stamp-run: pyproject.toml | $(BIN)/python
	$(call install,-e .)

$(VENV)/.stamp-test: pyproject.toml | $(BIN)/python
	$(call install,-e . --group test)
	@touch $(VENV)/.stamp-run

$(VENV)/.stamp-dev: pyproject.toml | $(BIN)/python
	$(call install,-e . --group dev)
	@touch $(VENV)/.stamp-run $(VENV)/.stamp-test
