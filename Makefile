# Short names for the checks. CI runs them too.

.DEFAULT_GOAL := help
.PHONY: help install test test-offline soak fuzz fuzz-corpus lint msrv doc examples package public-api semver bench bench-micro bench-instructions bench-build deny asyncapi broker broker-stop rabbitmq pika clean

CARGO ?= cargo
target := $(or $(CARGO_TARGET_DIR),target)
broker := $(CARGO) run --package rpc-tests --features broker --bin broker --
# Features of rpc-core. Each one must compile without the others.
features := amqp json metrics opentelemetry schema tls
rust_version := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 16

install: ## Install the program `rpc` with `cargo install`; ROOT=folder puts it into folder/bin
	$(CARGO) install --locked --path rpc-cli $(if $(ROOT),--root $(ROOT))

# The behaviour suite runs three times: with the defaults, without batches (COALESCE=1), and with batches of requests too (64). Messages of
# streams are never in batches, and the tests outside the suite set their own limits. All test programs are selected, although two of them have
# the suite: with fewer, dependencies get other features and are built again.
batched := --tests -- suite:: --skip suite::streams
test: rabbitmq pika ## Run all tests, those on RabbitMQ included; installs RabbitMQ if it is missing
	$(CARGO) test --workspace --all-features
	COALESCE=1 $(CARGO) test --workspace --all-features $(batched)
	COALESCE=64 $(CARGO) test --workspace --all-features $(batched)
	$(CARGO) test --package rpc-core --no-default-features --features json,tls --lib

test-offline: ## Run the tests that need no RabbitMQ
	$(CARGO) test --workspace
	COALESCE=1 $(CARGO) test --workspace $(batched)
	COALESCE=64 $(CARGO) test --workspace $(batched)

soak: rabbitmq ## Inject faults under load in random order for SOAK_MINUTES (10), and into the embedded broker CHAOS_RUNS (1000) times
	CHAOS_RUNS=$(or $(CHAOS_RUNS),1000) $(CARGO) test --package rpc-tests --features broker --test memory chaos::
	$(CARGO) test --package rpc-tests --features broker --test faults -- --soak

fuzz: ## Run the fuzz targets for FUZZ_SECONDS (30) each; TARGETS="batch url" selects some; installs cargo-fuzz
	@scripts/fuzz $(TARGETS)

fuzz-corpus: ## Run the inputs in fuzz/corpus through the fuzz targets, without cargo-fuzz; part of the tests
	$(CARGO) test --package rpc-core --lib fuzzing
	$(CARGO) test --package rpc-macros --lib fuzzing

lint: ## Check formatting, run clippy on each feature alone and on all together, and compile the fuzz targets
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy --package rpc-core --no-default-features -- -D warnings
	set -e; for feature in $(features); do \
	  $(CARGO) clippy --package rpc-core --no-default-features --features $$feature -- -D warnings; \
	done
	@! $(CARGO) tree --package rpc-core --no-default-features --features json,tls --edges normal --prefix none | grep -E '^(lapin|amq-protocol|async-rs|rustls|tokio-rustls) ' \
	  || { echo "rpc-core without the feature amqp must not depend on these"; exit 1; }
	RUSTFLAGS="--cfg fuzzing -D warnings" $(CARGO) check --locked --manifest-path fuzz/Cargo.toml --target-dir $(target)/fuzz

# rpc-examples is checked too, because it contains generated code.
msrv: ## Check the packages with the oldest supported compiler, which it installs with rustup
	rustup toolchain install $(rust_version) --profile minimal --no-self-update
	RUSTUP_TOOLCHAIN=$(rust_version) $(CARGO) check --locked --package rpc-core --package rpc-macros --package rpc-cli --package rpc-examples --all-features --target-dir $(target)/msrv

doc: ## Build the documentation; broken links are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --all-features

examples: rabbitmq ## Run all examples, on the embedded broker and on a RabbitMQ node
	$(CARGO) build --workspace --all-features --examples --bins
	env -u AMQP_URL scripts/run-examples $(target)/debug/examples
	$(target)/debug/broker run scripts/run-examples $(target)/debug/examples

# Only the build may download dependencies: rpc-core must find rpc-macros beside it, not on a registry.
package: ## Package rpc-core and rpc-macros, and build them from their packages
	$(CARGO) build --locked --package rpc-core --all-features
	$(CARGO) package --offline --allow-dirty --no-metadata --all-features --package rpc-core --package rpc-macros
	@set -e; for package in rpc-core rpc-macros; do for file in LICENSE-APACHE LICENSE-MIT README.md; do \
	  $(CARGO) package --quiet --allow-dirty --list --package $$package | grep -qx $$file || { echo "the package $$package lacks $$file"; exit 1; }; \
	done; done

public-api: ## List the public API of rpc-core; SINCE=commit shows the changes since then; installs cargo-public-api
	@scripts/public-api $(SINCE)

semver: ## Check that the version of rpc-core allows the API changes since the commit SINCE (HEAD); installs cargo-semver-checks
	@scripts/ensure-cargo-tool cargo-semver-checks 0.51.0
	$(CARGO) semver-checks --package rpc-core --all-features --baseline-rev $(or $(SINCE),HEAD)

# SECTIONS: round-trip payloads tasks clients servers services guarantees coalescing in-process memory streams. Default: the first.
bench: rabbitmq ## Compare calls with hand-written lapin code; QUICK=1 takes less time, SECTIONS="payloads …" selects other measurements
	$(CARGO) bench --package rpc-benches --features broker --bench round_trip -- $(if $(QUICK),--quick) $(SECTIONS)

bench-micro: ## Measure the codec, the dispatcher and the table of calls in flight
	$(CARGO) bench --package rpc-benches --bench codec --bench dispatch --bench in_flight

bench-instructions: rabbitmq ## Count the instructions per call with callgrind, with and without introspection
	$(CARGO) build --release --package rpc-benches --bin contender
	$(CARGO) build --package rpc-tests --features broker --bin broker
	$(target)/debug/broker run benches/instructions $(target)/release/contender

bench-build: ## Compare the compile times of rpc-core's macro and tarpc's macro
	benches/build-time

deny: ## Check licences, advisories and duplicates of the dependencies; installs cargo-deny
	@scripts/ensure-cargo-tool cargo-deny 0.20.2
	$(CARGO) deny --all-features check

asyncapi: ## Run the official AsyncAPI validator on documents of rpc export; installs it with npm below the target directory
	@CARGO=$(CARGO) scripts/asyncapi $(target)

broker: rabbitmq ## Start a private RabbitMQ node, and print its URL and how to run rabbitmqctl
	@$(broker) start

broker-stop: ## Stop the node of `make broker`
	@$(broker) stop

rabbitmq: # Install RabbitMQ from the system's packages if it is missing
	@scripts/ensure-rabbitmq >&2

pika: # Create the Python environment with pika for the tests
	@scripts/ensure-pika

clean: ## Remove the files of builds and tests
	@if [ -e .broker ]; then $(broker) stop; fi
	$(CARGO) clean
	rm -rf tests/.venv
