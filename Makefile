# Everything lies in .venv of this clone; nothing outside it is written. `make` shows this:
#   make demo         the guided tour; DEMO_ARGS="--steps 60 --out DIR" is passed on
#   make venv         set up .venv from nothing (quick when it is up to date)
#   make test         lint, types and all tests: what must pass before a change goes in;
#                     PYTEST_ARGS="tests/unit -k ring" runs some
#   make lint         ruff and the import contracts alone
#   make types        mypy alone
#   make docs         the documentation as a site, in build/site
#   make bench        all benchmarks, then docs/performance.md; BENCH_ARGS="--only ring tap" runs some
#   make peers        what benchmarks compare with: wandb, and others' scripts in build/peers
#   make performance  the pages of figures from the stored results
#   make pictures     the pictures of README, docs and gallery, from runs of their own
#   make clean        remove .venv, and all that was built
PYTHON ?= python3
DEMO_ARGS ?=
BENCH_ARGS ?=
# All tests: two workers take whole files in their order, so that what a file sets up is set up once
# and the long ones come first. A worker that dies is not replaced: xdist loses count, and failures.
# Whoever names tests has them in one process.
PYTEST_ARGS ?= --numprocesses=2 --dist=loadfile --no-loadscope-reorder --max-worker-restart=0

BIN := .venv/bin
# The stamps are written last: a set-up that was cut off is done again.
RUNS := .venv/runs
STAMP := .venv/installed

.PHONY: help venv test lint types docs demo bench peers performance pictures clean

# The first target: whoever types `make` alone wants to know, not to download PyTorch.
help:
	@sed -n 's/^#   //p' Makefile

venv: $(STAMP)

# All that running takes; most of the time goes into fetching PyTorch.
$(RUNS): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	@echo 'installing into .venv: PyTorch and what trackside needs; this can take minutes'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[daemon]'
	touch $(RUNS)

# And what developing takes.
$(STAMP): $(RUNS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $(STAMP)

test: lint types
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: venv
	$(BIN)/mypy

docs: venv
	$(BIN)/mkdocs build --strict

demo: $(RUNS)
	$(BIN)/trackside demo $(DEMO_ARGS)

bench: venv
	$(BIN)/python benchmarks/everything.py $(BENCH_ARGS)

peers: venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group peers
	$(BIN)/python benchmarks/peers.py

performance: venv
	$(BIN)/python benchmarks/page.py

pictures: venv
	$(BIN)/python examples/gallery.py
	$(BIN)/python examples/pictures.py

clean:
	rm -rf .venv .nox dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
