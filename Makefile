# Two commands do everything on a fresh machine: `make run` and `make test`. Each sets up what it needs first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= tiny
TORCH := $(shell grep '^torch==' requirements.lock)
# Two busy processes with two threads each are slower than with one.
export OMP_NUM_THREADS ?= 2

.PHONY: run test test-slow lint lock up down clean setup

run: setup ## set up, then retrain end to end on the embedded default
	$(BIN)/edit-r2 run --profile $(PROFILE)

test: setup ## set up, then the tests (under 15 minutes on two cores)
	$(BIN)/python -m pytest

test-slow: setup ## the long tests too: kill tests, real servers, S3
	$(BIN)/python -m pytest -m "slow or services"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

up: setup ## Prefect server, MLflow server and a worker on loopback
	$(BIN)/edit-r2 up

down: setup
	$(BIN)/edit-r2 down

setup: $(VENV)/ready

# pip takes torch first, from wherever this machine's pip is told to look (a CPU build where there is one); uv then finds
# the pin satisfied and leaves it alone. Compiled bytecode makes every later import several times faster.
$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

# The lock holds versions only: no address and no path. A local build suffix of torch is dropped.
lock:
	grep -v '^torch==' requirements.lock > requirements.lock.new
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --extra dev \
	  $$(pip config get global.find-links 2>/dev/null | sed 's/^/--find-links /') pyproject.toml -o requirements.lock.new
	sed -E -i 's/^(torch==[0-9.]+)\+[a-z0-9]+/\1/' requirements.lock.new
	mv requirements.lock.new requirements.lock

clean: ## remove everything that was built, trained or recorded here
	rm -rf $(VENV) .edit-r2 data/sessions data/benchmark data/imported build *.egg-info
