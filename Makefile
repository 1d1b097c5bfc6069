# `make demo` and `make test` set everything up by themselves, in .venv.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-dev
RUN := $(VENV)/.ready

.PHONY: help demo test torture lint format bench docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     train a VAE on 8x8 digits and draw its pictures (runs/demo)"
	@echo "make test     run the tests"
	@echo "make torture  run the full-size tests (an hour or more; JAXVAE_DATA_DIR says where the data are)"
	@echo "make lint     check the style"
	@echo "make format   put the style right, as far as a program can"
	@echo "make docs     build the documentation (site/index.html)"
	@echo "make bench    measure speed against PyTorch (benchmarks/results)"

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "jaxvae needs Python 3.11 or newer: install it, or say which with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(RUN): setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(READY): setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(RUN)

demo: $(RUN)
	$(BIN)/jaxvae train vae --data digits --latent-dim 2 --hidden 256 128 --epochs 400 --workdir runs/demo

# As many workers as cores and memory hold (tests/workers.py); a file stays on one, with its fixtures.
test: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadfile

torture: $(READY)
	JAXVAE_TEST_MEMORY=0 JAXVAE_TEST_OPTIMISED=1 $(BIN)/python -m pytest -q -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.step_time
	$(BIN)/python -m benchmarks.input
	$(BIN)/python -m benchmarks.ar1
	$(BIN)/python -m benchmarks.ensemble
	$(BIN)/python -m benchmarks.side_by_side
	$(BIN)/python -m benchmarks.infogan
	$(BIN)/python -m benchmarks.soft_intro
	$(BIN)/python -m benchmarks.fid

# mkdocs reads the package's text and does not import it.
docs: $(RUN)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

clean:
	rm -rf site $(VENV) .jax_cache .pytest_cache .ruff_cache build dist *.egg-info
