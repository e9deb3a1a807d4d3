# Tasks of this repository; `make help` lists them. Requires a Rust toolchain, gcc, g++ and make. With Node, the build includes
# the pages for a browser; without it, a plain page.

CARGO ?= cargo
# `make run RELEASE=1` builds with optimisation; the first build takes twice as long.
PROFILE = $(if $(RELEASE),--release)
# Arguments of tidings: `make run ARGS="--listen 127.0.0.1:9000"`.
ARGS ?=
# .ci/run sets --locked, so that a build fails if Cargo.lock is out of date.
LOCKED ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-browser screenshots test-clients test-differential test-clients-stack check fmt lint docs tidy deny sbom fuzz loom coverage web engines engines-down test-engines engine-tests attacks prove faults soak bench bench-sends bench-reads bench-fanout bench-growth bench-latency bench-rebuild bench-logins bench-sockets stack stack-down test-stack test-production test-alerts test-kubernetes test-dashboards test-profiles test-containers env up upgrade down logs

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## run all roles in one process, on SQLite in ./data (RELEASE=1: optimised; ARGS="…": arguments of tidings)
	$(CARGO) run $(LOCKED) $(PROFILE) -- $(ARGS)

# Every binary runs, even after one has failed; the last line names what failed or says that all tests passed.
test: ## run all tests; also those on PostgreSQL, Redis and Kafka if `make engines` has started them
	@env -u TEST_POSTGRES_URL -u TEST_REDIS_URL -u TEST_KAFKA_URL CARGO="$(CARGO)" tests/run $(LOCKED) --workspace
	@if deploy/engines/answer.sh; then $(MAKE) --no-print-directory test-engines; \
	else echo "skipped: tests on PostgreSQL, Redis and Kafka (make engines starts them)"; fi
	@PATH=$$PATH:/usr/sbin command -v haproxy >/dev/null || echo "skipped: tests of the balancer (haproxy is not installed; make test-stack installs it)"
	@command -v npm >/dev/null || echo "skipped: tests of the pages (npm is not installed); the plain page was tested"

test-browser: ## test the pages in Chromium: conversations, GraphiQL and Playground (requires Node; CHROMIUM=path of a browser)
	@CARGO="$(CARGO)" tests/browser/run $(LOCKED) $(PROFILE)

screenshots: ## run test-browser and write its screenshots to docs/images
	@CARGO="$(CARGO)" SCREENSHOTS=docs/images LISTEN=$${LISTEN:-127.0.0.1:8080} tests/browser/run $(LOCKED) $(PROFILE)

test-clients: ## test common GraphQL clients and the GraphQL-over-HTTP audits against the program (requires Node)
	@CARGO="$(CARGO)" tests/clients/run $(LOCKED) $(PROFILE)

test-differential: ## compare validation and normalization with graphql-js (requires Node; COUNT=2000 requests, SEED=random)
	@CARGO="$(CARGO)" tests/clients/differential/run $(LOCKED) $(PROFILE)

test-clients-stack: engines balancer ## run test-clients against separate roles with two gateways behind HAProxy, and kill gateways (empties Kafka)
	@[ -n "$$TIDINGS" ] || $(CARGO) build $(LOCKED) $(PROFILE)
	@TIDINGS="$${TIDINGS:-$${CARGO_TARGET_DIR:-target}/$(if $(RELEASE),release,debug)/tidings}" tests/clients/run-stack

check: fmt lint docs tidy deny ## check formatting, lints, docs, source conventions and licences

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
	else echo "cargo-deny is not installed: \`make tidy\` has checked licences, bans and sources"; fi
	@echo "skipped: advisories, which need a network connection (cargo deny check advisories)"

sbom: ## write the software bill of materials (CycloneDX) to target/sbom.json
	$(CARGO) test $(LOCKED) --workspace --quiet --test tidy -- --nocapture the_bill_of_materials_names_every_package

fuzz: ## fuzz every parser of untrusted input for FUZZ_SECONDS (60) each (also FUZZ_RUNS, FUZZ_TARGET, FUZZ_SEED)
	$(CARGO) run $(LOCKED) --profile fuzz -p fuzz

