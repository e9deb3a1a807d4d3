#!/usr/bin/env bash
# Starts or upgrades docker-compose.yml and waits until it is ready: containers.sh up|upgrade.
# BUILD=0 uses the image that exists. WAIT_SECONDS (300) limits the wait for each step. OBSERVABILITY=1 also starts Prometheus,
# Grafana, Jaeger and kafka-ui and sends the traces to Jaeger; later calls keep them, until OBSERVABILITY=0 removes them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${WAIT_SECONDS:-300}

observability=(prometheus grafana jaeger kafka-ui)

# Selects the profile `observability`, or removes its containers.
select_profile() {
    case ${OBSERVABILITY:-} in
        1) ;;
        0)
            docker compose --profile observability rm --stop --force "${observability[@]}"
            export COMPOSE_PROFILES=
            return
            ;;
        *) [ -n "$(docker compose --profile observability ps --all --quiet "${observability[@]}")" ] || return 0 ;;
    esac
    export COMPOSE_PROFILES=observability OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4317
}

build() {
    [ "${BUILD:-1}" != 0 ] || return 0
    REVISION=$(git rev-parse --short HEAD 2>/dev/null || echo unknown) docker compose build keygen
}

# Prints the containers that do not work, with the end of their logs.
report() {
    local service state health code
    docker compose ps --all --format '{{.Service}} {{.State}} {{.ExitCode}} {{.Health}}' |
        while read -r service state code health; do
            case $state-$code-$health in
                # Containers that wait for another one are no cause.
                running-*-healthy | running-*-starting | exited-0-* | created-*) continue ;;
            esac
            echo "-- $service: $state, exit status $code, ${health:-no health check}" >&2
            # Not `docker compose logs`, which writes control characters.
            docker logs --tail=5 "$(docker compose ps --all --quiet "$service")" >&2 </dev/null
        done
}

# The limit of compose itself does not include the wait for a service that ends, such as `migrate`. macOS has no `timeout`.
limited() {
    if command -v timeout >/dev/null; then timeout --foreground "$seconds" "$@"; else "$@"; fi
}

# Starts services and waits until they are ready.
start() {
    limited docker compose up --no-build --detach --wait --wait-timeout "$seconds" "$@"
}

# Succeeds when the balancer sends requests to a gateway. It notices a new container later than Docker does.
receives_requests() {
    local metrics
    metrics=$(docker compose exec -T balancer wget -q -O - http://127.0.0.1:9090/metrics) || return 1
    grep -q "^haproxy_server_status{proxy=\"gateways\",server=\"$1\",state=\"UP\"} 1" <<<"$metrics"
}

await_balancer() {
    local deadline=$((SECONDS + seconds))
    until receives_requests "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "the balancer does not send requests to $1" >&2; return 1; }
        sleep 0.2
    done
}

up() {
    build
    start
}

# Replaces one role after another. Each container is removed and created again, which compose does without touching others: to
# recreate one, compose stops all that depend on it, and with --no-deps it leaves containers that the next `up` recreates.
upgrade() {
    local service
    [ -n "$(docker compose ps --status running --quiet balancer)" ] ||
        { echo "the balancer does not run: there is nothing to upgrade; run make up" >&2; exit 1; }
    build
    docker compose rm --force keygen databases migrate
    limited docker compose up --no-build --no-recreate --no-log-prefix migrate
    [ "$(docker inspect --format '{{.State.ExitCode}}' "$(docker compose ps --all --quiet migrate)")" = 0 ]
    for service in auth dialog counter gateway1 gateway2; do
        docker compose rm --stop --force "$service"
        start --no-recreate "$service"
        case $service in gateway*) await_balancer "$service" ;; esac
    done
    # Engines and balancer, if their settings have changed.
    start
}

case ${1:-} in
    up | upgrade) ;;
    *) echo "usage: ${BASH_SOURCE[0]} up|upgrade" >&2; exit 2 ;;
esac
select_profile
# Not `if ! "$1"`, in which the shell would ignore the failure of a command inside the function.
trap '[ $? -eq 0 ] || report' EXIT
"$1"
if [ -n "${COMPOSE_PROFILES:-}" ]; then
    echo "Prometheus: http://$(docker compose port prometheus 9090)/  Grafana: http://$(docker compose port grafana 3000)/"
    echo "Jaeger: http://$(docker compose port jaeger 16686)/  kafka-ui: http://$(docker compose port kafka-ui 8080)/"
fi
echo "Tidings is ready at http://$(docker compose port balancer 8080)/"
