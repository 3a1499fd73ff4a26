# `make` lists what can be made. Paths here are relative, so the folder may have any name.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# What .venv was made for: this folder and these files. Where that differs, `setup` makes it again.
SIGNATURE = { pwd -P; cksum requirements.lock requirements-uv.lock pyproject.toml; }
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    --no-annotate --no-emit-index-url --upgrade
EXTRAS = --extra pipeline --extra serve --extra hub --extra onnx --extra gpu --extra dev

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-slow lint lock bench schema plots-page

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

setup:  ## create .venv with exactly the packages of requirements.lock, and the command abn
	@$(SIGNATURE) | cmp -s - .venv/installed && .venv/bin/python -c "" 2>/dev/null || \
	    $(MAKE) --no-print-directory .venv

repro: setup  ## run the whole graph
	dvc repro

test: setup  ## run the tests but the slow ones, in two processes of one thread
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadgroup

test-slow: setup  ## run the slow tests: killed, stopped and starved for real
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadgroup -m slow

lint: setup  ## check style, types and the direction of imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo

lock: setup  ## resolve pyproject.toml's ranges to the newest versions, into the locks
	$(LOCK) $(EXTRAS) pyproject.toml --output-file requirements.lock
	$(LOCK) $(EXTRAS) --extra bench pyproject.toml \
	    --constraints requirements.lock --output-file requirements-bench.lock
	echo uv | $(LOCK) --no-deps - --output-file requirements-uv.lock

bench: setup  ## install what the benchmarks compare with, and the servers of a team's test
	uv pip install --quiet --require-hashes --requirements requirements-bench.lock

schema: setup  ## write the JSON schema of params.yaml
	abn schema > schema/.params.schema.json.abn.part
	mv schema/.params.schema.json.abn.part schema/params.schema.json

plots-page: setup  ## write the page of `dvc plots`, with the lock's Vega in it
	python .dvc/plots/offline.py

# A folder that was moved leaves scripts which start another folder's Python: .venv starts over.
.PHONY: .venv
.venv:
	@test ! -e .venv || test -e .venv/installed || \
	    { echo "error: .venv was not made by make; move it away and run make again" >&2; exit 1; }
	@test "$$(head -n 1 .venv/installed 2>/dev/null)" = "$$(pwd -P)" && .venv/bin/python -c "" 2>/dev/null || \
	    rm -rf .venv
	@test -e .venv || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is too old; install Python 3.11 or newer, or make PYTHON=..." >&2; exit 1; }
	@test -e .venv || { mkdir .venv && touch .venv/installed && $(PYTHON) -m venv .venv && pwd -P > .venv/installed; }
	.venv/bin/python -m pip install --quiet --require-hashes --requirement requirements-uv.lock
	uv pip sync --quiet --require-hashes --compile-bytecode --python .venv/bin/python requirements.lock
	uv pip install --quiet --offline --no-deps --no-build-isolation --python .venv/bin/python --editable .
	@$(SIGNATURE) > .venv/installed