loom: ## model-check the flag that wakes a subscriber, up to three preemptions
	RUSTFLAGS="--cfg loom" $(CARGO) test $(LOCKED) --release --target-dir target/loom -p wake

coverage: ## measure the line coverage of kernel, store, socket and event log; fails below 80 % (requires LLVM tools)
	@CARGO="$(CARGO)" tests/coverage/run $(LOCKED)

web: ## build the pages at /, /graphiql and /playground and show errors; the next build embeds them
	cd web && npm ci --ignore-scripts && npm run build
	cd web/app && npm ci --ignore-scripts && npm run build -- --emptyOutDir=false --outDir=../dist
	touch gateway/build.rs

engines: ## start PostgreSQL, Redis and Kafka as local processes and write their URLs to target/engines/env (installs them on Debian)
	@deploy/engines/up.sh

test-engines: engines balancer ## run the store, event log and story tests on PostgreSQL, Redis and Kafka
	@set -a; . "$${ENGINES_DIR:-target/engines}/env"; set +a; $(MAKE) --no-print-directory engine-tests

.PHONY: balancer
balancer:
	@deploy/stack/balancer.sh

# Requires the engines' URLs in the environment and skips nothing. --workspace, although few crates have these tests: with a
# selection of crates Cargo would unify features differently and build everything again.
engine-tests:
	@: $${TEST_POSTGRES_URL:?} $${TEST_REDIS_URL:?} $${TEST_KAFKA_URL:?}
	@status=0; export CARGO="$(CARGO)"; \
	tests/run $(LOCKED) --workspace --lib --test databases --test replica --test kafka --test local --test service -- --test-threads=2 --skip kernel:: || status=$$?; \
	tests/run $(LOCKED) --workspace --test stories -- --nocapture engines:: replica:: maintenance::engines_ backup::engines_ upgrade::engines_ balancer:: cache:: refresh:: devices:: sessions:: registration_and_login:: users:: restore:: revocation:: traces:: || status=$$?; \
	exit $$status

# The load generator starts what it measures, on engines of its own. bench/load/run names the settings.
BENCH = CARGO="$(CARGO)" CARGO_ARGS="$(LOCKED)" bench/load/run

bench: ## run every scenario of the load generator and write docs/benchmarks.md (ROUNDS=3, SECONDS_EACH=5; BASE_PROGRAM=path: compare with an older program)
	@$(BENCH)

bench-sends: ## measure sends: time to the badge, sustained rate, counting of a full topic (settings as of bench)
	@$(BENCH) badge sends ingest

bench-reads: ## measure queries, beside other GraphQL servers on the same services if Node is installed (settings as of bench)
	@$(BENCH) reads

bench-fanout: ## measure one message to many sockets, and a reconnect storm (settings as of bench)
	@$(BENCH) fan-out storm

bench-growth: ## measure with 1,000 to 1,000,000 stored messages (settings as of bench)
	@$(BENCH) growth

bench-rebuild: engines ## measure rebuild and reconcile of 1,000,000 messages in 10,000 dialogs (DIALOGS, MESSAGES)
	@[ -n "$$TIDINGS_PROGRAM" ] || $(CARGO) build --release $(LOCKED)
	@set -a; . "$${ENGINES_DIR:-target/engines}/env"; set +a; bench/rebuild

bench-latency: engines ## measure the time from sendMessage to the frame at another gateway, optimised, on the engines
	@CARGO="$(CARGO)" bench/latency $(LOCKED)

attacks: ## run every known attack ATTACKS (100) times against an optimised process and report refusal, time and memory
	@CARGO="$(CARGO)" bench/attacks $(LOCKED)

prove: engines ## prove exactness: a million histories, SQL = kernel, planted faults, a model of the saga, a crash at every failpoint (HISTORIES; 15 minutes)
	@set -a; . "$${ENGINES_DIR:-target/engines}/env"; set +a; CARGO="$(CARGO)" tests/prove $(LOCKED)

faults: ## run the mixed load under every fault, with at least 50 kills on the engines and 300 of one process (MINUTES=15, SEED)
	@CARGO="$(CARGO)" tests/faults $(LOCKED)

soak: ## run the mixed load with injected faults for MINUTES (2) and compare all counts (SEED, FAULTS; see docs/exactness.md)
	@CARGO="$(CARGO)" bench/soak $(LOCKED)

