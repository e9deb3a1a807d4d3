# shellcheck shell=bash
# Functions of the engine and stack scripts: settings from the environment, processes with pid files, waiting. Sourced, not run.
#
# PRODUCTION=1 selects the engines of the production-like stack, which have a folder (PRODUCTION_DIR) and consecutive ports
# (from PRODUCTION_PORT on) of their own.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
production=${PRODUCTION:-0}
if [ "$production" = 1 ]; then
    first_port=${PRODUCTION_PORT:-21000}
    engines_dir=${PRODUCTION_DIR:-$root/target/production}
    postgres_port=$first_port
    pgbouncer_port=$((first_port + 3))
    redis_port=$((first_port + 6))
    kafka_port=$((first_port + 10))
    kafka_controller_port=$((first_port + 11))
    engines=(postgres replica1 replica2 redis redis_replica kafka1 kafka2 kafka3)
    engines+=(pgbouncer_auth pgbouncer_dialog pgbouncer_counter)
else
    engines_dir=${ENGINES_DIR:-$root/target/engines}
    postgres_port=${POSTGRES_PORT:-15433}
    redis_port=${REDIS_PORT:-16379}
    kafka_port=${KAFKA_PORT:-19092}
    kafka_controller_port=${KAFKA_CONTROLLER_PORT:-19093}
    engines=(postgres redis kafka)
fi
# Name of the group of processes in messages, and the folder of their pid files and logs.
family=engines
run_dir=$engines_dir

say() { printf '%s\n' "$*" >&2; }
die() { say "$family: $*"; exit 1; }

# Runs a command as root, through sudo unless the user is root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Prints the kind of an engine, which is the name of its functions: kafka of kafka2, pgbouncer of pgbouncer_auth.
kind() { printf '%s\n' "${1%%[0-9_]*}"; }

# Installs Debian packages. RUNLEVEL=1 keeps most of them from starting their service, which is not used here.
install_packages() {
    command -v apt-get >/dev/null || die "cannot install $*: apt-get is not available; install it by hand"
    say "$family: installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq update >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# Prints the pid of a process from its pid file; fails if the process does not run. The system may have given the pid to
# another program, so the command line must contain the folder of the process, or the text that KIND_mark prints.
running() {
    local file=$run_dir/$1.pid mark=$run_dir pid
    [ -r "$file" ] || return 1
    pid=$(head -n 1 "$file")
    [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] || return 1
    if declare -F "$(kind "$1")_mark" >/dev/null; then mark=$("$(kind "$1")_mark" "$1"); fi
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -e "$mark" || return 1
    printf '%s\n' "$pid"
}

# Starts a program in the background, detached from the terminal, with its output in a log file. Other file descriptors are
# closed: otherwise an engine would hold its caller's locks as long as it runs.
launch() {
    local name=$1
    shift
    (
        for open in "/proc/$BASHPID/fd"/*; do
            [ "${open##*/}" -le 2 ] || eval "exec ${open##*/}>&-"
        done
        exec setsid nohup "$@"
    ) >>"$run_dir/$name.log" 2>&1 </dev/null &
    printf '%s\n' "$!" >"$run_dir/$name.pid"
}

# Waits until a command succeeds, or fails after a timeout: wait_for SECONDS NAME COMMAND…
wait_for() {
    local deadline=$((SECONDS + $1)) name=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 20 "$run_dir/$name.log" >&2 || true
            die "$name did not become ready; its log is $run_dir/$name.log"
        fi
        sleep 0.1
    done
}

# Succeeds if something listens on a port of the loopback address.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Fails if another program uses the port. It waits up to 5 s, because the children of a killed process close it a little later.
port_is_free() {
    local deadline=$((SECONDS + 5))
    while listens "$1"; do
        if [ "$SECONDS" -ge "$deadline" ]; then die "another program uses port $1; set another one (see deploy/$family/up.sh)"; fi
        sleep 0.1
    done
}

# Sends a signal to a process and waits until it has ended, with SIGKILL after a timeout: halt NAME SIGNAL SECONDS
halt() {
    local name=$1 signal=$2 deadline=$((SECONDS + $3)) pid
    pid=$(running "$name") || { rm -f "$run_dir/$name.pid"; return 0; }
    kill -s CONT "$pid" 2>/dev/null || true
    kill -s "$signal" "$pid" 2>/dev/null || true
    while [ -e "/proc/$pid" ] && ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then kill -s KILL "$pid" 2>/dev/null || true; fi
        sleep 0.05
    done
    rm -f "$run_dir/$name.pid"
}
