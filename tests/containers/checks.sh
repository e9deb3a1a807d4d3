# shellcheck shell=bash
# The checks of tests/containers/run, in their order. Sourced, not run.

# The image must not grow unnoticed. Optimised programs are smaller than the ones that are tested here.
IMAGE_MAX_BYTES=120000000

roles=(auth dialog counter gateway1 gateway2)

# All output of `serve` in a container is JSON, and its health check passes without a shell in the image: check_serve IMAGE
check_serve() {
    local bytes
    bytes=$(docker image inspect --format '{{.Size}}' "$1")
    [ "$bytes" -le "$IMAGE_MAX_BYTES" ] || fail "$1 has $bytes bytes, more than $IMAGE_MAX_BYTES"
    docker run --detach --name serve --read-only --volume serve:/data "$1" >/dev/null
    await 60 "serve in a container" docker exec serve tidings healthcheck
    await 30 "the health check of the image" is_healthy serve
    docker logs serve >"$work/serve.log" 2>&1
    grep -q '"message":"Tidings is running"' "$work/serve.log" || fail "serve does not print its addresses"
    assert_json "$work/serve.log"
    docker rm --force serve >/dev/null
    docker volume rm serve >/dev/null
    step "$1: $((bytes / 1000000)) MB; serve is healthy and prints $(wc -l <"$work/serve.log") lines of JSON"
}

is_healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; }

assert_json() {
    if grep -v '^{.*}$' "$1" >&2; then fail "lines above are not JSON"; fi
}

# Copies the files of the repository, with the changes of this working tree, as a checkout with umask 077 has them.
prepare_checkout() {
    local limit
    rm -rf "$work/checkout"
    mkdir "$work/checkout"
    (umask 077 && cd "$root" && git ls-files -z --cached --others --exclude-standard | grep -zv '^tests/clients/' |
        tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null | tar --no-same-permissions -C "$work/checkout" -xf -)
    cd "$work/checkout"
    [ "$(stat -c %a deploy/haproxy.cfg)" = 600 ] || fail "the checkout is not that of umask 077"
    export COMPOSE_FILE=docker-compose.yml
    limit=$(ulimit -Hn)
    # A container cannot raise a limit that this machine does not let root raise.
    if [ "$limit" != unlimited ] && [ "$limit" -lt 65536 ]; then
        for service in balancer gateway1 gateway2; do
            printf '  %s: { ulimits: { nofile: { soft: %s, hard: %s } } }\n' "$service" "$limit" "$limit"
        done | cat <(echo services:) - >"$work/limits.yml"
        COMPOSE_FILE=$COMPOSE_FILE:$work/limits.yml
    fi
    make --no-print-directory env >/dev/null
    # An .env of an earlier version.
    sed -i '/^GRAFANA_ADMIN_PASSWORD=/d' .env
    make --no-print-directory env >/dev/null
    grep -q '^GRAFANA_ADMIN_PASSWORD=.' .env || fail "make env does not complete .env"
    docker compose --profile '*' config --quiet
    step "checkout with umask 077; docker compose config"
}

# Interrupts the first start of PostgreSQL and Kafka at several moments. That no volume is spoiled shows in `check_up`.
check_first_start() {
    local file
    for file in PG_VERSION pg_control 5; do interrupt postgres "$file"; done
    for file in meta.properties __cluster_metadata-0; do interrupt kafka "$file"; done
    step "PostgreSQL and Kafka killed during their first start, five times"
}

# Starts a service alone and kills it as soon as its volume has a file or folder of this name: interrupt SERVICE NAME
interrupt() {
    local container
    docker compose up --no-build --detach --no-deps "$1" >/dev/null 2>&1
    container=$(docker compose ps --quiet "$1")
    await 60 "$2 of $1" has_file "$work/data/volumes/tidings_$1/_data" "$2"
    docker kill "$container" >/dev/null
    if docker logs "$container" 2>&1 | grep -c 'ready to accept connections' >/dev/null; then fail "$1 was killed too late"; fi
    docker rm "$container" >/dev/null
}

has_file() { find "$1" -name "$2" -print -quit | grep .; }

check_up() {
    local service
    OBSERVABILITY=1 BUILD=0 make --no-print-directory up >"$work/up.log" 2>&1 || { tail -n 40 "$work/up.log" >&2; fail "make up"; }
    grep -q 'Grafana: http://127.0.0.1:3000/$' "$work/up.log" || fail "make up OBSERVABILITY=1 prints no addresses"
    [ "$(tail -n 1 "$work/up.log")" = "Tidings is ready at $url/" ] || fail "make up prints no address"
    inside curl -sSf --max-time 5 "$url/healthz" >/dev/null || fail "make up returned before the stack was ready"
    for service in "${roles[@]}"; do await 30 "readiness of $service" is_ready "$service"; done
    step "make up OBSERVABILITY=1: $(tail -n 1 "$work/up.log")"
    tell_story
    assert_data
    step "the story through the balancer"
}

