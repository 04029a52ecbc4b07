# Each target makes the one virtual environment that it needs. Only Python is asked for.
PYTHON ?= python3
BIN := .venv/bin
BACKENDS := jax tensorflow torch
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo demo-all demo-gemma demo-rewards learning bench bench-accelerator test test-all $(BACKENDS:%=test-%) coverage coverage-page $(BACKENDS:%=coverage-%) fuzz mutants $(BACKENDS:%=reach-%) lint compat release-check house docs notebooks clean

demo: .venv/ready
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/python examples/quickstart.py

demo-all: .venv/ready
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/python examples/quickstart.py --all

demo-gemma: .venv/ready
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/python examples/gemma_svft.py

demo-rewards: .venv/ready
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/python examples/transformer_squared.py

# Each method on each task at its own best rate: a night on 2 cores. `make learning QUICK=--quick`: one task.
learning: .venv/ready
	$(BIN)/python benchmarks/learning.py $(QUICK)

bench: .venv/ready
	$(BIN)/python benchmarks/run.py

# Four blocks of Gemma-2B on a GPU or TPU, about five minutes; `.venv` needs a backend that sees it.
bench-accelerator: .venv/ready
	$(BIN)/python benchmarks/run.py --accelerator

# Two workers on two cores: one thread of linear algebra each, and each graph of JAX compiled once.
TESTING := $(BACKENDS:%=test-%) $(BACKENDS:%=reach-%) mutants compat
$(TESTING): export OMP_NUM_THREADS ?= 1
$(TESTING): export OPENBLAS_NUM_THREADS ?= 1
$(TESTING): export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
$(TESTING): export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
$(TESTING): export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

test: $(BACKENDS:%=test-%)

# Every row of every table on every backend, every backbone with every method, ten thousand files.
test-all: export EVERY = 1
test-all: test fuzz

PYTEST = KERAS_BACKEND=$* $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

$(BACKENDS:%=test-%): test-%: .venv/ready
	$(PYTEST)

# Which tests of `make test` reach which lines; then 200 small faults, each against those tests.
REACH := .cache/reach
$(BACKENDS:%=reach-%): reach-%: .venv/ready
	mkdir -p $(REACH)
	rm -f $(REACH)/*$*.coverage*
	PYTHONPATH=tests/mutation COVERAGE_FILE=$(CURDIR)/$(REACH)/$*.coverage $(PYTEST) -p measured_processes \
	  --cov=keras_svd_adapters --cov-context=test --cov-report= --junitxml=$(REACH)/$*.xml

mutants: $(BACKENDS:%=reach-%)
	$(BIN)/python tests/mutation/run.py

# Every backbone of KerasHub with every method: 252 rows a backend, and their page in the guides.
coverage: $(BACKENDS:%=coverage-%)

coverage-page: .venv/ready
	KERAS_BACKEND=torch $(BIN)/python tests/support/coverage_page.py

$(BACKENDS:%=coverage-%): coverage-%: coverage-page
	EVERY=1 $(PYTEST) tests/properties/test_coverage.py

# The contract of `tests/compat` on each version of Keras, as a table; or `make compat KERAS=3.13.2`.
compat: .venv/ready
	$(BIN)/python tests/compat/run.py $(KERAS)

# Wheel and source: built, checked, installed into empty environments with each backend alone.
release-check: .venv/ready
	$(BIN)/python tests/compat/release.py

fuzz: .venv/ready
	KERAS_BACKEND=torch $(BIN)/python tests/support/fuzzing.py 10000

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vermin --quiet --no-tips --violations --target=3.10- keras_svd_adapters

# Rooms, floors, arrows, circles, lengths; and guides/architecture.svg, drawn from the imports.
house: .venv/ready
	$(BIN)/python docs/house.py

docs: export NO_MKDOCS_2_WARNING ?= 1
docs: .venv/docs
	$(BIN)/mkdocs build --strict

# The notebooks keep their outputs; one whose source is newer is executed again.
notebooks: $(foreach part,guides examples,$(patsubst $(part)/notebooks/%.py,$(part)/%.ipynb,$(wildcard $(part)/notebooks/*.py)))

guides/%.ipynb: guides/notebooks/%.py | .venv/docs
	$(BIN)/python docs/execute.py $< $@

examples/%.ipynb: examples/notebooks/%.py | .venv/docs
	$(BIN)/python docs/execute.py $< $@

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,demo,dev]"
	touch $@

clean:
	rm -rf .venv .cache demo build dist site *.egg-info
