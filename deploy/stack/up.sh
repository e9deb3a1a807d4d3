#!/usr/bin/env bash
# Starts every role as a process on the engines of `make engines`: auth, dialog, counter, two gateways, and HAProxy in front
# of them. Creates databases and secrets if absent, starts the roles that do not run, waits until all are ready and prints
# the URLs. Logs and pid files are in STACK_DIR.
#
# Settings, all environment variables: TIDINGS (the program: target/debug/tidings), STACK_DIR (target/stack), STACK_DATABASES
# (prefix of the database names: tidings), STACK_CACHE (number of the Redis database: 1), BALANCER=0 (without HAProxy),
# FRESH=1 (deletes databases, cache and secrets first, and all data of Kafka), AUTH_PORT and AUTH_OPS_PORT, and the same for
# DIALOG, COUNTER, GATEWAY1, GATEWAY2 and BALANCER (see common.sh). The engines are given by TEST_POSTGRES_URL,
# TEST_KAFKA_URL and TEST_REDIS_URL, or by ENGINES_DIR.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tidings=${TIDINGS:-$root/target/debug/tidings}
services=(auth dialog counter)
roles=(auth dialog counter gateway1 gateway2)

# Roles get only the variables given here, not the environment of this shell.
only=(env -i PATH="$PATH:/usr/sbin" LOG_FORMAT=text RUST_LOG="${RUST_LOG:-info}")

engines() {
    if [ -z "${TEST_POSTGRES_URL:-}" ] || [ -z "${TEST_KAFKA_URL:-}" ]; then
        [ -r "$engines_dir/env" ] || die "no engines are running: run make engines first"
        # shellcheck source=/dev/null
        source "$engines_dir/env"
    fi
}

delete_data() {
    local role service
    for role in "${roles[@]}"; do
        if running "$role" >/dev/null; then die "FRESH=1 requires that the stack is stopped: run make stack-down first"; fi
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
        die "tidings keygen failed: see $stack_dir/prepare.log"
    "${only[@]}" AUTH_DATABASE_URL="$(database_url auth)" DIALOG_DATABASE_URL="$(database_url dialog)" \
        COUNTER_DATABASE_URL="$(database_url counter)" "$tidings" migrate >>"$stack_dir/prepare.log" 2>&1 ||
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

# Starts a role with additional settings: start NAME SETTING=VALUE…
start() {
    local name=$1
    shift
    if running "$name" >/dev/null; then return; fi
    port_is_free "$(port "$name")"
    port_is_free "$(ops_port "$name")"
    # A flag instead of a variable, because `running` recognises the process by the folder in its command line.
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

[ -x "$tidings" ] || die "$tidings is not an executable: run cargo build first"
mkdir -p "$stack_dir"
chmod 700 "$stack_dir"
exec 9>"$stack_dir/lock"
flock 9
engines
if [ "${BALANCER:-1}" != 0 ]; then haproxy_install && roles+=(balancer); fi
if [ "${FRESH:-0}" = 1 ]; then delete_data 9>&-; fi
prepare

start auth INSTANCE=auth DATABASE_URL="$(database_url auth)" SIGNING_KEY_FILE="$stack_dir/signing-key.pem" 9>&-
start dialog INSTANCE=dialog DATABASE_URL="$(database_url dialog)" 9>&-
cache=(${TEST_REDIS_URL:+REDIS_URL="$(cache_url)"})
start counter INSTANCE=counter DATABASE_URL="$(database_url counter)" "${cache[@]}" 9>&-
for gateway in gateway1 gateway2; do
    # HAProxy is the only proxy.
    start "$gateway" ALLOWED_ORIGINS=loopback TRUSTED_PROXIES=127.0.0.1 "${cache[@]}" \
        RATE_LIMIT_REQUESTS="${RATE_LIMIT_REQUESTS:-100/s:200}" RATE_LIMIT_SIGN_IN="${RATE_LIMIT_SIGN_IN:-30/m,10/m}" 9>&-
done
if [ "${BALANCER:-1}" != 0 ]; then start_balancer 9>&-; fi
for role in "${roles[@]}"; do wait_for 60 "$role" is_ready "$role"; done

say "stack: all roles are ready; make stack-down stops them; logs and secrets are in $stack_dir"
{
    if [ "${BALANCER:-1}" != 0 ]; then printf 'BALANCER=http://127.0.0.1:%s\n' "$(port balancer)"; fi
    printf 'GATEWAY1=http://127.0.0.1:%s\nGATEWAY2=http://127.0.0.1:%s\n' "$(port gateway1)" "$(port gateway2)"
}
