# Two commands on a fresh machine with Python 3.11 or later: `make run` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
RUN_DIR := runs/digits_ldiaf

.PHONY: run test lint clean

# Trains ldiaf on scikit-learn's digits, evaluates it, and writes samples and the learned graph.
run: .venv/installed
	$(BIN)/python -m tf_ldiaf.train --flagfile=configs/digits_ldiaf.cfg --run_dir=$(RUN_DIR) --overwrite
	$(BIN)/python -m tf_ldiaf.evaluate --run_dir=$(RUN_DIR)
	$(BIN)/python -m tf_ldiaf.export --run_dir=$(RUN_DIR) --out=$(RUN_DIR)/saved_model --overwrite
	$(BIN)/python -m tf_ldiaf.sample --saved_model=$(RUN_DIR)/saved_model --num=64 \
		--out=$(RUN_DIR)/samples.png --graph=$(RUN_DIR)/graph.png
	@echo "Look at $(RUN_DIR)/samples.png and $(RUN_DIR)/graph.png"

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint=constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
