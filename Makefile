# One command each: make demo, make test. Both make the virtual environment first if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARTS := $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)))" 2>/dev/null || echo 1)

.PHONY: help install demo test lint check golden benchmark clean

help:
	@echo "make demo       train, force, decompose, export and time a net on real digits -> demo/report.html"
	@echo "make test       run the tests"
	@echo "make check      lint, types and tests"
	@echo "make benchmark  time loading of AlexNet's weights against protobuf"

$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,leveldb]"
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/caffe-bridge demo demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PARTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/build_proto.py --check

check: lint test

benchmark: $(STAMP)
	$(BIN)/python benchmarks/load_caffemodel.py

clean:
	rm -rf build dist *.egg-info demo
