# Two commands do everything on a machine that has python3 (3.11 or newer, with venv and pip) and make:
#
#   make demo    set up, extract, draw, score, prove the injection, and lay the pictures out in demo/sheet.png
#   make studio  set up, and open the studio of the same small world in the browser
#   make test    set up, run the tests but for the slow ones; make test-all runs these too

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
SOURCES := pulid_extract pulid_generate scripts tests setup.py
READY := $(VENV)/.ready

.PHONY: demo studio test test-all check lint types pages format docs bench world setup clean

demo: $(READY)
	$(BIN)/pulid-generate demo

studio: $(READY)
	PYTHONPATH=scripts $(BIN)/python -m micro_world.studio

test: $(READY)
	$(PYTEST) -m "not slow"

test-all: $(READY)
	$(PYTEST)

# the quick ones first; `make -j2 check` does two at a time
check: lint types pages test-all

lint: $(READY)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/hadolint Containerfile

types: $(READY)
	$(BIN)/mypy

pages: $(READY)
	PYTHONPATH=scripts $(BIN)/python -m docs.api_reference --check
	PYTHONPATH=scripts $(BIN)/python -m docs.cli_reference --check
	PYTHONPATH=scripts $(BIN)/python -m docs.folder_tables --check
	PYTHONPATH=scripts $(BIN)/python -m docs.sdcli_table --check

format: $(READY)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: $(READY)
	PYTHONPATH=scripts $(BIN)/python -m docs.api_reference
	PYTHONPATH=scripts $(BIN)/python -m docs.cli_reference
	PYTHONPATH=scripts $(BIN)/python -m docs.folder_tables
	PYTHONPATH=scripts $(BIN)/python -m docs.sdcli_table

bench: $(READY)
	PYTHONPATH=scripts $(BIN)/python -m bench

world: $(READY)
	PYTHONPATH=scripts $(BIN)/python -m micro_world.train
	PYTHONPATH=scripts $(BIN)/python -m micro_world.measuring.preservation

setup: $(READY)

$(READY): pyproject.toml setup.py requirements/dev.txt requirements/vocabularies.txt requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; run make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt requirements/vocabularies.txt requirements/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)

clean:
	rm -rf $(VENV) build demo *.egg-info
