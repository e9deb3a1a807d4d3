# shellcheck shell=bash
# The profile `observability` of docker-compose.yml, with Debian's Prometheus and a collector in place of Jaeger (images/jaeger).
# Of Grafana and kafka-ui only the containers are tested, because no package registry has them (images/placeholder). Sourced, not
# run.

tools=(prometheus grafana jaeger kafka-ui)

check_observability() {
    check_published
    make_traffic
    inside python3 "$here/metrics.py" http://127.0.0.1:9190 "${roles[@]}" >"$work/metrics.log" 2>&1 ||
        { cat "$work/metrics.log" >&2; fail "metrics"; }
    step "Prometheus: $(tail -n 1 "$work/metrics.log")"
    check_traces
    check_next_up
}

# A subscription that stays open, and messages.
make_traffic() {
    ann=$(token_of ann)
    bob_token=$(token_of bob)
    watch_unread "$work/frames.watched"
    await 20 "the first frame" grep -q '"kind":"SNAPSHOT"' "$work/frames.watched"
    for _ in 1 2 3; do send; done
    await 20 "the count" counted $((sent - 3))
}

# This machine reaches each of these containers. They reach the services that they need, can read their files, and no address
# translation lets them connect to other machines.
check_published() {
    local port subnet
    for port in 9190/-/ready 3000/api/health 16686/services 8090/actuator/health; do
        inside curl -sSf --max-time 5 "http://127.0.0.1:$port" >/dev/null || fail "port $port is not published"
    done
    docker compose --profile observability exec -T grafana sh -c 'cat /dashboards/*.json /etc/grafana/provisioning/*/*.yml >/dev/null &&
        wget -q -O /dev/null "$PROMETHEUS_URL/-/ready"' || fail "grafana cannot read its files or reach Prometheus"
    docker compose --profile observability exec -T kafka-ui bash -c 'exec 3<>"/dev/tcp/${KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS/://}"' ||
        fail "kafka-ui cannot reach Kafka"
    subnet=$(docker network inspect --format '{{(index .IPAM.Config 0).Subnet}}' tidings_published)
    if inside iptables -t nat -S POSTROUTING | grep -F -e "-s $subnet " >&2; then fail "$subnet reaches other machines"; fi
    subnet=$(docker network inspect --format '{{(index .IPAM.Config 0).Subnet}}' tidings_edge)
    inside iptables -t nat -S POSTROUTING | grep -q -F -e "-s $subnet " || fail "no sign of the address translation of edge"
    step "published on loopback, without a way to other machines"
}

# One trace leads from sendMessage through both services and both logs to the frame of a subscription.
check_traces() {
    local trace
    sent=$((sent + 1))
    trace=$(graphql "$(send_document)" "$ann" '"traceId":true' | field traceId)
    [ -n "$trace" ] || fail "sendMessage has no trace id"
    await 60 "the trace $trace" has_whole_trace "$trace"
    await 30 "spans of all roles" has_all_services
    step "one trace of sendMessage: $(tail -n 1 "$work/trace.log")"
}

has_whole_trace() {
    inside curl -sSf --max-time 5 "http://127.0.0.1:16686/traces/$1" >"$work/trace.json" || return 1
    python3 "$here/trace.py" "$work/trace.json" >"$work/trace.log" 2>&1
}

has_all_services() {
    local services service
    services=$(inside curl -sSf --max-time 5 http://127.0.0.1:16686/services) || return 1
    for service in auth dialog counter gateway; do grep -q "\"tidings-$service\"" <<<"$services" || return 1; done
}

# The next `make up` keeps the profile.
check_next_up() {
    local service
    BUILD=0 make --no-print-directory up >"$work/up.log" 2>&1 || fail "make up, with the profile running"
    for service in "${roles[@]}"; do
        [ "$(endpoint_of "$service")" = http://jaeger:4317 ] || fail "$service sends its traces elsewhere"
    done
    step "make up keeps the profile"
}

# Asserts that only the core runs, and that the roles export no spans.
assert_no_observability() {
    local service
    [ -z "$(docker compose --profile observability ps --all --quiet "${tools[@]}")" ] || fail "containers of the profile are left"
    for service in "${roles[@]}"; do [ -z "$(endpoint_of "$service")" ] || fail "$service has a collector"; done
    logs_of "${roles[@]}" >"$work/core.log"
    if grep -iE 'opentelemetry|otlp' "$work/core.log" >&2; then fail "a role exports spans"; fi
}

endpoint_of() {
    docker inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$(docker compose ps --quiet "$1")" |
        sed -n 's/^OTEL_EXPORTER_OTLP_ENDPOINT=//p'
}
