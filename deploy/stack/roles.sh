# shellcheck shell=bash
# Starts the roles of the stack with their settings, and HAProxy. Sourced by up.sh and one.sh, with common.sh.

tidings=${TIDINGS:-$root/target/debug/tidings}
# Roles get only the variables given here, not the environment of this shell.
only=(env -i PATH="$PATH:/usr/sbin" LOG_FORMAT=text RUST_LOG="${RUST_LOG:-info}")

# Reads the URLs of the engines.
engine_urls() {
    if [ "$production" = 1 ] || [ -z "${TEST_POSTGRES_URL:-}" ] || [ -z "${TEST_KAFKA_URL:-}" ]; then
        [ -r "$engines_dir/env" ] || die "no engines are running: run make engines first"
        # shellcheck source=/dev/null
        source "$engines_dir/env"
    fi
}

# Starts a process of a role unless it runs.
start_role() {
    local name=$1 service settings cache
    if running "$name" >/dev/null; then return; fi
    service=$(service "$name")
    cache=(${TEST_REDIS_URL:+REDIS_URL="$(cache_url)"})
    if [ "$service" = gateway ]; then
        # HAProxy is the only proxy.
        settings=(ALLOWED_ORIGINS=loopback TRUSTED_PROXIES=127.0.0.1 "${cache[@]}"
            RATE_LIMIT_REQUESTS="${RATE_LIMIT_REQUESTS:-100/s:200}" RATE_LIMIT_SIGN_IN="${RATE_LIMIT_SIGN_IN:-30/m,10/m}")
    else
        settings=(INSTANCE="$name" DATABASE_URL="$(database_url "$service")")
        if [ "$production" = 1 ]; then
            settings+=(DATABASE_DIRECT_URL="$(direct_url "$service")")
            if [ "$service" != counter ]; then settings+=(DATABASE_REPLICA_URL="$(replica_url "$name")"); fi
        fi
        case $service in
            auth) settings+=(SIGNING_KEY_FILE="$stack_dir/signing-key.pem") ;;
            dialog) settings+=(${SAGA_DEADLINE:+SAGA_DEADLINE="$SAGA_DEADLINE"}) ;;
            counter) settings+=("${cache[@]}") ;;
        esac
    fi
    if [ -n "${ACCESS_TOKEN_TTL:-}" ] && [[ $service == auth || $service == gateway ]]; then
        settings+=(ACCESS_TOKEN_TTL="$ACCESS_TOKEN_TTL")
    fi
    port_is_free "$(port "$name")"
    port_is_free "$(ops_port "$name")"
    # A flag instead of a variable, because `running` recognises the process by the folder in its command line.
    launch "$name" "${only[@]}" LISTEN="127.0.0.1:$(port "$name")" OPS_LISTEN="127.0.0.1:$(ops_port "$name")" \
        KAFKA_URL="$TEST_KAFKA_URL" AUTH_URL="$(urls auth)" DIALOG_URL="$(urls dialog)" COUNTER_URL="$(urls counter)" \
        INTROSPECTION=on "${settings[@]}" "$tidings" "$service" --service-token-file "$stack_dir/service-token"
}

start_balancer() {
    local caches=() files=(-f "$root/deploy/haproxy.cfg")
    if running balancer >/dev/null; then return; fi
    port_is_free "$(port balancer)"
    port_is_free "$(ops_port balancer)"
    if [ "$production" = 1 ]; then
        port_is_free "$(cache_port)"
        caches=(CACHE_LISTEN="127.0.0.1:$(cache_port)" CACHE1="127.0.0.1:$(redis_port_of redis)"
            CACHE2="127.0.0.1:$(redis_port_of redis_replica)")
        files+=(-f "$root/deploy/haproxy-redis.cfg")
    fi
    launch balancer "${only[@]}" BALANCER_LISTEN="127.0.0.1:$(port balancer)" \
        BALANCER_OPS_LISTEN="127.0.0.1:$(ops_port balancer)" GATEWAY1="127.0.0.1:$(port gateway1)" \
        GATEWAY2="127.0.0.1:$(port gateway2)" "${caches[@]}" haproxy -db -p "$stack_dir/haproxy" "${files[@]}"
}

is_ready() { "$tidings" healthcheck --ops-listen "127.0.0.1:$(ops_port "$1")"; }
