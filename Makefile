# One short name per check, the same here and in CI.

.DEFAULT_GOAL := help
.PHONY: help test test-offline soak fuzz fuzz-corpus lint doc examples bench bench-micro bench-build deny broker broker-stop rabbitmq pika clean

CARGO ?= cargo
target := $(or $(CARGO_TARGET_DIR),target)
broker := $(CARGO) run --quiet --package rpc-tests --features broker --bin broker --
# rpc-core's features, each of which must do without the others.
features := amqp json metrics opentelemetry tls

help: ## Show these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 16

# The behaviour suite runs again with calls that share no messages (1), and with requests that share them as replies do (64).
test: rabbitmq pika ## Run all tests, on RabbitMQ too; installs it if there is none
	$(CARGO) test --workspace --all-features
	COALESCE=1 $(CARGO) test --workspace --all-features --test memory --test amqp
	COALESCE=64 $(CARGO) test --workspace --all-features --test memory --test amqp
	$(CARGO) test --package rpc-core --no-default-features --features json,tls --lib

test-offline: ## Run the tests that need no broker
	$(CARGO) test --workspace
	COALESCE=1 $(CARGO) test --workspace --test memory
	COALESCE=64 $(CARGO) test --workspace --test memory

soak: rabbitmq ## Break things under load in random order, for SOAK_MINUTES (10), and the embedded broker CHAOS_RUNS (1000) times
	CHAOS_RUNS=$(or $(CHAOS_RUNS),1000) $(CARGO) test --package rpc-tests --features broker --test memory chaos::
	$(CARGO) test --package rpc-tests --features broker --test faults -- --soak

fuzz: ## Search for inputs that break promises, FUZZ_SECONDS (30) a target; TARGETS="batch url" runs some; installs cargo-fuzz
	@scripts/fuzz $(TARGETS)

fuzz-corpus: ## Run what is in fuzz/corpus through the targets, without cargo-fuzz; a part of the tests
	$(CARGO) test --package rpc-core --lib fuzzing
	$(CARGO) test --package rpc-macros --lib fuzzing

lint: ## Check formatting, dependencies without amqp, clippy with every feature alone and all together, and compile the fuzz targets
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy --package rpc-core --no-default-features -- -D warnings
	set -e; for feature in $(features); do \
	  $(CARGO) clippy --package rpc-core --no-default-features --features $$feature -- -D warnings; \
	done
	@! $(CARGO) tree --package rpc-core --no-default-features --features json,tls --edges normal --prefix none | grep -E '^(lapin|amq-protocol|async-rs|rustls|tokio-rustls) ' \
	  || { echo "rpc-core without the feature amqp must not depend on these"; exit 1; }
	RUSTFLAGS="--cfg fuzzing -D warnings" $(CARGO) check --locked --manifest-path fuzz/Cargo.toml --target-dir $(target)/fuzz

doc: ## Build the documentation; a broken link is an error
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --all-features

examples: rabbitmq ## Run every example, on the embedded broker and on a RabbitMQ node
	$(CARGO) build --workspace --all-features --examples --bins
	env -u AMQP_URL scripts/run-examples $(target)/debug/examples
	$(target)/debug/broker run scripts/run-examples $(target)/debug/examples

# SECTIONS: round-trip payloads tasks clients servers services guarantees coalescing in-process memory; the first unless set.
bench: rabbitmq ## Measure calls beside hand-written lapin's; QUICK=1 is quick, SECTIONS="payloads …" measures others
	$(CARGO) bench --package rpc-benches --features broker --bench round_trip -- $(if $(QUICK),--quick) $(SECTIONS)

bench-micro: ## Measure the codec, the dispatcher and the table of waiting calls alone
	$(CARGO) bench --package rpc-benches --bench codec --bench dispatch --bench in_flight

bench-build: ## Measure what the macro costs the compiler, beside tarpc's
	benches/build-time

deny: ## Check dependencies for licences, advisories and duplicates, with cargo-deny
	@$(CARGO) deny --version >/dev/null 2>&1 || { echo "cargo-deny is not installed: cargo install cargo-deny"; exit 1; }
	$(CARGO) deny --all-features check

broker: rabbitmq ## Start a private RabbitMQ node to play with, print its URL and how to run rabbitmqctl
	@$(broker) start

broker-stop: ## End that node
	@$(broker) stop

rabbitmq: # Install RabbitMQ from the system's packages, if there is none
	@scripts/ensure-rabbitmq >&2

pika: # Make the Python environment of the tests with pika
	@scripts/ensure-pika

clean: ## Remove what the build and the tests made
	@if [ -e .broker ]; then $(broker) stop; fi
	$(CARGO) clean
	rm -rf tests/.venv
