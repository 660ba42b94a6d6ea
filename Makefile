# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv and installs what
# it needs the first time, and again only when pyproject.toml or constraints.txt has changed.

# --no-compile: most of what is installed is never imported.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Images of containers often forbid Python to keep what it has compiled. The tests start some hundred
# processes, which would each compile PyTorch's sources again: a quarter of the time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-lowest lint docs bench bench-gpu clean

# make demo DATA=fashion-mnist takes a quarter of an hour.
DATA ?= digits

demo: $(VENV)/.demo
	$(BIN)/python -m mixnoise.demo --data $(DATA)

# Several test files at a time, a thread for each: more threads than cores would only wait.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# The same tests with the oldest versions that pyproject.toml allows, in an environment of their own.
test-lowest:
	test -d .venv-lowest || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-lowest/bin/python -m pip install --quiet --no-compile -c constraints-lowest.txt -e ".[tables,data,graph,image,triton]" --group test
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/; `make test` builds it, too.
docs: $(VENV)/.test
	$(BIN)/python -m mkdocs build --strict

# The speed figures of README: ratios to plain and compiled PyTorch, both sides in one run.
bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.speed -k "not trainer"
	$(BIN)/python -m benchmarks.speed -k trainer --output benchmarks/results/trainer-cpu.json
	$(BIN)/python -m benchmarks.distributed

# The same on an NVIDIA GPU, and whether the kernels are right there; eight minutes at most.
bench-gpu: $(VENV)/.test
	$(BIN)/python -m benchmarks.gpu

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mixnoise needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[sklearn,train,plot]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[tables,data,graph,image,triton]" --group test
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) .venv-lowest build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
