# `make demo` and `make test` set everything up by themselves, in .venv.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
MINUTES ?= 10
BIN := $(VENV)/bin
READY := $(VENV)/.ready-dev
RUN := $(VENV)/.ready

.PHONY: help demo test test-long torture lint format bench docs screenshots tpu cuda clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     train a VAE on 8x8 digits and draw its pictures (runs/demo)"
	@echo "make test     run the tests, but for those that take long"
	@echo "make test-long  run those"
	@echo "make torture  try mishaps at random for MINUTES=10, then run the full-size tests (an hour or more;"
	@echo "              JAXVAE_DATA_DIR says where the data are)"
	@echo "make lint     check the style"
	@echo "make format   put the style right, as far as a program can"
	@echo "make docs     build the documentation (site/index.html)"
	@echo "make screenshots  the same, and look at every page in a Chromium, wide and narrow (screenshots/)"
	@echo "make bench    measure speed, much of it against PyTorch, on a quiet machine, and print one table"
	@echo "              (benchmarks/results; without benchmarks.torture, tpu and cuda, which take hours)"
	@echo "make tpu      compile every preset for TPUs, which need not be there (.venv-tpu, benchmarks/results)"
	@echo "make cuda     the same for GPUs (.venv-cuda)"

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
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m 'not slow and not long'

test-long: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m 'long and not slow'

torture: $(READY)
	cd tests && PYTHONPATH=.. $(abspath $(BIN))/python -m torture --minutes $(MINUTES)
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
	$(BIN)/python -m benchmarks

# mkdocs reads the package's text and does not import it.
docs: $(RUN)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

screenshots: docs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[screenshots]'
	$(BIN)/python docs/browser.py

# Environments of their own: the compilers are large. What is compiled already is not compiled again.
tpu:
	$(MAKE) --no-print-directory VENV=.venv-tpu .venv-tpu/.ready-dev
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check -e '.[tpu]'
	.venv-tpu/bin/python -m pytest -q tests/test_tpu_benchmark.py
	.venv-tpu/bin/python -m benchmarks.tpu --minutes $(MINUTES)

cuda:
	$(MAKE) --no-print-directory VENV=.venv-cuda .venv-cuda/.ready
	version=$$(.venv-cuda/bin/python -c 'import jax; print(jax.__version__)') && \
	.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version nvidia-cuda-nvcc-cu12
	.venv-cuda/bin/python -m benchmarks.tpu --cuda --minutes $(MINUTES)

clean:
	rm -rf site screenshots $(VENV) .venv-tpu .venv-cuda .jax_cache .pytest_cache .ruff_cache build dist *.egg-info
