# Everything sets itself up: `make run` and `make test` work on a machine with Python 3.11+, cargo and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
ENGINE := $(shell find tenants/engine/src -name '*.rs') tenants/engine/Cargo.toml tenants/engine/Cargo.lock
FUZZ_SECONDS ?= 60
# Integration tests wait more than they compute.
WORKERS ?= 2
SOAK_KILLS ?= 100
SOAK_SECONDS ?= 1800
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard tenants/engine/fuzz/fuzz_targets/*.rs)))

.DEFAULT_GOAL := help
.PHONY: help install run test test-engine soak fuzz lint format docs alerts pictures bench clean

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
	PATH="$(CURDIR)/$(STAMPS)/bin:$$PATH" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

soak: $(STAMPS)/test ## Kill processes under load, SOAK_KILLS (100) with each journal, then restart both sides of remote write for SOAK_SECONDS (1800)
	.ci/system-packages
	MILLRACE_CHAOS_KILLS=$(SOAK_KILLS) MILLRACE_SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s tests/chaos

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

# kustomize cannot put a file into an object, and promtool and rule_files want the rules alone.
alerts: ## Write k8s/alerts/prometheus-rules.yaml from the rule files beside it
	for rules in k8s/alerts/*.rules.yaml; do \
	    printf -- '---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n' && \
	    printf 'metadata: {name: millrace-%s}\nspec:\n' "$$(basename $$rules .rules.yaml)" && \
	    sed 's/^\(.\)/  \1/' $$rules || exit 1; \
	done > k8s/alerts/prometheus-rules.yaml.new
	mv k8s/alerts/prometheus-rules.yaml.new k8s/alerts/prometheus-rules.yaml

pictures: $(STAMPS)/test ## Take the pictures in the documentation anew, of the running demo
	.ci/system-packages
	$(BIN)/python -m tests.console.pictures

bench: $(STAMPS)/test ## Measure the engine, memory, remote writes, settings, the journal, dead endpoints, floods, ten thousand tenants, exactness, and all end to end
	.ci/system-packages
	$(BIN)/python -m bench.engine
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.remote_write
	$(BIN)/python -m bench.settings
	$(BIN)/python -m bench.journal
	$(BIN)/python -m bench.bulkheads
	$(BIN)/python -m bench.fairness
	$(BIN)/python -m bench.many_tenants
	$(BIN)/python -m bench.exactness
	$(BIN)/python -m bench.end_to_end

clean: ## Remove what was installed and compiled
	rm -rf $(VENV) $(STAMPS) tenants/engine/target tenants/engine/fuzz/target tenants/*.so
