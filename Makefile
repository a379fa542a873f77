# `make demo` and `make test` are all a newcomer needs: python >= 3.11, make and git.
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
STUDY ?= demo
SNAKEMAKE := $(BIN)/python -m snakemake
# Jobs call `python`: the environment's, also in shells that have not activated it.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-all test-slow test-workflows test-clusters lint wheels format report paper derive lock
PLUGIN := packages/snakemake-executor-plugin-submitit
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 15

demo: .venv/installed
	$(SNAKEMAKE) --profile profiles/local all
	@echo
	@echo "The demo's report:  reports/demo/index.html   open it in a browser"
	@echo "                    reports/demo/map.png, milestones.md, effects.md ...   the same in files"

# What a newcomer needs: methods, data, statistics, golden values, one small study from end to end.
test: .venv/installed
	$(PYTEST) -m "not slow" tests/unit tests/golden
	$(BIN)/python -m pytest tests/workflow/test_own_method.py

# Everything: that, what of it is slow, and what starts browsers and whole workflows; beside these
# the clusters, whose tests wait most of their time. The rehearsal of a GPU asks for g++.
test-all: test
	$(MAKE) --jobs 2 test-slow test-clusters

test-slow: .venv/installed
	$(PYTEST) -m slow tests/unit tests/golden
	$(MAKE) test-workflows

test-workflows: .venv/installed
	$(PYTEST) --dist loadfile --deselect tests/workflow/test_own_method.py \
	    --ignore $(PLUGIN)/tests/slurm $(PLUGIN) tests/gpu_rehearsal tests/faults \
	    tests/workflow tests/browser

test-clusters: .venv/installed
	$(BIN)/python -m pytest $(PLUGIN)/tests/slurm tests/cluster

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint

# Both packages as others install them; the plugin's is tried by Snakemake's own tests of executors.
wheels: .venv/installed
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist . ./$(PLUGIN)
	$(BIN)/python -m pip install --quiet --no-deps --target dist/installed \
	    dist/snakemake_executor_plugin_submitit-*.whl
	PYTHONPATH=$(CURDIR)/dist/installed $(BIN)/python -m pytest $(PLUGIN)/tests -k official

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

# Tables and figures of STUDY from its records and probe files; trains and probes nothing.
report: .venv/installed
	$(SNAKEMAKE) --profile profiles/local --config study=$(STUDY) partial=true \
	    --allowed-rules reports record collect analyse report_study ledger \
	    --forcerun record collect -- reports

# reports/paper.pdf from the records of all studies; needs LaTeX, trains and probes nothing.
paper: .venv/installed
	$(BIN)/python -m barlow_atlas paper

# What follows from studies and code: the JSON schema, DVC's stages, tables and graph of docs/.
derive: .venv/installed
	$(BIN)/python -m barlow_atlas derive

.venv/installed: requirements.lock pyproject.toml $(PLUGIN)/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	           "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable ./$(PLUGIN) --editable .
	touch $@

# Local version labels such as +cpu are dropped, and what only a CUDA build of torch asks for, at the
# versions it names itself: the lock serves CPU and CUDA builds alike. The plugin is this repository's
# own: a wheel of it tells what it requires, and the lock is of what others publish.
lock: .venv/installed
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir .venv/wheels ./$(PLUGIN)
	PIP_FIND_LINKS=.venv/wheels $(BIN)/python -m piptools compile --quiet --upgrade --extra dev --extra tracking \
	    --strip-extras --no-annotate --no-header --no-emit-options \
	    --constraint requirements.pins -o requirements.lock pyproject.toml
	sed -i -e 's/+[a-z0-9]*$$//' -e '/^\(nvidia-\|cuda-\|triton=\|snakemake-executor-\)/d' requirements.lock
