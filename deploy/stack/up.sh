#!/usr/bin/env bash
# Starts every role as a process on the engines of `make engines`: auth, dialog, counter, two gateways, and HAProxy in front
# of them. Creates databases and secrets if absent, starts the roles that do not run, waits until all are ready and prints
# the URLs. Logs and pid files are in STACK_DIR. With PRODUCTION=1: two processes of each role on the engines of
# `PRODUCTION=1 deploy/engines/up.sh`, with a PgBouncer in front of each database, below PRODUCTION_DIR.
#
# Settings, all environment variables: TIDINGS (the program: target/debug/tidings), STACK_DIR (target/stack), STACK_DATABASES
# (prefix of the database names: tidings), STACK_CACHE (number of the Redis database: 1), BALANCER=0 (without HAProxy),
# FRESH=1 (deletes databases, cache and secrets first, and all data of Kafka), AUTH_PORT and AUTH_OPS_PORT, and the same for
# DIALOG, COUNTER, GATEWAY1, GATEWAY2 and BALANCER (see common.sh; with PRODUCTION=1 the ports follow from PRODUCTION_PORT). The
# engines are given by TEST_POSTGRES_URL, TEST_KAFKA_URL and TEST_REDIS_URL, or by ENGINES_DIR. RATE_LIMIT_REQUESTS,
# RATE_LIMIT_SIGN_IN, SAGA_DEADLINE and ACCESS_TOKEN_TTL are passed to the roles that read them.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=/dev/null
for part in common roles; do source "$here/$part.sh"; done

delete_data() {
    local role service engine
    for role in "${roles[@]}"; do
        if running "$role" >/dev/null; then die "FRESH=1 requires that the stack is stopped: run make stack-down first"; fi
    done
    for service in "${services[@]}"; do sql "drop database if exists $(database "$service") with (force)"; done
    rm -f "$stack_dir/signing-key.pem" "$stack_dir/service-token"
    if [ -n "${TEST_REDIS_URL:-}" ]; then redis-cli -u "$TEST_REDIS_URL/${STACK_CACHE:-1}" flushdb >/dev/null; fi
    for engine in "${kafka_nodes[@]}"; do "$root/deploy/engines/one.sh" wipe "$engine" & done
    wait
    for engine in "${kafka_nodes[@]}"; do "$root/deploy/engines/one.sh" start "$engine" & done
    wait
}

prepare() {
    local service
    for service in "${services[@]}"; do
        [ "$(sql "select 1 from pg_database where datname = '$(database "$service")'")" = 1 ] ||
            sql "create database $(database "$service")"
    done
    "${only[@]}" DATA_DIR="$stack_dir" "$tidings" keygen >>"$stack_dir/prepare.log" 2>&1 ||
        die "tidings keygen failed: see $stack_dir/prepare.log"
    "${only[@]}" AUTH_DATABASE_URL="$(direct_url auth)" DIALOG_DATABASE_URL="$(direct_url dialog)" \
        COUNTER_DATABASE_URL="$(direct_url counter)" "$tidings" migrate >>"$stack_dir/prepare.log" 2>&1 ||
        die "tidings migrate failed: see $stack_dir/prepare.log"
    create_topics
}

# Creates the topics. Roles start without Kafka: if it does not answer, the topics are created in the background once it does.
create_topics() {
    local status=0 create=("${only[@]}" KAFKA_URL="$TEST_KAFKA_URL" "$tidings" migrate)
    if running topics >/dev/null; then return; fi
    timeout 20 "${create[@]}" >>"$stack_dir/prepare.log" 2>&1 || status=$?
    case $status in
        0) ;;
        124)
            say "stack: Kafka does not answer; the roles start, and subscriptions and counting continue when it does"
            launch topics "${create[@]}"
            ;;
        *) die "tidings migrate failed: see $stack_dir/prepare.log" ;;
    esac
}

[ -x "$tidings" ] || die "$tidings is not an executable: run cargo build first"
mkdir -p "$stack_dir"
chmod 700 "$stack_dir"
exec 9>"$stack_dir/lock"
flock 9
engine_urls
if [ "${BALANCER:-1}" != 0 ]; then haproxy_install; fi
if [ "${FRESH:-0}" = 1 ]; then delete_data 9>&-; fi
prepare

# First, because with PRODUCTION=1 the roles reach Redis through it.
started=("${roles[@]}")
if [ "${BALANCER:-1}" != 0 ]; then start_balancer 9>&- && started+=(balancer); fi
for role in "${roles[@]}"; do start_role "$role" 9>&-; done
for role in "${started[@]}"; do wait_for 60 "$role" is_ready "$role"; done

# Settings of the operator's commands: set -a; . STACK_DIR/env; tidings reconcile
{
    for service in "${services[@]}"; do printf '%s_DATABASE_URL=%s\n' "${service^^}" "$(direct_url "$service")"; done
    printf 'DIALOG_URL=%s\nSERVICE_TOKEN_FILE=%s\n' "$(urls dialog)" "$stack_dir/service-token"
    printf 'KAFKA_URL=%s\n' "$TEST_KAFKA_URL"
    if [ -n "${TEST_REDIS_URL:-}" ]; then printf 'REDIS_URL=%s\n' "$(cache_url)"; fi
} >"$stack_dir/env"

say "stack: all roles are ready; make stack-down stops them; logs and secrets are in $stack_dir"
{
    if [ "${BALANCER:-1}" != 0 ]; then printf 'BALANCER=http://127.0.0.1:%s\n' "$(port balancer)"; fi
    printf 'GATEWAY1=http://127.0.0.1:%s\nGATEWAY2=http://127.0.0.1:%s\n' "$(port gateway1)" "$(port gateway2)"
}