bench-logins: ## measure queries during a flood of logins, optimised
	@CARGO="$(CARGO)" bench/logins $(LOCKED)

bench-sockets: ## measure the memory of 1,000 to 19,000 sockets in an optimised process, and what remains after they close
	@$(BENCH) sockets
	@CARGO="$(CARGO)" bench/sockets $(LOCKED)

engines-down: ## stop what `make engines` has started
	@deploy/engines/down.sh

stack: engines ## start every role as a process, two gateways behind HAProxy (BALANCER=0: without; FRESH=1: on empty engines; PRODUCTION=1: two of each role, three brokers, replicas, PgBouncer; see deploy/stack/up.sh)
	$(CARGO) build $(LOCKED) $(PROFILE)
	@TIDINGS="$${CARGO_TARGET_DIR:-target}/$(if $(RELEASE),release,debug)/tidings" deploy/stack/up.sh

stack-down: ## stop what `make stack` has started; of PRODUCTION=1 also its engines
	@PRODUCTION=0 deploy/stack/down.sh
	@PRODUCTION=1 deploy/stack/down.sh
	@PRODUCTION=1 deploy/engines/down.sh

test-stack: engines balancer ## run the story tests through the balancer and kill gateways (installs HAProxy on Debian)
	@set -a; . "$${ENGINES_DIR:-target/engines}/env"; set +a; \
	CARGO="$(CARGO)" tests/run $(LOCKED) --workspace --test stories -- --nocapture balancer::

test-production: ## kill every broker, replica, PgBouncer and gateway and a process of each service of a production-like stack under load (SEED, FAULTS=kafka1,…)
	@CARGO="$(CARGO)" SOAK_ON=production bench/soak $(LOCKED)

test-alerts: ## test the alerts of deploy/prometheus, a firing and a quiet case of each, and the dashboards (installs Prometheus on Debian)
	@deploy/prometheus/test && deploy/grafana/test

test-kubernetes: ## check the manifests of deploy/kubernetes with the API server's validation and against the program (requires Go)
	@deploy/kubernetes/test

test-dashboards: engines balancer ## ask Prometheus every query of the dashboards and every alert on a stack with load (empties Kafka; RUNNING=1: on the stack of make stack)
	@[ -n "$$TIDINGS" ] || $(CARGO) build $(LOCKED) $(PROFILE)
	@TIDINGS="$${TIDINGS:-$${CARGO_TARGET_DIR:-target}/$(if $(RELEASE),release,debug)/tidings}" deploy/grafana/live

test-profiles: ## test heap profiles, in a build with jemalloc
	$(CARGO) test $(LOCKED) --workspace --features tidings/heap-profiles --test stories -- profiles::

test-containers: ## test the image and docker-compose.yml in a Docker engine of its own (Debian, as root; see tests/containers/run)
	@[ -n "$$TIDINGS" ] || $(CARGO) build $(LOCKED) $(PROFILE)
	@TIDINGS="$${TIDINGS:-$${CARGO_TARGET_DIR:-target}/$(if $(RELEASE),release,debug)/tidings}" tests/containers/run

env: ## create .env for docker-compose.yml with random passwords, or add those that it lacks
	@deploy/env.sh

up: docker env ## build the image, start docker-compose.yml, wait until it is ready and print its address (BUILD=0: do not build; OBSERVABILITY=1: with Prometheus, Grafana, Jaeger and kafka-ui)
	@deploy/containers.sh up

upgrade: docker env ## build the image and replace one running role after another, without an outage (BUILD=0: do not build)
	@deploy/containers.sh upgrade

down: docker ## stop the containers; volumes are kept
	docker compose --profile '*' down

logs: docker ## follow the logs of the containers
	docker compose --profile '*' logs --follow --tail=50

.PHONY: docker
docker:
	@docker compose version >/dev/null 2>&1 || { echo "docker compose is not installed; \`make stack\` starts the same roles as local processes" >&2; exit 1; }
	@docker info >/dev/null 2>&1 || { echo "the Docker engine does not answer; \`make stack\` starts the same roles as local processes" >&2; exit 1; }
