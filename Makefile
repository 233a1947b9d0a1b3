# `make` alone lists the targets. Each of them sets up first; set-up that is done takes a second.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin
# Threads that spin while they wait cost the other processes of a small machine a third of their throughput.
export OMP_WAIT_POLICY := PASSIVE
# Set-up leaves byte code to the first import: without it, every process of the tests would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE

WORKERS ?= 2
# What a fleet test waits for is often a host, not a core.
FLEET_WORKERS ?= 3
BY_FILE := --dist loadscope --no-loadscope-reorder
ARGS ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-8s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Debian packages, .venv, the demo's checkpoint (DEMO_CHECKPOINT=URL for another)
	@setup/setup.sh

.PHONY: demo
demo: setup ## Packs on lab hosts, claimed, rolled, spoken to; then everything is down again
	@python -m demo

.PHONY: test
test: setup ## lint, then all tests beside each other, as CI runs them
	@$(MAKE) --jobs=2 lint hosts
	python -m pytest tests --numprocesses $(FLEET_WORKERS) $(BY_FILE) $(ARGS)

.PHONY: unit
unit: setup ## Unit tests (ARGS="-k words" for pytest, here and below)
	@python -m pytest tests/unit --numprocesses $(WORKERS) --dist worksteal $(ARGS)

.PHONY: service
service: setup ## Service tests: real processes, audio and checkpoint
	@python -m pytest tests/service --numprocesses $(WORKERS) $(BY_FILE) $(ARGS)

# What tests on hosts need; where hosts can't be made (69) they are skipped, with the reason.
.PHONY: hosts
hosts: setup
	@babelrack release build >/dev/null
	python -m lab image >/dev/null || (($$? == 69))

.PHONY: fleet
fleet: hosts ## Fleet tests on lab hosts: a whole site's life with faults, every role, Terraform, claims, the CLI
	@python -m pytest tests/fleet --numprocesses $(FLEET_WORKERS) $(BY_FILE) $(ARGS)

.PHONY: site
site: hosts ## The site's part of the fleet tests alone, half an hour (ARGS="--figures docs/reliability.md")
	@python -m pytest tests/fleet/test_site.py $(ARGS)

.PHONY: lint
lint: setup ## ruff, mypy, yamllint, ansible-lint
	@ruff check
	ruff format --check
	mypy
	ANSIBLE_ROLES_PATH=ansible/roles ANSIBLE_INVENTORY_PLUGINS=ansible/plugins/inventory ANSIBLE_LIBRARY=ansible/plugins/modules ansible-lint -q
	git ls-files --cached --others --exclude-standard -z -- '*.yml' '*.yaml' | xargs --null --no-run-if-empty yamllint --strict

.PHONY: molecule
molecule: setup ## Roles on lab hosts, two at a time (ROLE=redis for one)
	@if [[ -z "$(ROLE)" ]]; then python -m pytest tests/fleet/test_molecule.py --numprocesses 2 $(ARGS); exit; fi
	if [[ ! -f "molecule/$(ROLE)/molecule.yml" ]]; then
		echo "molecule/$(ROLE) has no molecule.yml; roles with a scenario: $(patsubst molecule/%/molecule.yml,%,$(wildcard molecule/*/molecule.yml))" >&2
		exit 2
	fi
	molecule test --scenario-name "$(ROLE)"

.PHONY: lab
lab: setup ## Throw-away on-prem hosts (HOSTS=6; more: python -m lab --help)
	@python -m lab up $(or $(HOSTS),2)

.PHONY: lab-down
lab-down: ## Remove all lab hosts of this checkout
	@python -m lab down --all

.PHONY: bench
bench: setup ## Measure against peers, side by side (VLLM=1 adds vLLM)
	@python -m bench

.PHONY: lock
lock: ## Write requirements.lock from the .venv
	@setup/lock.sh

.PHONY: clean
clean: ## Stop what `babelrack up` left running here, and remove what the project made
	@if [[ -x .venv/bin/babelrack && -d .babelrack ]]; then .venv/bin/babelrack down; fi
	if [[ -x .venv/bin/python && -d .babelrack/lab ]]; then .venv/bin/python -m lab down --all; fi
	rm -rf .venv .cache .babelrack .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis dist
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
