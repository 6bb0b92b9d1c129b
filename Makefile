# `make demo` and `make test` each do all set-up: a .venv of their own, plain pip, no root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Folder or files to run the demo on; without it, clips are rendered from photographs.
VIDEOS ?=
# The fast tests in two processes, a file's tests in one.
TWO := -n 2 --dist loadfile

.PHONY: setup demo test test-all lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/bitreel demo $(if $(VIDEOS),--videos $(VIDEOS))

test: lint
	$(BIN)/python -m codec.kernel_cache
	$(BIN)/python -m pytest $(TWO)

# Slow tests have nodes, ports and cores for themselves.
test-all: test
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/entropy_coder.py
	$(BIN)/python benchmarks/codec_speed.py $(VIDEOS)
	$(BIN)/python benchmarks/configurations.py $(VIDEOS)
	$(BIN)/python -m benchmarks.fuzz_streams --count 2000
	$(if $(VIDEOS),$(BIN)/python benchmarks/ingest_throughput.py $(VIDEOS))

clean:
	rm -rf $(VENV) build *.egg-info
