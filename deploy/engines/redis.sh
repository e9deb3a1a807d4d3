# shellcheck shell=bash
# Redis from Debian packages, configured as a cache: limited memory, no persistence. With PRODUCTION=1 there are two servers,
# redis and redis_replica, of which one follows the other. Sourced by the other scripts.

redis_port_of() { if [ "$1" = redis ]; then printf '%s\n' "$redis_port"; else printf '%s\n' $((redis_port + 1)); fi; }
# Prints the URL of the primary.
redis_url() {
    local port=$redis_port
    if [ "$production" = 1 ] && redis_is_primary $((redis_port + 1)); then port=$((redis_port + 1)); fi
    printf 'redis://127.0.0.1:%s\n' "$port"
}

redis_install() { command -v redis-server >/dev/null || install_packages redis-server redis-tools; }

redis_start() {
    local name=$1 port other of=()
    if running "$name" >/dev/null; then return; fi
    port=$(redis_port_of "$name")
    port_is_free "$port"
    mkdir -p "$engines_dir/$name"
    if [ "$production" = 1 ]; then
        other=$((2 * redis_port + 1 - port))
        if [ "$name" != redis ] || redis_is_primary "$other"; then of=(--replicaof 127.0.0.1 "$other"); fi
    fi
    launch "$name" redis-server --bind 127.0.0.1 --port "$port" --dir "$engines_dir/$name" --save '' \
        --appendonly no --maxmemory 256mb --maxmemory-policy allkeys-lru --set-proc-title no "${of[@]}"
    wait_for 10 "$name" redis-cli -h 127.0.0.1 -p "$port" ping
}

redis_is_primary() { [ "$(redis-cli -h 127.0.0.1 -p "$1" role 2>/dev/null | head -n 1)" = master ]; }

# Gives a primary that does not run any more a successor, as an operator or Sentinel does.
redis_promote() {
    local other=$((2 * redis_port + 1 - $(redis_port_of "$1")))
    if running "$1" >/dev/null; then die "$1 runs"; fi
    redis-cli -h 127.0.0.1 -p "$other" replicaof no one >/dev/null
}

redis_stop() { halt "$1" TERM 10; }
redis_wipe() { rm -rf "${engines_dir:?}/$1"; }
