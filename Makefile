# What one does here. Needs a Rust toolchain, gcc, g++ and make; with Node the pages at / and /playground are editors, without it plain.

CARGO ?= cargo
# `make run RELEASE=1` optimises: the first build takes twice as long.
PROFILE = $(if $(RELEASE),--release)
# Arguments of the command: `make run ARGS="--listen 127.0.0.1:9000"`.
ARGS ?=
# Continuous integration says --locked: the lock file is not to change there.
LOCKED ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-browser screenshots test-clients test-clients-stack check fmt lint docs tidy deny sbom fuzz loom coverage web engines engines-down test-engines engine-tests attacks bench-latency bench-sockets stack stack-down test-stack env up down logs

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## everything in one process, on SQLite in ./data (RELEASE=1 optimises, ARGS="…" are passed on)
	$(CARGO) run $(LOCKED) $(PROFILE) -- $(ARGS)

test: ## all tests that need nothing else, on the engines too where they run, and what was skipped
	env -u TEST_POSTGRES_URL -u TEST_REDIS_URL -u TEST_KAFKA_URL $(CARGO) test $(LOCKED) --workspace
	@if deploy/engines/answer.sh; then $(MAKE) --no-print-directory test-engines; \
	else echo "skipped: the stores, the log and the stories on Postgres, Redis and Kafka (make engines starts them); they ran without"; fi
	@PATH=$$PATH:/usr/sbin command -v haproxy >/dev/null || echo "skipped: the balancer (haproxy is not installed; make test-stack installs it)"
	@command -v npm >/dev/null || echo "skipped: the editors inside the pages (npm is not installed); the plain page was tested"

test-browser: ## GraphiQL and Playground in Chromium, from signing in to live counts (needs Node; CHROMIUM=path for another browser)
	@CARGO="$(CARGO)" tests/browser/run $(LOCKED) $(PROFILE)

screenshots: ## the same, and its pictures into docs/images
	@CARGO="$(CARGO)" SCREENSHOTS=docs/images LISTEN=$${LISTEN:-127.0.0.1:8080} tests/browser/run $(LOCKED) $(PROFILE)

test-clients: ## the audits of GraphQL over HTTP, and clients that people use, against the real program (needs Node)
	@CARGO="$(CARGO)" tests/clients/run $(LOCKED) $(PROFILE)

test-clients-stack: engines balancer ## the same against every role as a process, two gateways behind HAProxy, and gateways killed (empties Kafka)
	@[ -n "$$TIDINGS" ] || $(CARGO) build $(LOCKED) $(PROFILE)
	@TIDINGS="$${TIDINGS:-$${CARGO_TARGET_DIR:-target}/$(if $(RELEASE),release,debug)/tidings}" tests/clients/run-stack

check: fmt lint docs tidy deny ## formatting, lints, docs, the shape of the sources, licences

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps

tidy:
	$(CARGO) test $(LOCKED) --workspace --quiet --test tidy

deny:
	@if command -v cargo-deny >/dev/null; \
	then $(CARGO) deny --offline --workspace check licenses bans sources; \
	else echo "cargo-deny is not installed: licences, bans and sources were looked at by \`make tidy\`"; fi
	@echo "skipped: advisories, which need their database (cargo deny check advisories)"

sbom: ## every package that is built in, as CycloneDX, into target/sbom.json
	$(CARGO) test $(LOCKED) --workspace --quiet --test tidy -- --nocapture the_bill_of_materials_names_every_package

fuzz: ## every reader of foreign bytes, FUZZ_SECONDS (60) each; FUZZ_RUNS, FUZZ_TARGET, FUZZ_SEED narrow it
	$(CARGO) run $(LOCKED) --profile fuzz -p fuzz

loom: ## the interleavings of the flag that wakes a subscriber, up to three preemptions
	RUSTFLAGS="--cfg loom" $(CARGO) test $(LOCKED) --release --target-dir target/loom -p wake

coverage: ## lines that tests reach in kernel, store, socket and log: fails below 80 % (needs LLVM's tools)
	@CARGO="$(CARGO)" tests/coverage/run $(LOCKED)

web: ## the pages at / and /playground anew, with errors shown; the next build embeds them
	cd web && npm ci --ignore-scripts && npm run build
	touch gateway/build.rs

engines: ## Postgres, Redis and Kafka as plain processes on loopback; prints their URLs and writes target/engines/env
	@deploy/engines/up.sh

test-engines: engines balancer ## the stores, the log and the stories on real Postgres, Redis and Kafka
	@set -a; . "$${ENGINES_DIR:-target/engines}/env"; set +a; $(MAKE) --no-print-directory engine-tests

.PHONY: balancer
balancer:
	@deploy/stack/balancer.sh

# Wants the engines' URLs in the environment, and skips nothing. The whole workspace is named so that nothing is built anew
# with other features.
engine-tests:
	@: $${TEST_POSTGRES_URL:?} $${TEST_REDIS_URL:?} $${TEST_KAFKA_URL:?}
	$(CARGO) test $(LOCKED) --workspace --lib --test databases --test kafka --test local --test service -- --test-threads=2 --skip kernel::
	$(CARGO) test $(LOCKED) --workspace --test stories -- --nocapture engines:: balancer:: cache:: refreshing:: sessions:: signing_in:: users::

bench-latency: engines ## from a send to the frame on the other gateway, on a release build and real engines
	@CARGO="$(CARGO)" bench/latency $(LOCKED)

attacks: ## what is sent to hurt, each ATTACKS (100) times against an optimised process: its refusal, its time, and the memory
	@CARGO="$(CARGO)" bench/attacks $(LOCKED)

bench-sockets: ## 10,000 sockets against one optimised process: memory for each, and what those who leave leave behind
	@CARGO="$(CARGO)" bench/sockets $(LOCKED)

engines-down: ## stops what `make engines` started
	@deploy/engines/down.sh

stack: engines ## every role as a process on these engines, two gateways behind HAProxy (BALANCER=0: none; FRESH=1: empty; see deploy/stack/up.sh)
	$(CARGO) build $(LOCKED) $(PROFILE)
	@TIDINGS="$${CARGO_TARGET_DIR:-target}/$(if $(RELEASE),release,debug)/tidings" deploy/stack/up.sh

stack-down: ## stops what `make stack` started
	@deploy/stack/down.sh

test-stack: engines balancer ## the story through the balancer, and gateways killed in the middle of it (installs HAProxy where it is absent)
	set -a; . "$${ENGINES_DIR:-target/engines}/env"; set +a; \
	$(CARGO) test $(LOCKED) --workspace --test stories -- --nocapture balancer::

env: ## .env for docker-compose.yml, with fresh passwords, where there is none
	@deploy/env.sh

up: docker env ## everything in containers: builds the image and starts docker-compose.yml
	REVISION=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown) docker compose up --build --detach

down: docker ## stops the containers; their data stays
	docker compose down

logs: docker ## what the containers say, until Ctrl-C
	docker compose logs --follow --tail=50

.PHONY: docker
docker:
	@docker compose version >/dev/null 2>&1 || { echo "docker compose is not installed: \`make stack\` runs the same as plain processes" >&2; exit 1; }
	@docker info >/dev/null 2>&1 || { echo "no Docker engine answers: \`make stack\` runs the same as plain processes" >&2; exit 1; }
