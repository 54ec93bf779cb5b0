# Every target does its own set-up in .venv, so a fresh clone needs nothing but Python and make.
#
#   PYTHON=python3.12       the interpreter that .venv is made with
#   TORCH_INDEX=<url>       an extra package index, for instance one with CPU-only builds of torch
#   ARGS="..."              extra arguments for the command that the target runs

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench real clean FORCE

help: ## Show this list
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile | expand -t 12

demo: $(READY) ## Explain a drawn picture by the trained model inside the package
	@$(BIN)/cutaway demo --overwrite $(ARGS)

test: lint ## Lint, check types and run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(READY) ## Check style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(READY) ## Measure speed side by side (see docs/benchmarks.md)
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/record.py $(ARGS)

real: $(READY) ## Fetch two real models, check them, and run methods on them (see docs/real-models.md)
	@$(PIP) install -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e ".[dev,real]"
	@$(BIN)/python scripts/real_models.py
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/real.py $(ARGS)

clean: ## Remove .venv, caches and build outputs (reports/ and real/ stay)
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last and holds the folder it was made in: an interrupted set-up starts again, and a
# .venv that came along with a moved or copied folder is rebuilt.
MADE_IN := $(shell cat $(READY) 2>/dev/null)
ifneq ($(MADE_IN),$(CURDIR))
CLEAR := $(if $(MADE_IN),--clear)
$(READY): FORCE
endif

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "cutaway needs Python 3.11 or newer, and '$(PYTHON)' is not: run make PYTHON=<path of one>." >&2; exit 1; }
	@echo "Setting up .venv (a few minutes the first time)"
	@rm -f $@
	@$(PYTHON) -m venv $(CLEAR) .venv
	@$(PIP) install -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e ".[dev]"
	@echo "$(CURDIR)" > $@
