# Everything sets itself up: `make run` and `make test` work on a machine with Python 3.11+, cargo and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
ENGINE := $(shell find tenants/engine/src -name '*.rs') tenants/engine/Cargo.toml tenants/engine/Cargo.lock

.DEFAULT_GOAL := help
.PHONY: help install run test test-engine lint format bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# The engine is compiled by the package's own build; its sources are part of what the stamp depends on.
$(STAMPS)/run: $(BIN)/python pyproject.toml $(ENGINE)
	@command -v cargo >/dev/null || { echo 'cargo is needed: https://rustup.rs'; exit 1; }
	$(BIN)/pip install --quiet --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: $(BIN)/python pyproject.toml $(ENGINE)
	@command -v cargo >/dev/null || { echo 'cargo is needed: https://rustup.rs'; exit 1; }
	$(BIN)/pip install --quiet --editable '.[test,lint]'
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/run

install: $(STAMPS)/run ## Install Millrace into .venv

run: $(STAMPS)/run ## Run the demo: live traffic in, metrics out
	$(BIN)/millrace demo

test: $(STAMPS)/test test-engine ## Run the whole suite
	.ci/system-packages
	PATH="$(CURDIR)/$(STAMPS)/bin:$$PATH" $(BIN)/python -m pytest

test-engine:
	cd tenants/engine && cargo test --quiet

lint: $(STAMPS)/test ## Check format, lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest tenants._engine --allowlist .ci/stubtest-allowlist
	cd tenants/engine && cargo fmt --check
	cd tenants/engine && cargo clippy --quiet --all-targets -- -D warnings
	cd tenants/engine && cargo clippy --quiet --features python -- -D warnings

format: $(STAMPS)/test ## Format everything
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .
	cd tenants/engine && cargo fmt

bench: $(STAMPS)/test ## Measure spans per CPU-second: the engine alone, then end to end
	.ci/system-packages
	$(BIN)/python -m bench.engine
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.end_to_end

clean: ## Remove what was installed and compiled
	rm -rf $(VENV) $(STAMPS) tenants/engine/target tenants/*.so
