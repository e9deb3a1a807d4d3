# shellcheck shell=bash
# A Docker engine of its own, apart from one that the machine may run: folders below `work`, a Unix socket, and a network
# namespace, in which it has its bridges and published ports. Sourced, not run.

export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/client
engine=

# Starts the engine: start_engine own|host. In the host's network it has no bridge; only `docker build --network=host` works.
start_engine() {
    local apart=(unshare --net --) options=()
    if [ "$1" = host ]; then
        apart=()
        options=(--bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --userland-proxy=false)
    fi
    mkdir -p "$DOCKER_CONFIG"
    rm -f "$work/dockerd.pid"
    # cgroupfs works without systemd too.
    "${apart[@]}" bash -c 'ip link set lo up; exec "$@"' _ dockerd --host="$DOCKER_HOST" --data-root="$work/data" \
        --exec-root="$work/exec" --pidfile="$work/dockerd.pid" --storage-driver=overlay2 \
        --exec-opt native.cgroupdriver=cgroupfs --log-level=error "${options[@]}" >>"$work/dockerd.log" 2>&1 &
    await 60 "the Docker engine" docker info
    engine=$(cat "$work/dockerd.pid")
}

stop_engine() {
    [ -n "$engine" ] || return 0
    kill -TERM "$engine" 2>/dev/null || true
    # `wait` does not know the process, because it is a child of `unshare` there.
    await 60 "the end of the Docker engine" test ! -e "/proc/$engine" || kill -KILL "$engine"
    engine=
    for mounted in $(awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r); do
        umount "$mounted"
    done
}

# Runs a command in the engine's network namespace, where the published ports are.
inside() { nsenter --target "$engine" --net "$@"; }

# Waits until a command succeeds: await SECONDS NAME COMMAND…
await() {
    local deadline=$((SECONDS + $1)) name=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then echo "FAILED: no sign of: $name" >&2; return 1; fi
        sleep 0.1
    done
}
