# Sets up a virtual environment in .venv and works in it. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FIGURES := results/benchmark

.PHONY: demo test test-slow lint bench clean

demo: $(VENV)/.installed  ## sample data, fusing, all tasks small, and a page to look at
	$(BIN)/emma-tasks demo

test: $(VENV)/.installed-dev  ## the tests, six to sixteen minutes on two cores
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.installed-dev  ## the tests that take longer
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/update_readme.py --check

bench: $(VENV)/.installed-dev  ## speed, side by side with plain code
	$(BIN)/emma-tasks benchmark --out $(FIGURES)
	$(BIN)/emma-tasks benchmark --recipe paper --size 480x640 --pairs 2 --repeats 2 --out $(FIGURES)
	$(BIN)/python scripts/benchmark_evaluate.py --out $(FIGURES)/evaluate.csv
	$(BIN)/python scripts/benchmark_metrics.py --threads 2 --out $(FIGURES)/metrics.csv
	$(BIN)/python scripts/benchmark_training.py --precision bf16 --steps 1 --out $(FIGURES)/training.csv

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
