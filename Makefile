# Targets with a ## comment are listed by `make help`.
TIER ?= small
WHERE ?= local
SEEDS ?=
# singular, because many shells export COLUMNS, the width of the terminal
ROW ?=
COLUMN ?=
WORKERS ?=
LOGGER ?=
CLUSTER ?=
TRAINER ?=
# RETRY=1 counts failed runs among those to run, RETRY=failed runs them alone
RETRY ?=
FRESH ?=
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
SEXTANT := $(if $(FRESH),SEXTANT_RESULTS=results/fresh )$(VENV)/bin/sextant
# what sextant is asked for, under the names above; what else is typed after the target goes along too, to be refused
ASKED := TIER WHERE SEEDS ROW COLUMN WORKERS LOGGER CLUSTER TRAINER RETRY
TYPED = $(foreach pair,$(MAKEOVERRIDES),$(if $(filter PYTHON FRESH $(ASKED),$(firstword $(subst =, ,$(pair)))),,$(pair)))
OPTIONS = $(foreach name,$(ASKED),$(if $($(name)),$(name)=$($(name)))) $(TYPED)

.DEFAULT_GOAL := help
.PHONY: help setup test test-order test-slurm test-browser test-all lint bench lock tables report wandb-sync

help: ## list the targets
	@echo "make TARGET [TIER=smoke|small|gpu|paper] [SEEDS=0,1] [ROW=a,b] [COLUMN=c] [WHERE=local|slurm] [CLUSTER=name] [TRAINER=name] [RETRY=1|failed] [WORKERS=n] [LOGGER=csv|wandb|wandb_online] [FRESH=1]"
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## (.*)/  \1\t\2/' | expand -t 24

setup: $(VENV)/.complete ## make .venv from requirements.lock (once)

$(VENV)/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Sextant needs Python 3.11; say where it is: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "making $(VENV) from requirements.lock (a few minutes, about 3 GB to download)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --no-deps -r requirements.lock
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce-table-%: $(VENV)/.complete ## run what table N lacks, then print it beside its claims
	@$(SEXTANT) reproduce $* $(OPTIONS)

plan-table-%: $(VENV)/.complete ## what would run for table N, why, and how long it takes
	@$(SEXTANT) plan $* $(OPTIONS)

tables: $(VENV)/.complete ## refill every table and generated page from the ledger, running nothing
	@$(SEXTANT) table all

report: $(VENV)/.complete ## write results/report/index.html: every table, its claims, plots and runs
	@$(SEXTANT) report $(if $(AGAINST),against=$(AGAINST))

test: $(VENV)/.complete ## the fast test suite
	@$(VENV)/bin/python -m pytest -n 2 -m "not slow and not gpu and not slurm and not browser"

test-slurm: $(VENV)/.complete ## the quicker tests on a one-machine SLURM (needs slurm-wlm and munge)
	@$(VENV)/bin/python -m pytest -m "slurm and not slow" -rs

test-browser: $(VENV)/.complete ## the report in a headless browser (needs chromium)
	@$(VENV)/bin/python -m pytest -m browser -rs

test-order: $(VENV)/.complete ## every fast test file alone, backwards and twice in one process (an hour)
	@failed=0; for file in $$(git ls-files 'tests/*test_*.py'); do \
	  $(VENV)/bin/python -m pytest -m "not slow and not gpu and not slurm and not browser" -p tests.backwards --keep-duplicates $$file $$file > .test-order.log 2>&1; \
	  case $$? in 0|5) ;; *) echo "$$file"; tail -n 3 .test-order.log; failed=1;; esac; done; rm -f .test-order.log; exit $$failed

test-all: $(VENV)/.complete ## every test this machine can run, the slow ones too
	@$(VENV)/bin/python -m pytest

lint: $(VENV)/.complete ## ruff, check and format
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

bench: $(VENV)/.complete ## every benchmark, each printed as ratios of one process
	@for benchmark in benchmarks/*.py; do $(VENV)/bin/python $$benchmark || exit 1; done

wandb-sync: $(VENV)/.complete ## push offline W&B runs to the server you are logged in to
	@$(SEXTANT) wandb sync

lock: ## rewrite requirements.lock from the newest versions that fit pyproject.toml
	@rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	@.lock-venv/bin/pip install --quiet "setuptools>=75" ".[test]"
	@.lock-venv/bin/pip install --quiet --no-deps torchcfm  # only a test oracle; its own needs are large
	@{ head -n 1 requirements.lock; .lock-venv/bin/pip freeze --all --exclude sextant --exclude pip | sort -f; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock && rm -rf .lock-venv
