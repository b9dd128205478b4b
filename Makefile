# The one door: what runs here runs the same in CI. A fresh machine needs python3 (3.11, with pip) and make.
#
# uv is installed into .tools from hashes; it makes .venv and installs exactly what requirements-dev.lock names.
# No address of a registry, proxy or certificate stands in here: pip and uv take those from the environment.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
# Which tests, and how: make fast TESTS=tests/unit/test_windows.py PYTEST_ARGS=-x
TESTS ?=
PYTEST_ARGS ?=
# The slow tests wait for processes most of the time, so more of them than there are cores run side by side. What
# fails in that crowd is run once more by itself, and must pass there: a real fault fails twice.
SLOW_JOBS ?= 4

# Less of the real process's part of make crash: CRASH_PROCESS="--minutes 5"
CRASH_PROCESS ?= --minutes 15

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The interpreter is the machine's; uv shall not fetch one.
export UV_PYTHON_DOWNLOADS := never

.PHONY: help setup demo test lint types fmt fast cluster bench crash year explore mutate docs package lock clean live-aws live-vault

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/ready ## make .venv; the program is then .venv/bin/rekeyd

.tools/ready: requirements-uv.lock
	rm -rf .tools
	$(PYTHON) -m pip install --quiet --require-hashes --no-deps --target .tools -r requirements-uv.lock
	touch $@

.venv/ready: .tools/ready requirements-dev.lock pyproject.toml
	rm -f $@
	$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/ready ## the whole life of access keys on this machine, in about two minutes
	$(BIN)/rekeyd demo

test: lint ## lint and every test, the fast ones first
	$(BIN)/pytest -q -n 2 -m "not slow" $(PYTEST_ARGS)
	$(BIN)/pytest -q -n $(SLOW_JOBS) --dist worksteal -m "slow and not cluster" $(PYTEST_ARGS) \
		|| $(BIN)/pytest -q --last-failed --last-failed-no-failures none -m "slow and not cluster" $(PYTEST_ARGS)

cluster: .venv/ready ## Vault as in production: one node and three, every login, whatever fails; ends with a table
	$(BIN)/pytest -q -n 2 --dist loadfile -p no:randomly $(PYTEST_ARGS) \
		tests/contract/test_vault_production.py tests/contract/test_vault_cluster.py

fast: .venv/ready ## the tests that start no server and no process
	$(BIN)/pytest -m "not slow" $(PYTEST_ARGS) $(TESTS)

lint: types ## style, format, types, direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: .venv/ready ## mypy, strict
	$(BIN)/mypy

fmt: .venv/ready ## put the format right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/ready ## figures of speed and size
	for each in benchmarks/*.py; do echo "== $$each"; $(BIN)/python "$$each"; done

docs: .venv/ready ## write again what is generated
	$(BIN)/python -m rekeyd.logs > docs/events.md

package: .venv/ready ## wheel and source archive into dist/
	rm -rf dist
	$(UV) build --quiet --python $(BIN)/python --no-build-isolation
	ls -l dist

lock: .tools/ready ## resolve the dependencies anew and write the lock files
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header \
		--group test --group lint --group build --extra demo pyproject.toml -o requirements-dev.lock
# What a deployment installs, and what builds the wheel: the versions that the tests ran with.
	$(UV) pip compile --quiet --universal --generate-hashes --no-header -c requirements-dev.lock \
		pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header -c requirements-dev.lock \
		--group build -o requirements-build.lock
	echo uv | $(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header - -o requirements-uv.lock

crash: .venv/ready ## die at every call of every life cycle, and lose every answer; CRASH="--cycle rotate" for less
	$(BIN)/python -m tests.crash.matrix $(CRASH)
	$(BIN)/python -m tests.crash.answers $(or $(CRASH),--sample 100)
	$(BIN)/python -m tests.crash.sabotage
	$(BIN)/python -m tests.crash.process_matrix $(CRASH_PROCESS)
	$(BIN)/python -m tests.crash.process_faults $(CRASH_PROCESS)
	$(BIN)/python -m tests.crash.process_signals $(CRASH_PROCESS)
	$(BIN)/pytest -q tests/crash/long_process_worlds.py

explore: .venv/ready ## hypothesis with new seeds: what it finds becomes an example in a test
	REKEYD_LONG_STATEFUL=1 $(BIN)/pytest -q -n 2 --hypothesis-profile=explore \
		$$(grep -rl "hypothesis" tests --include="test_*.py") $(PYTEST_ARGS)

mutate: .venv/ready ## change core/ in some 2,000 ways and see which the tests miss; the reasons are in docs/mutants.md
	rm -rf mutants
	$(BIN)/mutmut run --max-children 2 | tr '\r' '\n' | tail -n 3 || true
	$(BIN)/python -m tests.mutants

live-aws: .venv/ready ## the key's life on a real AWS account: REKEYD_LIVE_AWS_ACCOUNT names it
	: "$${REKEYD_LIVE_AWS_ACCOUNT:?names the account on purpose}"
	REKEYD_LIVE=1 $(BIN)/pytest -rs -k "[live]" tests/live/test_live_aws.py $(PYTEST_ARGS)

live-vault: .venv/ready ## the adapter on a real Vault: VAULT_ADDR, REKEYD_LIVE_VAULT_MOUNT, REKEYD_LIVE_VAULT_TOKEN_FILE
	: "$${REKEYD_LIVE_VAULT_MOUNT:?names the mount on purpose}"
	REKEYD_LIVE=1 $(BIN)/pytest -rs -k "[live]" tests/live/test_live_vault.py $(PYTEST_ARGS)

year: .venv/ready ## years of policy time on a virtual clock; YEAR="--seeds 1 2 --users 50"
	$(BIN)/python -m tests.year $(YEAR)

clean: ## remove what can be made again
	rm -rf .tools .venv dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
