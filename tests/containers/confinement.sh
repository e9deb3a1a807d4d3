# shellcheck shell=bash
# The restrictions of the containers, as the engine has applied them and as the kernel sees their processes. Sourced, not run.

# Asserts that each service works and is confined. One that ends has exited with 0: check_confinement SERVICE…
check_confinement() {
    local service container
    for service in "$@"; do
        container=$(docker compose --profile '*' ps --all --quiet "$service")
        [ -n "$container" ] || fail "$service has no container"
        assert_restricted "$service" "$container"
        if [ "$(inspect "$container" .HostConfig.RestartPolicy.Name)" = no ]; then
            [ "$(inspect "$container" .State.Status .State.ExitCode)" = "exited 0" ] || fail "$service has not ended well"
        else
            await 60 "health of $service" is_healthy "$container"
            assert_processes "$service" "$container"
        fi
    done
    step "confined and healthy: $*"
}

# Prints fields of a container: inspect CONTAINER .FIELD…
inspect() {
    local container=$1 fields
    shift
    fields=$(printf '{{%s}} ' "$@")
    docker inspect --format "${fields% }" "$container"
}

# The root file system of kafka is writable, because its image writes its configuration there.
assert_restricted() {
    local service=$1 container=$2 limit read_only=true
    [ "$service" != kafka ] || read_only=false
    [ "$(inspect "$container" .HostConfig.ReadonlyRootfs)" = $read_only ] || fail "$service: its root file system is writable"
    [ "$(inspect "$container" .HostConfig.CapDrop .HostConfig.CapAdd .HostConfig.Privileged)" = "[ALL] [] false" ] ||
        fail "$service: has capabilities"
    [ "$(inspect "$container" .HostConfig.SecurityOpt)" = "[no-new-privileges:true]" ] || fail "$service: may gain privileges"
    for limit in Memory NanoCpus PidsLimit; do
        [ "$(inspect "$container" ".HostConfig.$limit")" -gt 0 ] || fail "$service: no limit $limit"
    done
    [ "$(inspect "$container" 'index .HostConfig.LogConfig.Config "max-size"')" = 10m ] || fail "$service: its log is unlimited"
}

# Asserts that no process of a container is root's, has a capability, can gain one or can write to its root file system, and
# that those of Tidings are of the image's user.
assert_processes() {
    local service=$1 container=$2 pid status user="[1-9][0-9]*" root=ro
    [ "$service" != kafka ] || root=rw
    if [ -n "$(is_role "$service")" ]; then user=10001; fi
    for pid in $(docker top "$container" -eo pid | tail -n +2); do
        # A health check that has just ended.
        status=$(cat "/proc/$pid/status" 2>/dev/null) || continue
        grep -qE "^Uid:(\s+$user){4}$" <<<"$status" || fail "$service: a process is of $(grep ^Uid: <<<"$status")"
        [ "$(grep -cE '^Cap(Inh|Prm|Eff|Bnd|Amb):\s+0+$' <<<"$status")" -eq 5 ] || fail "$service: a process has capabilities"
        grep -qE '^NoNewPrivs:\s+1$' <<<"$status" || fail "$service: a process may gain privileges"
        awk -v root=$root '$5 == "/" && $6 !~ "^" root { exit 1 }' "/proc/$pid/mountinfo" || fail "$service: / is not $root"
    done
}

is_role() { printf '%s\n' "${roles[@]}" | grep -x -e "$1" || true; }
