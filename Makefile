# Two commands: `make demo` and `make test`. Each makes its own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
DATA ?=
JOBS ?= auto
DEMO ?= demo

.PHONY: test demo lint check clean install

# One process per core, each with one thread; a file's tests stay together.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

check: lint test

demo: $(VENV)/.installed
	$(BIN)/fairseq-ecg demo --dest $(DEMO) $(if $(DATA),--data $(DATA))

install: $(VENV)/.installed

# torch and numpy first, then the rest against them: nothing is built in isolation, so no second
# torch is fetched; READTHEDOCS makes fairseq leave its compiled extensions out, so no compiler is
# needed.
$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" numpy "setuptools>=77"
	READTHEDOCS=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-build-isolation -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
