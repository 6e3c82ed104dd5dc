# make demo    trains, attacks and reports on a small model: runs/demo/report/index.html
# make test    runs the tests
# make bench   compares solvers, gradients and attacks with their peers
# make lint    checks format and style
# Each creates .venv first if it is not there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# TensorFlow's CPU build is half the size; a machine with an NVIDIA driver gets the usual one.
TENSORFLOW := $(if $(shell command -v nvidia-smi),,packaging/tensorflow-from-cpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test bench lint clean

demo: $(VENV)/.installed
	$(BIN)/python bin/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/.installed: setup.cfg pyproject.toml $(wildcard packaging/*/setup.cfg)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(TENSORFLOW) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -e '.[test]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) install -e '.[bench,foolbox]'
	$(PIP) install --no-deps --target=$(VENV)/papers torchdiffeq==0.0.1
	touch $@
