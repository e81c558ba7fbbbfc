# Every target builds or reuses the virtual environment in VENV; choose another with `make VENV=/path test`.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test accept check golden bench traps equalities docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the whole pipeline on phantoms; writes demo/report/index.html"
	@echo "make test    the tests (10 minutes at most on 2 cores, after set-up)"
	@echo "make accept  the long checks"
	@echo "make check   ruff, mypy, import-linter, documentation"
	@echo "make golden  the same commands by the commit before (or BASE=REVISION) and by this tree: what differs"
	@echo "make bench   speed beside what people use, as ratios; writes docs/performance.md"
	@echo "make traps   every known trap of the datasets and the test that covers it"
	@echo "make equalities  every official source whose numbers are ours, and the test that holds them equal"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medprobe needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.all: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dicom,volumes,video,hub]' --group dev --group docs
	@touch $@ $(VENV)/.core

demo: $(VENV)/.core
	$(BIN)/medprobe demo --out demo

# One thread a worker: two workers with two threads each on two cores wait for each other.
test: $(VENV)/.all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not accept"

accept: $(VENV)/.all
	$(BIN)/python -m pytest -q -m accept

check: $(VENV)/.all
	$(BIN)/ruff check src tests benchmarks golden
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zensical build --clean

golden: $(VENV)/.all
	$(BIN)/python golden $(BASE)

bench: $(VENV)/.all
	$(BIN)/python benchmarks

traps: $(VENV)/.all
	@$(BIN)/python -m pytest -q --traps --collect-only tests | grep -e '->' | sort

equalities: $(VENV)/.all
	@$(BIN)/python -m pytest -q --equalities --collect-only tests | grep -e '->' | sort

clean:
	rm -rf site .pytest_cache .mypy_cache .ruff_cache .hypothesis
