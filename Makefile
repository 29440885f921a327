# Every target sets up what it needs first; that is quick when it is already set up.

SHELL := bash
VENV := .venv
PYTHON_SOURCES := src test launch
ARGS ?=
DEMO_ARGS ?= --out out/demo

# Graphs that tests bring up stay on this machine and on a domain of their own, so that two runs never meet.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export MUJOCO_GL ?= egl
# Waiting threads leave the cores to others; see irevla_trainer/cli.py.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format lock clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Set up .venv: dependencies, ROS 2, interfaces
	@scripts/setup.sh

demo: setup ## Record, train and close the loop in simulation; writes out/demo
	@$(VENV)/bin/irevla demo $(DEMO_ARGS)

test: setup ## The quick test suite (under 10 minutes)
	@scripts/test.sh $(ARGS)

test-slow: setup ## The long tests
	@$(VENV)/bin/python -m pytest -m slow $(ARGS)

lint: setup ## Check style and types
	$(VENV)/bin/ruff check $(PYTHON_SOURCES)
	$(VENV)/bin/ruff format --check $(PYTHON_SOURCES)
	$(VENV)/bin/mypy

format: setup ## Format the code
	$(VENV)/bin/ruff format $(PYTHON_SOURCES)
	$(VENV)/bin/ruff check --fix $(PYTHON_SOURCES)

lock: setup ## Pin requirements.in, with all it needs, in requirements.txt
	scripts/lock.sh

clean: ## Remove everything that was built, .venv included
	rm -rf $(VENV) build install log
