# Two commands on a fresh machine with Python 3.11 or later: `make run` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
RUN_DIR := runs/digits_ldiaf
# What pip installs in a minute uv installs in 20 seconds. It does not read pip's settings: where it fails, pip is asked.
install = ($(BIN)/uv pip install --python=$(BIN)/python --compile-bytecode $(1) 2> /dev/null \
	|| $(BIN)/python -m pip install --quiet $(1))

.PHONY: run test test-oldest test-long lint docs docs-serve speed cluster clean

# Trains ldiaf on scikit-learn's digits, evaluates it, and writes samples and the learned graph.
run: .venv/installed
	$(BIN)/python -m tf_ldiaf.train --flagfile=configs/digits_ldiaf.cfg --run_dir=$(RUN_DIR) --overwrite
	$(BIN)/python -m tf_ldiaf.evaluate --run_dir=$(RUN_DIR)
	$(BIN)/python -m tf_ldiaf.export --run_dir=$(RUN_DIR) --out=$(RUN_DIR)/saved_model --overwrite
	$(BIN)/python -m tf_ldiaf.sample --saved_model=$(RUN_DIR)/saved_model --num=64 \
		--out=$(RUN_DIR)/samples.png --graph=$(RUN_DIR)/graph.png
	@echo "Look at $(RUN_DIR)/samples.png and $(RUN_DIR)/graph.png"

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# With the oldest versions of our dependencies that pyproject.toml allows.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What takes minutes each, such as a training that is killed twenty times.
test-long: .venv/installed
	$(BIN)/python -m pytest -m long

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The pages of docs/ as a site, build/site/index.html, with the shipped model's explorer. A warning is an error. (The
# variable leaves out what the theme says of its successor.)
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m tf_ldiaf.explore --saved_model=saved_models/mnist_ldiaf --static=build/site/explorer/page
	@echo "Look at build/site/index.html, or call make docs-serve"

# The same at a local address, built anew whenever a page changes.
docs-serve: .venv/docs-installed
	$(BIN)/mkdocs serve

# tf_ldiaf and its peers side by side, and how its costs grow: 20 minutes on 2 cores that do nothing else.
# DATA_DIR is where TFDS keeps its mnist, which the training command is timed on.
speed: .venv/installed .venv-torch/installed .venv-jax/installed
	$(BIN)/python -m benchmarks.speed --torch=.venv-torch/bin/python --jax=.venv-jax/bin/python --data_dir=$(DATA_DIR)

# What 2 and 4 workers cost on the cores of this machine: 6 minutes on 2 cores.
cluster: .venv/installed
	$(BIN)/python -m benchmarks.cluster

.venv-torch/installed:
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet torch==2.13.0 numpy
	touch $@

.venv-jax/installed:
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/python -m pip install --quiet jax==0.10.2 optax numpy
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(call install,--constraint=constraints.txt --editable ".[dev]")
	touch $@

.venv/docs-installed: .venv/installed
	$(call install,--constraint=constraints.txt --editable ".[docs]")
	touch $@

.venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet uv
	.venv-oldest/bin/uv pip install --quiet --python=.venv-oldest/bin/python --resolution=lowest-direct --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-torch .venv-jax build dist *.egg-info
