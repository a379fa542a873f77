# `make demo` and `make test` are all a newcomer needs: python >= 3.11, make and git.
SHELL := bash
PYTHON ?= python3
# Of an active conda environment in which this is installed (environment.yml), else of .venv.
CONDA := $(and $(CONDA_PREFIX),$(wildcard $(CONDA_PREFIX)/lib/python3*/site-packages/barlow_atlas-*))
BIN := $(if $(CONDA),$(CONDA_PREFIX)/bin,.venv/bin)
INSTALLED := $(if $(CONDA),,.venv/installed)
STUDY ?= demo
REPEAT ?= 1
SNAKEMAKE := $(BIN)/python -m snakemake
# Jobs call `python`: the environment's, also in shells that have not activated it.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo test test-all test-slow test-workflows test-clusters lint wheels format report paper derive lock
PLUGIN := packages/snakemake-executor-plugin-submitit
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 15

demo: $(INSTALLED)
	$(BIN)/python -m barlow_atlas run demo

# What a newcomer needs: methods, data, statistics, golden values, one small study from end to end.
test: $(INSTALLED)
	$(PYTEST) -m "not slow" tests/unit tests/golden
	$(BIN)/python -m pytest tests/workflow/test_own_method.py

# Everything: that, what of it is slow, and what starts browsers and whole workflows; beside these
# the clusters. The rehearsal of a GPU asks for g++.
test-all: test
	$(MAKE) --jobs 2 test-slow test-clusters

test-slow: $(INSTALLED)
	$(PYTEST) -m slow tests/unit tests/golden
	$(MAKE) test-workflows

test-workflows: $(INSTALLED)
	$(PYTEST) --dist loadfile --deselect tests/workflow/test_own_method.py \
	    --ignore $(PLUGIN)/tests/slurm $(PLUGIN) tests/gpu_rehearsal tests/faults \
	    tests/workflow tests/browser

# Three files at a time, each with a Slurm of its own: they wait most of their time. A worker takes
# the next file when two tests of its own are left; in this order all three are done at about the same
# time. REPEAT=20: as many times, or until one test fails.
CLUSTERS := tests/cluster/test_faults_on_slurm.py tests/cluster/test_several_nodes.py \
    $(addprefix $(PLUGIN)/tests/slurm/test_,slurm.py official_on_slurm.py operators.py)
CLUSTERS += $(filter-out $(CLUSTERS),$(wildcard $(PLUGIN)/tests/slurm/test_*.py tests/cluster/test_*.py))
test-clusters: $(INSTALLED)
	for i in $$(seq $(REPEAT)); do \
	    echo "Tests on clusters: $$i of $(REPEAT), $$(date)"; \
	    $(PYTEST) --numprocesses 3 --dist loadfile --no-loadscope-reorder $(CLUSTERS) || exit; \
	done

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint

# Both packages as others install them: this one's is tried outside of a clone, the plugin's by
# Snakemake's own tests of executors.
wheels: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist . ./$(PLUGIN)
	$(BIN)/python -m pip install --quiet --no-deps --target dist/installed \
	    dist/snakemake_executor_plugin_submitit-*.whl
	$(BIN)/python -m pytest tests/wheels
	PYTHONPATH=$(CURDIR)/dist/installed $(BIN)/python -m pytest $(PLUGIN)/tests -k official

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

# Tables and figures of STUDY from its records and probe files; trains and probes nothing.
report: $(INSTALLED)
	$(SNAKEMAKE) --profile profiles/local --config study=$(STUDY) partial=true \
	    --allowed-rules reports record collect analyse report_study ledger \
	    --forcerun record collect -- reports

# reports/paper.pdf from the records of all studies; needs LaTeX, trains and probes nothing.
paper: $(INSTALLED)
	$(BIN)/python -m barlow_atlas paper

# What follows from studies and code: the JSON schema, DVC's stages, tables and graph of docs/.
derive: $(INSTALLED)
	$(BIN)/python -m barlow_atlas derive

.venv/installed: requirements.lock pyproject.toml $(PLUGIN)/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	           "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv from requirements.lock: $$(wc -l < requirements.lock) packages, several GB to" \
	      "download, 6.8 GB on disk, of which torch's CUDA build takes 5.2. Minutes; once. pip may keep" \
	      "the download too: \`pip cache info\` says how much, \`pip cache purge\` frees it."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable ./$(PLUGIN) --editable .
	-$(BIN)/python -m barlow_atlas doctor
	touch $@

# Local version labels such as +cpu are dropped, and what only a CUDA build of torch asks for, at the
# versions it names itself: the lock serves CPU and CUDA builds alike. The plugin is this repository's
# own: a wheel of it tells what it requires, and the lock is of what others publish.
lock: $(INSTALLED)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir .venv/wheels ./$(PLUGIN)
	PIP_FIND_LINKS=.venv/wheels $(BIN)/python -m piptools compile --quiet --upgrade --extra dev --extra tracking --extra hub \
	    --strip-extras --no-annotate --no-header --no-emit-options \
	    --constraint requirements.pins -o requirements.lock pyproject.toml
	sed -i -e 's/+[a-z0-9]*$$//' -e '/^\(nvidia-\|cuda-\|triton=\|snakemake-executor-\)/d' requirements.lock
