# Short words for what a newcomer does; `make help` lists them.
#
# An environment is made on first use, and updated when a lock file or setup.py changes. Stamp files in
# it record that, so that a second run starts at once.

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-all test-orders test-tpu check bench reference wheel lock clean

VENV := .venv
VENV_TPU := .venv-tpu
VENV_PEERS := .venv-peers
SET_UP := tools/environment.sh tools/find_python.sh setup.py hmoe/version.py
export PYTHON

# Processes that run tests; each takes about a gigabyte of memory.
JOBS := 2
PYTEST_JOBS = -n $(JOBS) --dist worksteal
# Seeds the order of the tests. A failure that depends on the order returns with the same number.
SEED := 1
PYTEST = -m pytest -q $(PYTEST_JOBS) --randomly-seed=$(SEED)

# Further arguments of the command: make train ARGS="--model_dir=/tmp/x", make test ARGS="-k routers".
ARGS :=

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 12

train: $(VENV)/.ready ## train the default job on two levels of experts, evaluate it, show answers
	@$(VENV)/bin/hmoe train $(ARGS)

test: $(VENV)/.ready-dev ## run the tests, except slow ones
	@$(VENV)/bin/python $(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.ready-dev ## run the slow tests
	@$(VENV)/bin/python $(PYTEST) -m slow $(ARGS)

test-all: test test-slow ## run all tests

test-orders: $(VENV)/.ready-dev ## run the tests, except slow ones, in another order
	@$(MAKE) --no-print-directory test SEED=2

# What depends on the versions: the stand-ins, the comparison with upstream, and what only the TPU line
# has, TPUEstimator and T5's own command.
TPU_TESTS := tests/compat tests/install tests/layer/test_parity.py tests/layer/test_mended.py \
	tests/t5/sessions/test_tpu_estimator.py tests/t5/sessions/test_tpu_build.py \
	tests/t5/sessions/test_tpu_hooks.py tests/mesh/test_randomness.py tests/t5/commands/test_t5_command.py

test-tpu: $(VENV_TPU)/.ready-dev ## run some of the tests on the TPU line (Python 3.10 or 3.11)
	@$(VENV_TPU)/bin/python $(PYTEST) $(ARGS) $(TPU_TESTS)

check: $(VENV)/.ready-dev ## check style (ruff), types (mypy) and imports (import-linter)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check --quiet . || { echo "not formatted; run: $(VENV)/bin/ruff format ."; exit 1; }
	@$(VENV)/bin/mypy
	@report=$$($(VENV)/bin/lint-imports --no-cache --no-logo) || { echo "$$report"; exit 1; }

# Scripts in benchmarks/ that answer questions of their own: trace.py, metrics_cost.py, balance_study.py,
# processes.py, why_two_levels.py.
bench: $(VENV)/.ready-dev $(VENV_PEERS)/.ready ## measure time and memory of the layer beside its peers
	@$(VENV)/bin/python -m benchmarks $(ARGS)

reference: $(VENV)/.ready ## write docs/reference.md from the code
	@$(VENV)/bin/python -m tools.reference

wheel: $(VENV)/.ready ## build dist/hmoe-*.whl
	@rm -rf build
	@$(VENV)/bin/python -m pip wheel -qq --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@ls dist/*.whl

lock: $(VENV)/.ready-dev ## write the lock files (ARGS=--upgrade takes newer releases)
	@tools/lock.sh $(ARGS)

clean: ## remove the environments, caches and builds
	rm -rf $(VENV) $(VENV_TPU) $(VENV_PEERS) build dist hmoe.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.ready: requirements/default.txt $(SET_UP)
	@tools/environment.sh default $(VENV)
	@touch $@

$(VENV)/.ready-dev: requirements/default.txt requirements/default-dev.txt $(SET_UP)
	@tools/environment.sh default $(VENV) dev
	@touch $@ $(VENV)/.ready

$(VENV_TPU)/.ready-dev: requirements/tpu.txt requirements/tpu-dev.txt $(SET_UP)
	@tools/environment.sh tpu $(VENV_TPU) dev
	@touch $@

$(VENV_PEERS)/.ready: requirements/peers.txt requirements/peers-cuda.txt tools/environment.sh \
		tools/find_python.sh
	@tools/environment.sh peers $(VENV_PEERS)
	@touch $@
