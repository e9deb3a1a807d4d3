#!/usr/bin/env bash
# Every role as a plain process on the engines of `make engines`: auth, dialog, counter, two gateways, and HAProxy before
# them. Makes databases and secrets where they are absent, starts what does not run, waits until all are ready and prints
# where they are. Logs and pid files are in STACK_DIR.
#
# Settings, all by environment: TIDINGS (the program: target/debug/tidings), STACK_DIR (target/stack), STACK_DATABASES (how
# the databases' names begin: tidings), STACK_CACHE (the number of the database in Redis: 1), BALANCER=0 (none), FRESH=1
# (without the databases, log, cache and secrets of earlier; it empties Kafka), AUTH_PORT, AUTH_OPS_PORT and so on for dialog,
# counter, gateway1, gateway2, balancer (see common.sh); the engines are those of TEST_POSTGRES_URL, TEST_KAFKA_URL and
# TEST_REDIS_URL, or of ENGINES_DIR.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tidings=${TIDINGS:-$root/target/debug/tidings}
services=(auth dialog counter)
roles=(auth dialog counter gateway1 gateway2)

# Nothing of this shell's environment reaches a role but what is handed over.
only=(env -i PATH="$PATH:/usr/sbin" LOG_FORMAT=text RUST_LOG="${RUST_LOG:-info}")

engines() {
    if [ -z "${TEST_POSTGRES_URL:-}" ] || [ -z "${TEST_KAFKA_URL:-}" ]; then
        [ -r "$engines_dir/env" ] || die "no engines: make engines"
        # shellcheck source=/dev/null
        source "$engines_dir/env"
    fi
}

forget() {
    local role service
    for role in "${roles[@]}"; do
        if running "$role" >/dev/null; then die "FRESH=1 wants a stack that does not run: make stack-down"; fi
    done
    for service in "${services[@]}"; do sql "drop database if exists $(database "$service") with (force)"; done
    rm -f "$stack_dir/signing-key.pem" "$stack_dir/service-token"
    if [ -n "${TEST_REDIS_URL:-}" ]; then redis-cli -u "$(cache_url)" flushdb >/dev/null; fi
    "$root/deploy/engines/one.sh" wipe kafka
    "$root/deploy/engines/one.sh" start kafka
}

prepare() {
    local service
    for service in "${services[@]}"; do
        [ "$(sql "select 1 from pg_database where datname = '$(database "$service")'")" = 1 ] ||
            sql "create database $(database "$service")"
    done
    "${only[@]}" DATA_DIR="$stack_dir" "$tidings" keygen >>"$stack_dir/prepare.log" 2>&1 ||
        die "the secrets could not be made: see $stack_dir/prepare.log"
    "${only[@]}" KAFKA_URL="$TEST_KAFKA_URL" AUTH_DATABASE_URL="$(database_url auth)" DIALOG_DATABASE_URL="$(database_url dialog)" \
        COUNTER_DATABASE_URL="$(database_url counter)" "$tidings" migrate >>"$stack_dir/prepare.log" 2>&1 ||
        die "the databases could not be brought up to date: see $stack_dir/prepare.log"
}

# Starts one role with the settings given: start NAME SETTING=VALUE…
start() {
    local name=$1
    shift
    if running "$name" >/dev/null; then return; fi
    port_is_free "$(port "$name")"
    port_is_free "$(ops_port "$name")"
    # The flag puts the folder into the command line, by which the process is known again.
    launch "$name" "${only[@]}" LISTEN="127.0.0.1:$(port "$name")" OPS_LISTEN="127.0.0.1:$(ops_port "$name")" \
        KAFKA_URL="$TEST_KAFKA_URL" AUTH_URL="http://127.0.0.1:$(port auth)" DIALOG_URL="http://127.0.0.1:$(port dialog)" \
        COUNTER_URL="http://127.0.0.1:$(port counter)" INTROSPECTION=on "$@" \
        "$tidings" "${name%[12]}" --service-token-file "$stack_dir/service-token"
}

start_balancer() {
    if running balancer >/dev/null; then return; fi
    port_is_free "$(port balancer)"
    port_is_free "$(ops_port balancer)"
    launch balancer "${only[@]}" BALANCER_LISTEN="127.0.0.1:$(port balancer)" \
        BALANCER_OPS_LISTEN="127.0.0.1:$(ops_port balancer)" GATEWAY1="127.0.0.1:$(port gateway1)" \
        GATEWAY2="127.0.0.1:$(port gateway2)" haproxy -db -p "$stack_dir/haproxy" -f "$root/deploy/haproxy.cfg"
}

is_ready() { "$tidings" healthcheck --ops-listen "127.0.0.1:$(ops_port "$1")"; }

[ -x "$tidings" ] || die "$tidings is no program: cargo build"
mkdir -p "$stack_dir"
chmod 700 "$stack_dir"
exec 9>"$stack_dir/lock"
flock 9
engines
if [ "${BALANCER:-1}" != 0 ]; then haproxy_install && roles+=(balancer); fi
if [ "${FRESH:-0}" = 1 ]; then forget 9>&-; fi
prepare

start auth INSTANCE=auth DATABASE_URL="$(database_url auth)" SIGNING_KEY_FILE="$stack_dir/signing-key.pem" 9>&-
start dialog INSTANCE=dialog DATABASE_URL="$(database_url dialog)" 9>&-
cache=(${TEST_REDIS_URL:+REDIS_URL="$(cache_url)"})
start counter INSTANCE=counter DATABASE_URL="$(database_url counter)" "${cache[@]}" 9>&-
for gateway in gateway1 gateway2; do
    # The balancer is the one proxy there is.
    start "$gateway" ALLOWED_ORIGINS=loopback TRUSTED_PROXIES=127.0.0.1 "${cache[@]}" \
        RATE_LIMIT_REQUESTS="${RATE_LIMIT_REQUESTS:-100/s:200}" RATE_LIMIT_SIGN_IN="${RATE_LIMIT_SIGN_IN:-30/m,10/m}" 9>&-
done
if [ "${BALANCER:-1}" != 0 ]; then start_balancer 9>&-; fi
for role in "${roles[@]}"; do wait_for 60 "$role" is_ready "$role"; done

say "stack: all roles are ready; make stack-down ends them, logs and secrets are in $stack_dir"
{
    if [ "${BALANCER:-1}" != 0 ]; then printf 'BALANCER=http://127.0.0.1:%s\n' "$(port balancer)"; fi
    printf 'GATEWAY1=http://127.0.0.1:%s\nGATEWAY2=http://127.0.0.1:%s\n' "$(port gateway1)" "$(port gateway2)"
}
