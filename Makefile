# make demo | test | lint | bench | lock: each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test lint bench lock clean
.DELETE_ON_ERROR:

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --cores all

test: lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check tumorfab tests benchmarks
	$(BIN)/ruff format --check tumorfab tests benchmarks
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --lint

bench: $(READY)
	$(BIN)/python -m benchmarks.coarse

# The environment of the lock, and nothing else; made again when the lock changes.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)

# Writes the lock anew from pyproject.toml. Run on Linux with Python 3.11, then commit.
lock:
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0 '.[dev]'
	( echo '# Made by `make lock` with Python 3.11; what `make`, CI and envs/ install.'; \
	  $(VENV)-lock/bin/python -m pip list --format=freeze --exclude tumorfab --exclude pip \
	    --exclude setuptools | sed 's/+cpu$$//' ) > requirements.lock
	( echo '# Made by `make lock`: the packages of requirements.lock.'; \
	  printf 'channels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n'; \
	  sed -n 's/^[^#]/      - &/p' requirements.lock ) > envs/tumorfab.yaml
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) results .snakemake
