# make demo, make test and make lint each work from nothing: they need Python 3.11 or newer and a package index.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_SECONDS ?= 60
ARGS ?=# more arguments for pytest, as in make test ARGS="-k kafka"
TEST_WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest
OR_NONE = || [[ $$? -eq $(if $(ARGS),5,0) ]]
PIP := $(BIN)/python -m pip --disable-pip-version-check
# pip would take two minutes to compile all that is installed, so what the service imports is compiled by importing it. Ray's dozen
# processes take twice as long to start if each has to do it again.
unexport PYTHONDONTWRITEBYTECODE
define INSTALL
$(PIP) install --no-compile --constraint constraints.txt --quiet --editable '.[$(1)]'
@$(BIN)/python -c 'import actors.aggregator, actors.app, actors.ingest, actors.up'
endef

.PHONY: help install demo test test-service test-compute test-quick lint format bench model kube constraints clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Python 3.11 brings a pip that compares each of a hundred thousand wheels with each platform, for most of a minute; a newer
# one comes first.
# The stamps are newer than what they depend on once an installation has succeeded, so it is done once.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "framewatch needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo "not there")." \
	    "Name another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: it lacks ensurepip. On Debian and Ubuntu:" \
	    "apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || { $(PYTHON) -m venv --clear $(VENV) && $(PIP) install --quiet --upgrade pip; }
	@touch $@

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/.python
	$(call INSTALL,demo)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.python
	$(call INSTALL,dev)
	@touch $(VENV)/.runtime $@

install: $(VENV)/.dev ## make the virtual environment with everything in it

demo: $(VENV)/.runtime ## run the demo for DEMO_SECONDS (60)
	$(BIN)/framewatch demo --for $(DEMO_SECONDS)

# What needs Ray, a browser or a quiet machine runs by itself; what only computes fills the pauses, at the lowest priority.
# pytest's 5 means that ARGS leave nothing there.
test: $(VENV)/.dev ## run all tests; ARGS go to pytest
	@$(MAKE) --no-print-directory --jobs=2 test-service test-compute

test-service: $(VENV)/.dev
	$(PYTEST) -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --benchmark-disable \
	  -m 'not ray and not browser and not quiet and not compute' $(ARGS) $(OR_NONE)
	$(PYTEST) -m 'ray or browser or quiet' $(ARGS) $(OR_NONE)

test-compute: $(VENV)/.dev
	@mkdir -p build
	@nice -n 19 $(PYTEST) -m 'compute and not ray and not browser and not quiet' $(ARGS) >build/test-compute.log 2>&1 $(OR_NONE) && tail -n 1 build/test-compute.log \
	  || { cat build/test-compute.log; false; }

test-quick: $(VENV)/.dev ## only the tests without Ray, Kafka, RTSP and a browser
	$(BIN)/python -m pytest -m 'not ray and not kafka and not rtsp and not browser' $(ARGS)

lint: $(VENV)/.dev ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## the microbenchmarks of perf/
	$(BIN)/python -m pytest -o python_files='bench_*.py' --benchmark-only perf $(ARGS)

model: $(VENV)/.dev ## make the bundled model anew in build/simulated-person, and measure it (an hour on two cores)
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/simulated-person.sh build/simulated-person

kube: $(VENV)/.dev ## put serve_config.yaml into kube/rayservice.yaml; make the alerting rules and the dashboard
	$(BIN)/python kube/render.py
	$(BIN)/python kube/monitoring/rules.py
	$(BIN)/python kube/monitoring/dashboard.py

constraints: $(VENV)/.dev ## write the installed versions into constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip list --format=freeze --exclude-editable --disable-pip-version-check \
	  | grep -viE '^(pip|setuptools)==' | sed -E 's/\+[a-z0-9.]+$$//'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt
	@touch $(VENV)/.runtime $(VENV)/.dev

clean: ## remove caches and build outputs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too
	rm -rf $(VENV)
