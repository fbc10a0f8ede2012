# `make demo` and `make test` each work as the first command on a fresh machine.
# `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := -c constraints.txt
SOURCES := kapture_ros test benchmarks training launch setup.py

# A sourced ROS installation must not leak into the environment made here.
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH

.PHONY: help install check-machine demo test format lint types unit colcon clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

demo: install  ## the main job on a simulated drive, with the result shown
	@$(BIN)/kapture_ros demo out/demo

test: lint types unit colcon  ## everything CI runs

format:  ## rewrite the sources in the project's format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: install  ## format and lint, changing nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: install  ## static types, strict
	$(BIN)/mypy

unit: install  ## the tests, in random order, with coverage
	$(BIN)/coverage erase
	$(BIN)/pytest --numprocesses auto --dist loadfile --max-worker-restart 0 --cov --cov-report=term $(PYTEST_ARGS)

colcon: install  ## build with colcon as on a robot, start a node from the result
	@VIRTUAL_ENV=$(abspath $(VENV)) test/colcon_build.sh

install: $(VENV)/.package  ## set up .venv with everything, ROS messages included

$(VENV)/.package: $(VENV)/.requirements setup.py CMakeLists.txt package.xml cmake/wheel_paths.cmake \
		$(wildcard msg/*.msg interfaces/*/*.* interfaces/*/msg/*.msg)
	@echo "installing kapture_ros (editable) and building its messages"
	@$(BIN)/pip install -q $(CONSTRAINTS) --no-build-isolation --editable .
	@touch $@

$(VENV)/.requirements: constraints.txt pyproject.toml $(wildcard requirements/*.txt) | check-machine
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the requirements into $(VENV) (some minutes, once)"
	@$(BIN)/python -m pip install -q --upgrade $(CONSTRAINTS) pip
	@$(BIN)/pip install -q $(CONSTRAINTS) -r requirements/ros-jazzy.txt -r requirements/dev.txt
	@touch $@

check-machine:
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "make: no '$(PYTHON)' here; install Python 3.10 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: '$(PYTHON)' is older than Python 3.10; name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: '$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@for tool in gcc g++; do command -v $$tool >/dev/null || \
		{ echo "make: no $$tool here; on Debian and Ubuntu: apt install build-essential python3-dev" >&2; exit 1; }; done
	@test "$$(uname -m)" = x86_64 || \
		{ echo "make: the ROS wheels are for x86-64 only; on $$(uname -m) use a ROS installation and colcon (README)" >&2; exit 1; }

clean:  ## remove what was built, not the environment
	rm -rf build install log out .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
