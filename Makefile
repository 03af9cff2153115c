.POSIX:

PYTHON ?= python3
SEEDS ?= 1
STUDY_SEEDS ?= 3
ARGS ?=

VENV_PYTHON = .venv/bin/python

.PHONY: help install demo test lint bench study docs docs-serve

help:
	@echo 'make install   make .venv with pinned versions (every other verb does it where needed)'
	@echo 'make demo      SFT, verifier, GRPO on built-in clips, then comparison and report; SEEDS=3 for three seeds'
	@echo 'make test      run the tests; ARGS="-k grpo -x" is passed on to pytest, ARGS="-n 0 …" runs one process'
	@echo 'make lint      check format, lint and types'
	@echo 'make bench     run the benchmarks'
	@echo 'make study     how good must the verifier be? STUDY_SEEDS=3; about 25 minutes a seed'
	@echo 'make docs      this documentation as a site, build/site/index.html; runs the notebooks where they have changed'
	@echo 'make docs-serve  the same at http://127.0.0.1:8000, built anew whenever a page changes'
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter that .venv is made with.'

install: .venv/.installed

# written last, so that an interrupted install is taken up again
.venv/.installed: pyproject.toml constraints.txt
	@echo 'Installing erv_lightning and its pinned dependencies into .venv: about 2-4 minutes, 6 GB, once.'
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@$(VENV_PYTHON) -m pip install --disable-pip-version-check --no-input -c constraints.txt -e '.[dev]'
	@$(VENV_PYTHON) -m pip install --disable-pip-version-check --no-input --no-deps sweeps==0.3.0
	@touch .venv/.installed

demo: .venv/.installed
	@$(VENV_PYTHON) -m erv_lightning demo --seeds $(SEEDS)

test: .venv/.installed
	@$(VENV_PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: .venv/.installed
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy

bench: .venv/.bench
	@$(VENV_PYTHON) -m benchmarks.run

study: .venv/.installed
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m benchmarks.verifier_quality --seeds $(STUDY_SEEDS)

# a broken link fails it
docs: build/notebooks/.done
	@NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs build --strict
	@echo 'open build/site/index.html'

docs-serve: build/notebooks/.done
	@NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs serve --no-strict

build/notebooks/.done: .venv/.installed $(wildcard notebooks/*.py notebooks/*.ipynb)
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) notebooks/execute.py --to build/notebooks
	@touch build/notebooks/.done

# what only the benchmarks need; no other verb installs it
.venv/.bench: .venv/.installed pyproject.toml
	@echo 'Installing what the benchmarks compare with (TRL) into .venv: about 0.2 GB, once.'
	@$(VENV_PYTHON) -m pip install --disable-pip-version-check --no-input -c constraints.txt -e '.[bench]'
	@touch .venv/.bench