# Also not degraded: every component of the role works. Another container requests it, because the image has no HTTP client.
is_ready() {
    docker compose exec -T postgres wget -q -O - "http://$1:9090/readyz" | grep -q '"status":"ready"}$'
}

# All lines of the roles are JSON, and none is about a probe. The balancer checks each gateway twice a second.
check_logs() {
    logs_of "${roles[@]}" keygen migrate >"$work/roles.log"
    assert_json "$work/roles.log"
    grep -q '"path":"/graphql"' "$work/roles.log" || fail "no access log"
    if grep -E '"path":"/(healthz|readyz|metrics)"|grpc.health' "$work/roles.log" >&2; then fail "probes are logged"; fi
    logs_of balancer >"$work/balancer.log"
    if grep -F ' /healthz ' "$work/balancer.log" >&2; then fail "the balancer logs probes"; fi
    step "logs: $(wc -l <"$work/roles.log") lines of JSON, no probes"
}

# Not `docker compose logs`, which writes control characters.
logs_of() {
    local service
    for service in "$@"; do docker logs "$(docker compose ps --all --quiet "$service")" 2>&1; done
}

# Kills every container's process. Docker starts it again, and what was sent before and after it is counted.
check_kills() {
    local service container started from
    for service in "${roles[@]}" balancer redis postgres kafka; do
        container=$(docker compose ps --quiet "$service")
        started=$(docker inspect --format '{{.State.StartedAt}}' "$container")
        from=$SECONDS
        # Not `docker kill`, after which the engine does not start the container again.
        kill -KILL "$(docker inspect --format '{{.State.Pid}}' "$container")"
        await 30 "a new start of $service" restarted "$container" "$started"
        send
        await 60 "health of $service" is_healthy "$container"
        await 60 "the count after the kill of $service" counted $((sent - 3))
        step "$service killed: counts again after $((SECONDS - from)) s"
    done
    assert_data
}

restarted() { [ "$(docker inspect --format '{{.State.Running}} {{.State.StartedAt}}' "$1")" != "true $2" ] && running_now "$1"; }
running_now() { [ "$(docker inspect --format '{{.State.Running}}' "$1")" = true ]; }

# Containers are removed and .env is lost: one line says so, and the core has the data with new passwords.
check_lost_settings() {
    local line
    make --no-print-directory down >/dev/null 2>&1
    rm .env
    line=$(make --no-print-directory env)
    [[ $line == ".env was lost, but volume tidings_postgres exists"* && $line != *$'\n'* ]] || fail "a lost .env: $line"
    BUILD=0 make --no-print-directory up >"$work/up.log" 2>&1 || { tail -n 40 "$work/up.log" >&2; fail "make up, new .env"; }
    assert_data
    assert_no_observability
    step "down, .env lost, up: the data is there"
}

# A new image, a changed password and the end of the traces, one role after another: /healthz through the balancer is always
# 200.
check_upgrade() {
    local image service polled
    image=$(make_image second)
    sed -i 's/^AUTH_DATABASE_PASSWORD=.*/AUTH_DATABASE_PASSWORD=changed0password/' .env
    # Not `inside`, whose process would be the parent of the one that polls.
    nsenter --target "$engine" --net bash -c \
        'while :; do curl -s -o /dev/null -w "%{http_code}\n" --max-time 5 "$0/healthz"; sleep 0.05; done' "$url" >"$work/healthz" &
    polled=$!
    OBSERVABILITY=0 BUILD=0 make --no-print-directory upgrade >"$work/upgrade.log" 2>&1 ||
        { tail -n 40 "$work/upgrade.log" >&2; fail "make upgrade"; }
    BUILD=0 make --no-print-directory up >"$work/up.log" 2>&1 || { tail -n 40 "$work/up.log" >&2; fail "make up, nothing changed"; }
    kill "$polled"
    wait "$polled" 2>/dev/null || true
    if grep -v '^200$' "$work/healthz" | sort | uniq -c >&2; then fail "/healthz was not 200"; fi
    for service in "${roles[@]}"; do
        [ "$(docker inspect --format '{{.Image}}' "$(docker compose ps --quiet "$service")")" = "$image" ] ||
            fail "$service does not run the new image"
    done
    assert_no_observability
    send
    assert_data
    step "make upgrade with a changed password, without the profile: /healthz was 200 in all $(wc -l <"$work/healthz") requests, also during a make up without changes"
}

check_volumes() {
    local nameless
    nameless=$(docker volume ls --quiet | grep -E '^[0-9a-f]{64}$' || true)
    [ -z "$nameless" ] || fail "anonymous volumes: $nameless"
    docker compose down >/dev/null 2>&1
    step "no anonymous volumes"
}
