# Everything a fresh machine with Python 3.11 or 3.12 needs is installed by these targets.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,$(if $(shell $(p) -c "import sys; print(1)" 2>/dev/null),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install system-packages quickstart test test-gpu check lint docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

quickstart: install
	$(BIN)/python -m rdm_batch.run jobs/quickstart.yaml

# The tests open the report page in a browser. No other target needs one.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
BROWSERS := chromium chromium-browser google-chrome-stable google-chrome
system-packages:
	@for browser in $(BROWSERS); do command -v $$browser >/dev/null && exit 0; done; \
	if command -v apt-get >/dev/null; then \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else \
		echo "The tests of the report page need Chromium or Chrome. There is no apt-get here:" >&2; \
		echo "install it with your system's package manager so that one of these is on PATH:" >&2; \
		echo "  $(BROWSERS)" >&2; exit 1; \
	fi

# A file keeps to one process: what a module has made once is used by all its tests.
TEST_PROCESSES ?= 2
test: install system-packages
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

# On a machine with a GPU: needs PyTorch, pydantic, jaxtyping, numpy and pytest, neither Ray nor
# anything else that this package installs. PYTHON names the interpreter.
test-gpu:
	$(PYTHON) -m pytest tests/heads/test_gpu.py tests/training/test_gpu.py --noconftest -m gpu -o addopts="--import-mode=importlib -ra"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache

docs: install
	$(BIN)/python -m rdm_batch.specs.document > docs/job-spec.md
	$(BIN)/python -m rdm_batch.cli.document > docs/commands.md
