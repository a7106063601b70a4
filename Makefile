# All commands of the project. `make` alone lists the targets; each makes the environment when it is missing or stale.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The versions that `make setup` installs; empty (`make setup LOCK=`) takes the newest that pyproject.toml allows.
LOCK ?= requirements.lock
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# As many processes as cores, each with one thread: threads that wait for one another spin. A test that hangs for ten
# minutes ends its process, which prints where its threads are, and with it all tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --max-worker-restart 0 \
	-o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
DATA ?=
RUN ?=
PROTOCOL ?=
METHOD ?=
RECIPES ?= $(if $(PROTOCOL),configs/protocols/$(PROTOCOL).yaml) $(if $(METHOD),configs/methods/$(METHOD).yaml)
ARGS ?=

.PHONY: help setup shards demo train evaluate sweep compare bench test test-slow test-gpu test-lowest gpu-check lock lint format

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(if $(LOCK),$(PIP) --require-hashes --requirement $(LOCK))
	$(PIP) $(if $(LOCK),--no-deps --no-build-isolation --editable .,--upgrade --editable '.[dev]')
	@touch $@

setup: $(STAMP) ## make the environment (.venv) with everything in it

shards: $(STAMP) ## annotations and images to shards: make shards DATA=configs/shards/coco.yaml ARGS="output=..."
	@$(if $(DATA)$(ARGS),,echo 'give a recipe: make shards DATA=configs/shards/coco.yaml ARGS="source.images=... output=..."')
	$(BIN)/python sharding/build.py $(DATA) $(ARGS)

demo: $(STAMP) ## the main job in small: draw people, shard, train with and without the unlabelled, compare (ARGS="kind=image")
	$(BIN)/python training/demo.py $(ARGS)

train: $(STAMP) ## train a run, or continue it: make train PROTOCOL=coco-1k METHOD=adaptive_mixup ARGS="seed=1" (or RECIPES=FILES)
	$(BIN)/python training/run.py $(RECIPES) $(ARGS)

evaluate: $(STAMP) ## score a run: make evaluate RUN=runs/coco-1k/adaptive_mixup ARGS="checkpoint=best" (the newest without)
	$(BIN)/python training/evaluate.py $(RUN) $(ARGS)

sweep: $(STAMP) ## train a queue of runs, or continue it where it stopped: make sweep RUN=configs/sweeps/drawn.yaml
	$(BIN)/python training/sweep.py $(RUN) $(ARGS)

compare: $(STAMP) ## one table of finished runs: make compare RUN=runs/drawn ARGS="baseline=supervised"
	$(BIN)/python training/compare.py $(RUN) $(ARGS)

bench: $(STAMP) ## throughput of loader and training step against the classic ones (ARGS="photos=DIR annotations=FILE")
	$(BIN)/python -m semipose.training.bench loader $(ARGS)
	$(BIN)/python -m semipose.training.bench steps $(ARGS)
	$(BIN)/python -m semipose.training.bench photos $(ARGS)

test: $(STAMP) ## the tests that need no GPU, in minutes
	$(PYTEST) -m "not gpu and not slow" $(ARGS)

test-slow: $(STAMP) ## the tests that take long on a CPU: killed runs, several processes, compilers (ARGS="FILES")
	$(PYTEST) -m "slow and not gpu" $(ARGS)

test-gpu: $(STAMP) ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu $(ARGS)

gpu-check: $(STAMP) ## what only a machine with a GPU can show, in 9 minutes: tests, benchmarks, a training
	$(BIN)/python training/gpu_check.py $(ARGS)

test-lowest: $(STAMP) ## the fast tests with the lowest versions that pyproject.toml names (.venv-lowest)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses auto --dist loadfile -m "not gpu and not slow" $(ARGS)

lock: $(STAMP) ## renew requirements.lock: the newest versions of everything, with their hashes
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 \
		--generate-hashes --extra dev --output-file requirements.lock pyproject.toml

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## put the code into the house style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
