# shellcheck shell=bash
# Redis from Debian packages, configured as a cache: limited memory, no persistence. Sourced by the other scripts.

redis_url() { printf 'redis://127.0.0.1:%s\n' "$redis_port"; }

redis_install() { command -v redis-server >/dev/null || install_packages redis-server redis-tools; }

redis_start() {
    if running redis >/dev/null; then return; fi
    port_is_free "$redis_port"
    mkdir -p "$engines_dir/redis"
    launch redis redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$engines_dir/redis" --save '' \
        --appendonly no --maxmemory 256mb --maxmemory-policy allkeys-lru --set-proc-title no
    wait_for 10 redis redis-cli -h 127.0.0.1 -p "$redis_port" ping
}

redis_stop() { halt redis TERM 10; }
redis_wipe() { rm -rf "$engines_dir/redis"; }
