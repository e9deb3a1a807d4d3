# shellcheck shell=bash
# Apache Kafka in KRaft mode: one node as broker and controller. The jars come from Maven Central (pom.xml has the version)
# or from KAFKA_HOME, an unpacked distribution. Sourced by the other scripts.

kafka_jars=${KAFKA_JARS:-$root/target/engines/kafka-jars}
# Options of the virtual machine. These start the broker fast and suit tests: one compiler, without its second level, which
# makes a long-running broker use two to three times as much CPU.
kafka_jvm=${KAFKA_JVM:--XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:CICompilerCount=1}

# KAFKA_PROXY_PORT: for a proxy of the tests at this port. The broker has a second listener at the next port, which announces the
# proxy's port to its clients.
kafka_proxy_port=${KAFKA_PROXY_PORT:-}

kafka_url() { printf 'kafka://127.0.0.1:%s\n' "$kafka_port"; }

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
    local dir=$engines_dir/kafka proxied= announced= protocol=
    rm -rf "$dir"
    mkdir -p "$dir"
    if [ -n "$kafka_proxy_port" ]; then
        proxied="PROXIED://127.0.0.1:$((kafka_proxy_port + 1)),"
        announced=",PROXIED://127.0.0.1:$kafka_proxy_port"
        protocol=",PROXIED:PLAINTEXT"
    fi
    cat >"$dir/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$kafka_controller_port
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$kafka_port,${proxied}CONTROLLER://127.0.0.1:$kafka_controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port$announced
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT$protocol
log.dirs=$dir/log
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=400
broker.session.timeout.ms=2000
CONF
    java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
        -cp "$(kafka_classpath)" kafka.tools.StorageTool format --cluster-id tidings-engines-0000 \
        --config "$dir/server.properties" >"$engines_dir/kafka.log" 2>&1 ||
        die "cannot format the storage of Kafka: see $engines_dir/kafka.log"
    touch "$dir/formatted"
}

kafka_start() {
    if running kafka >/dev/null; then return; fi
    port_is_free "$kafka_port"
    port_is_free "$kafka_controller_port"
    # The broker's settings contain the ports, so other ports mean a new, empty broker.
    grep -qs "127.0.0.1:$kafka_port,.*:$kafka_controller_port\$" "$engines_dir/kafka/server.properties" &&
        [ -e "$engines_dir/kafka/formatted" ] || kafka_make
    # shellcheck disable=SC2086
    launch kafka java -Xms96m -Xmx384m $kafka_jvm \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true \
        -cp "$(kafka_classpath)" kafka.Kafka "$engines_dir/kafka/server.properties"
    wait_for 60 kafka kafka_ready
}

# The broker opens its port when it has caught up with the metadata. It lists no topics until it is unfenced, shortly after;
# clients wait for that themselves.
kafka_ready() { running kafka && listens "$kafka_port"; }

kafka_stop() { halt kafka TERM 30; }
kafka_wipe() { rm -rf "$engines_dir/kafka"; }
