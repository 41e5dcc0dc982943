# Every command that a person or CI runs. `make` alone lists them.
#
# A machine needs Python 3.11 or newer and make, nothing else. pip is asked as it is set up on the machine: to take a
# CPU build of PyTorch, set it up so beforehand (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Not compiled ahead: Python compiles and keeps what is imported, which is a small part of what is installed.
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt

# Containers often set this; then each of our many processes would compile what it imports anew, 7 seconds of a training.
unexport PYTHONDONTWRITEBYTECODE

# Options of `make demo`: ARCHITECTURES="lstm gru" PRESET=small ENCODER=lsa-768
DEMO_OPTIONS = $(foreach name,$(ARCHITECTURES),--architecture $(name)) \
	$(if $(PRESET),--preset $(PRESET)) $(if $(ENCODER),--encoder "$(ENCODER)")
# Options of the test targets: PYTEST_OPTIONS="-k ordering"
PYTEST = $(BIN)/python -m pytest $(PYTEST_OPTIONS)
# Tests that start no services share nothing, so they run in as many processes as there are cores, four at most.
IN_PARALLEL = --numprocesses auto --maxprocesses 4
# Processes that share the cores have one thread each; with more, threads wait for each other a third of the time.
ONE_THREAD = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup setup-encoders setup-dev setup-all demo ui down test test-all test-slow test-most lint types imports coverage bench bench-smoke docs ci clean
.DELETE_ON_ERROR:

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed  ## create .venv with everything the pipeline needs
	@:

setup-encoders: $(VENV)/.installed-encoders  ## the same, with sentence-transformers for encoders such as gtr-t5-base
	@:

setup-dev: $(VENV)/.installed-dev
	@:

setup-all: $(VENV)/.installed-all
	@:

demo: $(if $(filter-out lsa-768,$(ENCODER)),setup-encoders,setup)  ## the whole lineage on real text: table, training, reports, champion
	@$(BIN)/lvm demo $(DEMO_OPTIONS)

ui: setup  ## Dagster and MLflow in the browser, on loopback; Ctrl-C stops everything
	@exec $(BIN)/python -m lvm_pipeline.adapters.launcher $$PPID $(BIN)/lvm ui  # ends with this make, even a killed one

down: setup  ## stop the services and the built-in Postgres
	@$(BIN)/lvm down

test: setup-dev  ## every test except those marked slow, gpu or browser
	$(ONE_THREAD) $(PYTEST) $(IN_PARALLEL) -m "not slow and not gpu and not browser"

test-all: setup-all  ## every test that this machine can run
	$(PYTEST)

test-slow: setup-all  ## what `make test` leaves out
	$(PYTEST) -m "slow or gpu or browser"

# Real services and a real browser now and then miss a deadline on a busy machine, so what fails has a second try. Files
# share no services, and much of their time is waiting for some. With three processes on two cores nothing is sooner, and
# browsers miss their deadlines.
test-most: setup-all  ## the same, without those that take minutes or measure speed
	$(ONE_THREAD) $(PYTEST) --reruns 1 --numprocesses 2 --dist loadfile -m "(slow or browser) and not long"

lint: setup-dev  ## style, format, import contracts, unused or missing dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .

imports: setup-dev  ## import every module by itself
	$(BIN)/python -m lvm_pipeline_tests.import_every_module

types: setup-dev  ## check the types
	$(BIN)/pyright

bench: setup-all  ## compare speed and scores with other projects, as one table; takes about half an hour
	@$(BIN)/python benchmarks/bench.py

bench-smoke: setup-all  ## the same scripts with tiny inputs, to test that they run; their figures mean nothing
	@$(BIN)/python benchmarks/bench.py --smoke

docs: setup  ## regenerate docs/checks.md and docs/training-options.md
	@$(BIN)/python -c 'from lvm_pipeline.training.option_table import as_markdown; print(as_markdown(), end="")' > docs/training-options.md
	@$(BIN)/python -c 'from lvm_pipeline.lineage.invariants import as_markdown; print(as_markdown(), end="")' > docs/checks.md

ci:  ## what continuous integration runs before `make test`: style, types, the demo, most slow tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint imports types
	@$(MAKE) --no-print-directory demo
	@$(MAKE) --no-print-directory test-most  # the smoke form of the benchmarks is one of these tests

coverage: setup-dev  ## the tests' line and branch coverage of the stages
	$(PYTEST) -m "not gpu and not browser" --cov --cov-report=
	$(BIN)/coverage report --fail-under=90 --include='lvm_pipeline/source/*,lvm_pipeline/concepts/*,lvm_pipeline/sequences/*,lvm_pipeline/exchange/*,lvm_pipeline/architectures/*,lvm_pipeline/measures/*,lvm_pipeline/decoding/*,lvm_pipeline/training/*,lvm_pipeline/evaluation/*,lvm_pipeline/experiments/*'

clean:  ## delete .venv and caches; the state in LVM_HOME stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage

# The stamps make a warm run cost nothing: pip is asked again only when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing PyTorch (1 of 2; the first time takes a minute or two) ..."
	@$(PIP) torch
	@echo "Installing the pipeline (2 of 2) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-encoders: $(VENV)/.installed
	@echo "Installing sentence encoders ..."
	@$(PIP) --editable '.[encoders]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the test tools ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-all: $(VENV)/.installed-dev
	@echo "Installing what the slow tests need: a sentence encoder, Ray, Kubernetes ..."
	@$(PIP) --editable '.[test-all]'
	@touch $@
