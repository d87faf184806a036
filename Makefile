# `make demo` and `make test` work from a bare clone: they need Python 3.11+, its venv module and make.

PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(python) -c 'import sys; sys.version_info >= (3, 11) and print("$(python)")' 2>/dev/null)))

.PHONY: help install demo test lint notebooks

help:
	@echo "make install     install everything into .venv"
	@echo "make demo        train dense and sparse networks on handwritten digits, show table and picture"
	@echo "make test        run all tests"
	@echo "make lint        check style and types"
	@echo "make notebooks   make the notebooks from their text, and execute them"

install: .venv/installed

demo: .venv/installed
	.venv/bin/python -m experiments.demo

# One process more than there are cores: many tests wait for programs that they started.
test: .venv/installed
	.venv/bin/python -m pytest -n $$(.venv/bin/python -c 'import os; print(os.cpu_count() + 1)')

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

notebooks: .venv/installed
	.venv/bin/python -m notebooks.execute

# The mark is made last: an installation that was interrupted is taken up again.
.venv/installed: setup.cfg pyproject.toml requirements-lock.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; set PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint requirements-lock.txt --editable '.[experiments,test]'
	@touch $@
