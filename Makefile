# The commands of the project. `make` alone lists them.
#
# Each target is a thin front of a script or of cargo, so that everything can also be run by hand.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build run mesh region engines test test-engines bench bench-engines soak lint fmt

# Arguments for the program that a target starts: make run ARGS="--http 127.0.0.1:9000"
ARGS ?=
# Features that are built in: make build FEATURES=engines
FEATURES ?=

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/gb6 with the console in it (FEATURES=engines: and every engine)
	@scripts/install-build-deps.sh --node --engines
	@scripts/console.sh
	cargo build --release --locked -p gb6 $(if $(FEATURES),--features $(FEATURES))

run: ## Build and start everything in one process (gb6 dev) on ./gb6-data
	@scripts/run.sh $(ARGS)

mesh: ## Start geo, a region and two edges as processes on this machine, on ./mesh-data
	@scripts/mesh.sh $(ARGS)

region: ## Start a region of three nodes on Kafka, PostgreSQL, Redis and a double of TiKV, on ./region-data
	@scripts/install-build-deps.sh --engines
	@scripts/mesh.sh --engines $(ARGS)

engines: ## Start Kafka, PostgreSQL, Redis and doubles of TiKV and S3, on ./engines-data
	@scripts/engines.sh $(ARGS)

test: ## Install what the tests need and run all of them, as root
	@scripts/test.sh --check $(ARGS)
	@scripts/install-build-deps.sh --node --engines
	@scripts/install-test-deps.sh
	@scripts/test.sh $(ARGS)

test-engines: ## Install the engines of regions, start them, and run the tests that need them, as root
	@scripts/install-build-deps.sh --node --engines
	@scripts/install-test-deps.sh
	@scripts/install-engines.sh
	@scripts/test-engines.sh $(ARGS)

bench: ## Measure against the peers in one run and print the ratios
	@scripts/bench.sh $(ARGS)

bench-engines: ## Measure publishes on each backend beside Kafka's own benchmark
	@scripts/bench-engines.sh $(ARGS)

soak: ## Run the randomised tests for much longer than CI does
	@scripts/soak.sh $(ARGS)

lint: ## Check format, lints, house rules, documentation and dependencies
	@scripts/lint.sh

fmt: ## Format the Rust code
	cargo fmt --all
