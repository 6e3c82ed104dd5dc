# Each target creates the environment that it needs if it is not there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# TensorFlow's CPU build is half the size; a machine with an NVIDIA driver gets the usual one.
TENSORFLOW := $(if $(shell command -v nvidia-smi),,packaging/tensorflow-from-cpu)
PIP := -m pip --disable-pip-version-check
OLDEST := .venv-oldest
# A third of the tests: each part of the package, and what reaches deepest into TensorFlow and Keras.
OLDEST_TESTS ?= tests/packaging tests/data tests/layers tests/models/test_registry.py tests/solvers/test_interface.py \
	tests/training/test_loop.py tests/attacks/test_attack_linear.py tests/cli/test_bad_input.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest bench lint types docs dist install-dev clean

help:  ## lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.installed  ## trains, attacks and reports on a small model: runs/demo/report/index.html
	$(BIN)/python bin/demo

test: $(VENV)/.installed-test  ## runs the tests
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-oldest: $(OLDEST)/.installed  ## runs the tests that OLDEST_TESTS names with the lowest versions that setup.cfg allows
	$(OLDEST)/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(OLDEST_TESTS)

lint: $(VENV)/.installed-test types  ## checks format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-test  ## checks the types
	$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## builds the site, notebooks included: docs/_build/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

dist: $(VENV)/.installed-test  ## builds the wheel and the source distribution, trains and evaluates with the wheel
	packaging/try-dist $(BIN)/python

bench: $(VENV)/.installed-bench  ## compares solvers, gradients and attacks with their peers
	$(BIN)/python -m benchmarks

install-dev: $(VENV)/.installed-test  ## installs what the tests and the linters need

clean:  ## deletes the environments and what was built
	rm -rf $(VENV) $(OLDEST) build dist docs/_build *.egg-info

$(VENV)/.installed: setup.cfg pyproject.toml $(wildcard packaging/*/setup.*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install $(TENSORFLOW) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python $(PIP) install -e '.[test]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python $(PIP) install -e '.[docs]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python $(PIP) install -e '.[bench,foolbox]'
	$(BIN)/python $(PIP) install --no-deps --target=$(VENV)/papers torchdiffeq==0.0.1
	touch $@

# By far the largest part, and nothing of it is built inside the checkout: it may be made beside the other environment.
$(OLDEST)/.tensorflow: packaging/oldest.txt $(wildcard packaging/*/setup.*)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	mkdir -p $(OLDEST)/stand-in && cp packaging/tensorflow-from-cpu/pyproject.toml packaging/tensorflow-from-cpu/setup.* $(OLDEST)/stand-in
	TENSORFLOW_VERSION=$$(sed -n 's/^tensorflow==//p' packaging/oldest.txt) \
		$(OLDEST)/bin/python $(PIP) install -c packaging/oldest.txt $(OLDEST)/stand-in
	touch $@

$(OLDEST)/.installed: setup.cfg pyproject.toml packaging/oldest.txt $(OLDEST)/.tensorflow
	$(OLDEST)/bin/python $(PIP) install -c packaging/oldest.txt -e '.[test]'
	touch $@
