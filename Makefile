# Two commands do everything on a machine with Python 3.11 or later:
#
#   make demo    run the main example
#   make test    install what the tests need, check the code, and run all tests
#
# VENV is the virtual environment (made when it is missing), PYTHON the interpreter to make it with.

VENV ?= .venv
PYTHON ?=
SEEDS ?= 10000
KILLS ?= 200
CHAOS_SECONDS ?= 600
STORE ?= sqlite
ARGS ?=

# Relative, unless somebody says otherwise: the path to here may have spaces, which make can't have in targets.
run := $(VENV)/bin/python
pip := $(run) -m pip --disable-pip-version-check install --quiet --no-warn-script-location
code := src tests examples bench tools

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types postgres pythons simulate crash chaos bench clean

help:
	@sed -n 's/^# \{0,1\}//p;/^VENV/q' Makefile
	@echo "Further: lint, format, types, simulate (SEEDS=...), crash (KILLS=...), chaos (CHAOS_SECONDS=...), bench, clean."
	@echo "ARGS=... hands arguments on, as in: make test ARGS='tests/sdk -x'"

# Stamps tell what is installed, so that it is installed once, and again when pyproject.toml changes.
$(VENV)/bin/python:
	@PYTHON='$(PYTHON)' tools/venv.sh '$(VENV)'

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) ($*)"
	@$(pip) --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-examples
	@$(run) -m examples.provision.demo $(ARGS)

# One process more than there are processors, since some tests wait for others' clocks; few, for the sake of memory.
test: lint types postgres pythons
	$(run) -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	$(run) -m ruff check $(code)
	$(run) -m ruff format --check $(code)

# A second version of PostgreSQL for the tests, beside the one that pip installs: Debian's.
postgres:
	@tools/postgres.sh

# Environments of the other Pythons that the machine has.
pythons: $(VENV)/.installed-dev
	@tools/pythons.sh '$(VENV)'

format: $(VENV)/.installed-dev
	$(run) -m ruff check --fix-only --exit-zero --quiet $(code)
	$(run) -m ruff format $(code)

types: $(VENV)/.installed-dev
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(run) -m pyright --pythonpath $(run)

simulate: $(VENV)/.installed-dev
	$(run) -m perdure.testing.simulation --seeds $(SEEDS) $(ARGS)

crash: $(VENV)/.installed-dev
	$(run) -m tests.crash --kills $(KILLS) $(ARGS)

chaos: $(VENV)/.installed-dev postgres
	$(run) -m tests.chaos --seconds $(CHAOS_SECONDS) $(ARGS)

bench: $(VENV)/.installed-bench
	$(run) -m bench --store $(STORE) $(ARGS)

clean:
	rm -rf '$(VENV)' .pytest_cache .ruff_cache .mypy_cache .hypothesis .demo build dist
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
