# shellcheck shell=bash
# Folder, ports and databases of the stack. Sourced by its scripts, not run.

# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/../engines/all.sh"

family=stack
services=(auth dialog counter)
if [ "$production" = 1 ]; then
    stack_dir=$engines_dir/stack
    instances=(auth1 auth2 dialog1 dialog2 counter1 counter2)
else
    stack_dir=${STACK_DIR:-$root/target/stack}
    instances=("${services[@]}")
fi
roles=("${instances[@]}" gateway1 gateway2)
run_dir=$stack_dir

# Print the port of a role, and the port of its /readyz and /metrics.
port() {
    if [ "$production" = 1 ]; then production_port "$1" 0; return; fi
    case $1 in
        auth) echo "${AUTH_PORT:-7051}" ;;
        dialog) echo "${DIALOG_PORT:-7052}" ;;
        counter) echo "${COUNTER_PORT:-7053}" ;;
        gateway1) echo "${GATEWAY1_PORT:-8081}" ;;
        gateway2) echo "${GATEWAY2_PORT:-8082}" ;;
        balancer) echo "${BALANCER_PORT:-8080}" ;;
    esac
}
ops_port() {
    if [ "$production" = 1 ]; then production_port "$1" 1; return; fi
    case $1 in
        auth) echo "${AUTH_OPS_PORT:-9091}" ;;
        dialog) echo "${DIALOG_OPS_PORT:-9092}" ;;
        counter) echo "${COUNTER_OPS_PORT:-9093}" ;;
        gateway1) echo "${GATEWAY1_OPS_PORT:-9094}" ;;
        gateway2) echo "${GATEWAY2_OPS_PORT:-9095}" ;;
        balancer) echo "${BALANCER_OPS_PORT:-9096}" ;;
    esac
}
# The roles have consecutive pairs of ports behind those of the engines.
production_port() {
    local names=(balancer "${roles[@]}") index
    for index in "${!names[@]}"; do
        if [ "${names[index]}" = "$1" ]; then echo $((first_port + 20 + 2 * index + $2)); fi
    done
}
# HAProxy's port in front of both Redis servers.
cache_port() { echo $((first_port + 9)); }

# Prints the service of a role: gateway of gateway2.
service() { printf '%s\n' "${1%[12]}"; }

# Prints the URLs of a service, comma-separated.
urls() {
    local role all=
    for role in "${roles[@]}"; do
        if [ "$(service "$role")" = "$1" ]; then all+=,http://127.0.0.1:$(port "$role"); fi
    done
    printf '%s\n' "${all#,}"
}

# The text by which the process that creates the topics is recognised.
topics_mark() { echo migrate; }

database() { printf '%s_%s\n' "${STACK_DATABASES:-tidings}" "$1"; }
# Print the URL of a service's database: on the server, and the one that its processes use.
direct_url() { printf '%s/%s\n' "${TEST_POSTGRES_URL%/*}" "$(database "$1")"; }
database_url() {
    if [ "$production" = 1 ]; then printf '%s/%s\n' "$(pgbouncer_url "$1")" "$(database "$1")"; else direct_url "$1"; fi
}
# Prints the URL of the replica that a process of auth or dialog reads: another one for each.
replica_url() { printf 'postgres://postgres@127.0.0.1:%s/%s\n' "$(postgres_port_of "replica${1: -1}")" "$(database "$(service "$1")")"; }
cache_url() {
    local server=$TEST_REDIS_URL
    if [ "$production" = 1 ]; then server=redis://127.0.0.1:$(cache_port); fi
    printf '%s/%s\n' "$server" "${STACK_CACHE:-1}"
}

# Runs one statement on the database server.
sql() {
    local psql
    psql=$(command -v psql || echo "$(postgres_bin)/psql")
    "$psql" "$TEST_POSTGRES_URL" -XAtq -v ON_ERROR_STOP=1 -c "$1"
}

# Debian installs HAProxy in /usr/sbin, which is not in every user's PATH.
haproxy() { PATH=$PATH:/usr/sbin command haproxy "$@"; }
haproxy_install() { haproxy -v >/dev/null 2>&1 || install_packages haproxy; }
