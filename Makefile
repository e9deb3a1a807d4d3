# What one does here. Needs a Rust toolchain, gcc, g++ and make; with Node the pages at / and /playground are editors, without it plain.

CARGO ?= cargo
# `make run RELEASE=1` optimises: the first build takes twice as long.
PROFILE = $(if $(RELEASE),--release)
# Arguments of the command: `make run ARGS="--listen 127.0.0.1:9000"`.
ARGS ?=
# Continuous integration says --locked: the lock file is not to change there.
LOCKED ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-browser screenshots check fmt lint docs tidy deny web engines engines-down test-engines engine-tests bench-sockets

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## everything in one process, on SQLite in ./data (RELEASE=1 optimises, ARGS="…" are passed on)
	$(CARGO) run $(LOCKED) $(PROFILE) -- $(ARGS)

test: ## all tests that need nothing else, on the engines too where they run, and what was skipped
	env -u TEST_POSTGRES_URL -u TEST_REDIS_URL -u TEST_KAFKA_URL $(CARGO) test $(LOCKED) --workspace
	@if deploy/engines/answer.sh; then $(MAKE) --no-print-directory test-engines; \
	else echo "skipped: the stores, the log and the stories on Postgres, Redis and Kafka (make engines starts them); they ran without"; fi
	@command -v npm >/dev/null || echo "skipped: the editors inside the pages (npm is not installed); the plain page was tested"

test-browser: ## GraphiQL and Playground in Chromium, from signing in to live counts (needs Node; CHROMIUM=path for another browser)
	@CARGO="$(CARGO)" tests/browser/run $(LOCKED) $(PROFILE)

screenshots: ## the same, and its pictures into docs/images
	@CARGO="$(CARGO)" SCREENSHOTS=docs/images LISTEN=$${LISTEN:-127.0.0.1:8080} tests/browser/run $(LOCKED) $(PROFILE)

check: fmt lint docs tidy deny ## formatting, lints, docs, the shape of the sources, licences

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps

tidy:
	$(CARGO) test $(LOCKED) --quiet --test tidy

deny:
	@if command -v cargo-deny >/dev/null; \
	then $(CARGO) deny --offline --workspace check licenses bans sources; \
	else echo "skipped: licences, doubles and sources of dependencies (cargo-deny is not installed)"; fi

web: ## the pages at / and /playground anew, with errors shown; the next build embeds them
	cd web && npm ci --ignore-scripts && npm run build
	touch gateway/build.rs

engines: ## Postgres, Redis and Kafka as plain processes on loopback; prints their URLs and writes target/engines/env
	@deploy/engines/up.sh

test-engines: engines ## the stores, the log, the cache and the stories on real Postgres, Redis and Kafka
	@set -a; . "$${ENGINES_DIR:-target/engines}/env"; set +a; $(MAKE) --no-print-directory engine-tests

# Wants the engines' URLs in the environment, and skips nothing.
engine-tests:
	@: $${TEST_POSTGRES_URL:?} $${TEST_REDIS_URL:?} $${TEST_KAFKA_URL:?}
	$(CARGO) test $(LOCKED) -p db -p events -p auth -p dialog -p counter -- --test-threads=2
	$(CARGO) test $(LOCKED) --test stories -- --nocapture engines::

bench-sockets: ## 10,000 sockets against one optimised process: memory for each, and what those who leave leave behind
	@CARGO="$(CARGO)" bench/sockets $(LOCKED)

engines-down: ## stops what `make engines` started
	@deploy/engines/down.sh
