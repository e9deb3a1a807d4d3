# shellcheck shell=bash
# Folder, ports and databases of the stack. Sourced by its scripts, not run.

# shellcheck source=/dev/null
for part in common postgres; do source "$(dirname "${BASH_SOURCE[0]}")/../engines/$part.sh"; done

family=stack
stack_dir=${STACK_DIR:-$root/target/stack}
run_dir=$stack_dir

# Print the port of a role, and the port of its /readyz and /metrics.
port() {
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
    case $1 in
        auth) echo "${AUTH_OPS_PORT:-9091}" ;;
        dialog) echo "${DIALOG_OPS_PORT:-9092}" ;;
        counter) echo "${COUNTER_OPS_PORT:-9093}" ;;
        gateway1) echo "${GATEWAY1_OPS_PORT:-9094}" ;;
        gateway2) echo "${GATEWAY2_OPS_PORT:-9095}" ;;
        balancer) echo "${BALANCER_OPS_PORT:-9096}" ;;
    esac
}

# The text by which the process that creates the topics is recognised.
topics_mark() { echo migrate; }

database() { printf '%s_%s\n' "${STACK_DATABASES:-tidings}" "$1"; }
database_url() { printf '%s/%s\n' "${TEST_POSTGRES_URL%/*}" "$(database "$1")"; }
cache_url() { printf '%s/%s\n' "$TEST_REDIS_URL" "${STACK_CACHE:-1}"; }

# Runs one statement on the database server.
sql() {
    local psql
    psql=$(command -v psql || echo "$(postgres_bin)/psql")
    "$psql" "$TEST_POSTGRES_URL" -XAtq -v ON_ERROR_STOP=1 -c "$1"
}

# Debian installs HAProxy in /usr/sbin, which is not in every user's PATH.
haproxy() { PATH=$PATH:/usr/sbin command haproxy "$@"; }
haproxy_install() { haproxy -v >/dev/null 2>&1 || install_packages haproxy; }
