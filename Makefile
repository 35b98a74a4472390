# Everything sets itself up: `make run` and `make test` work on a machine with Python 3.11+, cargo and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
ENGINE := $(shell find tenants/engine/src -name '*.rs') tenants/engine/Cargo.toml tenants/engine/Cargo.lock
FUZZ_SECONDS ?= 60
SOAK_KILLS ?= 100
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard tenants/engine/fuzz/fuzz_targets/*.rs)))

.DEFAULT_GOAL := help
.PHONY: help install run test test-engine soak fuzz lint format docs bench clean

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

soak: $(STAMPS)/test ## Kill processes under load for half an hour, with SQLite and with PostgreSQL: SOAK_KILLS (100) each
	.ci/system-packages
	MILLRACE_CHAOS_KILLS=$(SOAK_KILLS) $(BIN)/python -m pytest -s tests/chaos

test-engine:
	cd tenants/engine && cargo test --quiet

# No sanitizer: the engine has no unsafe code, and without one a stable compiler is enough.
fuzz: ## Give random input to everything in the engine that reads: FUZZ_SECONDS (60) for each target
	@command -v cargo >/dev/null || { echo 'cargo is needed: https://rustup.rs'; exit 1; }
	@command -v c++ >/dev/null || { echo 'A C++ compiler is needed for libFuzzer (Debian: apt-get install g++)'; exit 1; }
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked --version 0.13.2 cargo-fuzz
	cd tenants/engine/fuzz && cargo run --quiet --example seeds
	cd tenants/engine && cargo fuzz build --sanitizer none
	cd tenants/engine && for target in $(FUZZ_TARGETS); do \
	    cargo fuzz run --sanitizer none $$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -timeout=10 -verbosity=0 || exit 1; \
	done

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

docs: $(STAMPS)/run ## Write docs/settings.md from the schema of the settings
	$(BIN)/python -m tenants.settings.reference > docs/settings.md.new
	mv docs/settings.md.new docs/settings.md

bench: $(STAMPS)/test ## Measure spans per CPU-second, memory, settings of many tenants, the journal, and all end to end
	.ci/system-packages
	$(BIN)/python -m bench.engine
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.settings
	$(BIN)/python -m bench.journal
	$(BIN)/python -m bench.end_to_end

clean: ## Remove what was installed and compiled
	rm -rf $(VENV) $(STAMPS) tenants/engine/target tenants/engine/fuzz/target tenants/*.so
