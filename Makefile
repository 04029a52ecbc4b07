# Each target makes the one virtual environment that it needs. Only Python is asked for.
PYTHON ?= python3
BIN := .venv/bin
BACKENDS := jax tensorflow torch
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo demo-all test $(BACKENDS:%=test-%) fuzz lint clean

demo: .venv/ready
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/python examples/quickstart.py

demo-all: .venv/ready
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/python examples/quickstart.py --all

test: $(BACKENDS:%=test-%)

$(BACKENDS:%=test-%): test-%: .venv/ready
	KERAS_BACKEND=$* $(BIN)/python -m pytest --numprocesses 2

fuzz: .venv/ready
	KERAS_BACKEND=torch $(BIN)/python tests/fuzzing.py 10000

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,demo,dev]"
	touch $@

clean:
	rm -rf .venv .cache demo build dist *.egg-info
