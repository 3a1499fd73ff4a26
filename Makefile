# `make` lists what can be made.

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro test lint lock bench schema

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: .venv/installed  ## create .venv with exactly the packages of requirements.lock

repro: setup  ## run the whole graph, after mending what a kill has left
	python -m abn.cli.doctor --fix || true  # it says what it leaves to a person
	dvc repro

test: setup  ## run the tests, in two processes of one thread
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadgroup

lint: setup  ## check style and types
	ruff check .
	ruff format --check .
	mypy

lock: setup  ## resolve pyproject.toml's ranges anew into requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --extra dev --extra gpu --upgrade pyproject.toml \
	    --output-file requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --extra dev --extra gpu --extra bench --upgrade \
	    --constraints requirements.lock pyproject.toml --output-file requirements-bench.lock

bench: setup  ## install what the benchmarks compare with (Hugging Face's Trainer)
	uv pip install --quiet --require-hashes --requirements requirements-bench.lock

schema: setup  ## write the JSON schema of params.yaml
	python -m abn.config.params > schema/params.schema.json

.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is too old; install Python 3.11 or newer, or make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	@touch $@
