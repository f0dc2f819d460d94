# Everything runs in .venv, made by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs gpu clean

demo: $(VENV)/bench
	$(BIN)/domaingrad compare --data spirals --data colored-digits --out demo

# One process for each core, so one thread for each process.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

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
