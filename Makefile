# Everything runs in .venv, made by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all lint docs attack soak gpu oldest clean

demo: $(VENV)/bench
	$(BIN)/domaingrad compare --data spirals --data colored-digits --out demo

# One process for each core, so one thread for each process.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal -m "not slow"

# Those marked slow, too: kills, lost nodes, three processes.
test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

# All of the attack, tests marked slow included; a share of it is in `make test`.
attack: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal tests/attack

# Random kills for so many minutes.
MINUTES ?= 10
soak: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attack.soak --minutes $(MINUTES)

lint: $(VENV)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# A static site in site/, its warnings as errors; nothing is fetched while it is built.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

# On a machine with a GPU; eight minutes, results in benchmarks/results/gpu.md.
gpu: $(VENV)/bench
	$(BIN)/python benchmarks/gpu.py

# The core under the lowest versions that it asks for; PyTorch's is a large download.
oldest: $(VENV)/oldest
	OMP_NUM_THREADS=1 $(VENV)/oldest/bin/pytest tests/rules tests/engine tests/dropout tests/inspect \
		-m "not slow" --ignore tests/engine/distributed --ignore tests/engine/test_compiled.py

$(VENV)/oldest:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e ".[bench]" hypothesis pytest

clean:
	rm -rf $(VENV) demo site

$(BIN)/pip:
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'domaingrad needs Python 3.11 or newer, found ' + sys.version"
	$(PYTHON) -m venv $(VENV)

$(VENV)/bench: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e ".[bench]"
	@touch $@

$(VENV)/docs: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e ".[bench,docs]"
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e ".[bench,dev,docs]"
	@touch $@
