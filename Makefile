# `make demo` and `make test` do all the set-up on a machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# A thread of torch for each of two tests at a time: with more than cores there are, they wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

.PHONY: demo test test-all coverage check check-interpreted bench results docs clean

demo: $(INSTALLED)
	$(BIN)/lines-pipeline run recipes/vit20_ties_lines.yaml

test: $(INSTALLED)
	$(PYTEST) -m "not thorough"

test-all: $(INSTALLED)
	LINES_FUZZ_SCALE=10 $(PYTEST)

coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report=term --cov-report=html:.coverage-html

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m "not slow"

# as where Numba and llvmlite are missing: the interpreter does all blocks
check-interpreted: $(INSTALLED)
	$(PYTEST) -m "not slow" --without-compilers tests/parity tests/executor tests/ops tests/jit

bench: $(INSTALLED)
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/merge.py --experts 4 --methods ties --part comparison-4
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/spectral.py --ops tsv-m,iso-c
	$(BIN)/python benchmarks/study.py

# the tables of docs/results.md: hours; what RESULTS holds already is not measured again
RESULTS := results.json
results: $(INSTALLED)
	$(BIN)/python benchmarks/results.py --results $(RESULTS) --page docs/results.md

docs: $(INSTALLED)
	$(BIN)/lines-pipeline graph recipes/vit20_ties_lines.yaml -o docs/vit20_ties_lines.svg
	$(BIN)/lines-pipeline schema > docs/recipe.schema.json

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs mlruns mlflow.db
