# shellcheck shell=bash
# Apache Kafka in KRaft mode: one node as broker and controller, or a cluster of three such nodes (PRODUCTION=1), which keeps
# every record on all three and acknowledges it once two hold it. The jars come from Maven Central (pom.xml has the version) or
# from KAFKA_HOME, an unpacked distribution. Sourced by the other scripts.

kafka_jars=${KAFKA_JARS:-$root/target/engines/kafka-jars}
# Options of the virtual machine. These start the broker fast and suit tests: one compiler, without its second level, which
# makes a long-running broker use two to three times as much CPU.
kafka_jvm=${KAFKA_JVM:--XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:CICompilerCount=1}
kafka_nodes=(kafka)
kafka_heap=${KAFKA_HEAP:-384m}
if [ "$production" = 1 ]; then
    kafka_nodes=(kafka1 kafka2 kafka3)
    kafka_heap=${KAFKA_HEAP:-256m}
fi

# KAFKA_PROXY_PORT: for a proxy of the tests at this port. The broker has a second listener at the next port, which announces the
# proxy's port to its clients.
kafka_proxy_port=${KAFKA_PROXY_PORT:-}

# Print the number of a node, and its ports: the nodes of a cluster have consecutive pairs.
kafka_number() { local number=${1#kafka}; printf '%s\n' "${number:-1}"; }
kafka_port_of() { printf '%s\n' $((kafka_port + 2 * ($(kafka_number "$1") - 1))); }
kafka_quorum_port() { printf '%s\n' $((kafka_controller_port + 2 * ($(kafka_number "$1") - 1))); }

kafka_url() {
    local node url=
    for node in "${kafka_nodes[@]}"; do url+=,127.0.0.1:$(kafka_port_of "$node"); done
    printf 'kafka://%s\n' "${url#,}"
}

kafka_install() {
    command -v java >/dev/null || install_packages default-jre-headless
    if [ -n "${KAFKA_HOME:-}" ]; then
        [ -d "$KAFKA_HOME/libs" ] || die "KAFKA_HOME has no folder \"libs\""
        return
    fi
    if cmp -s "$root/deploy/engines/pom.xml" "$kafka_jars/pom.xml"; then return; fi
    command -v mvn >/dev/null || install_packages maven
    say "engines: downloading the jars of Kafka"
    rm -rf "$kafka_jars"
    mvn -q --batch-mode -f "$root/deploy/engines/pom.xml" dependency:copy-dependencies -DoutputDirectory="$kafka_jars" >&2 ||
        die "Maven cannot download the jars of Kafka; set KAFKA_HOME to an unpacked distribution instead"
    cp "$root/deploy/engines/pom.xml" "$kafka_jars/pom.xml"
}

kafka_classpath() {
    if [ -n "${KAFKA_HOME:-}" ]; then printf '%s/libs/*' "$KAFKA_HOME"; else printf '%s/*' "$kafka_jars"; fi
}

kafka_make() {
    local dir=$engines_dir/$1 replicas=${#kafka_nodes[@]} proxied= announced= protocol= voters= node broker quorum
    broker=$(kafka_port_of "$1")
    quorum=$(kafka_quorum_port "$1")
    for node in "${kafka_nodes[@]}"; do
        voters+=,$(kafka_number "$node")@127.0.0.1:$(kafka_quorum_port "$node")
    done
    # A record must survive the loss of a node, and a node may be away: two of three, one of one.
    local in_sync=$((replicas / 2 + 1))
    rm -rf "$dir"
    mkdir -p "$dir"
    if [ -n "$kafka_proxy_port" ]; then
        proxied="PROXIED://127.0.0.1:$((kafka_proxy_port + 1)),"
        announced=",PROXIED://127.0.0.1:$kafka_proxy_port"
        protocol=",PROXIED:PLAINTEXT"
    fi
    cat >"$dir/server.properties" <<CONF
process.roles=broker,controller
node.id=$(kafka_number "$1")
controller.quorum.voters=${voters#,}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$broker,${proxied}CONTROLLER://127.0.0.1:$quorum
advertised.listeners=PLAINTEXT://127.0.0.1:$broker$announced
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT$protocol
log.dirs=$dir/log
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$in_sync
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
CONF
    # A single broker is back at once for its clients. In a cluster a busy broker must not count as lost: there the default of
    # 9 s stays.
    if [ "$replicas" = 1 ]; then
        printf '%s\n' broker.heartbeat.interval.ms=400 broker.session.timeout.ms=2000 >>"$dir/server.properties"
    fi
    java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
        -cp "$(kafka_classpath)" kafka.tools.StorageTool format --cluster-id tidings-engines-0000 \
        --config "$dir/server.properties" >"$engines_dir/$1.log" 2>&1 ||
        die "cannot format the storage of Kafka: see $engines_dir/$1.log"
    touch "$dir/formatted"
}

kafka_start() {
    local dir=$engines_dir/$1 broker quorum
    if running "$1" >/dev/null; then return; fi
    broker=$(kafka_port_of "$1")
    quorum=$(kafka_quorum_port "$1")
    port_is_free "$broker"
    port_is_free "$quorum"
    # The broker's settings contain the ports, so other ports mean a new, empty broker.
    grep -qs "127.0.0.1:$broker,.*:$quorum\$" "$dir/server.properties" && [ -e "$dir/formatted" ] || kafka_make "$1"
    # shellcheck disable=SC2086
    launch "$1" java -Xms96m -Xmx"$kafka_heap" $kafka_jvm \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true \
        -cp "$(kafka_classpath)" kafka.Kafka "$dir/server.properties"
    wait_for 120 "$1" kafka_ready "$1"
}

# The broker opens its port when it has caught up with the metadata. It lists no topics until it is unfenced, shortly after;
# clients wait for that themselves.
kafka_ready() { running "$1" && listens "$(kafka_port_of "$1")"; }

kafka_stop() { halt "$1" TERM 30; }
kafka_wipe() { rm -rf "${engines_dir:?}/$1"; }
