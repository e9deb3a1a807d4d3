#!/usr/bin/env bash
# Writes the configuration from the variables KAFKA_*, formats the storage on the first start, and runs the broker.
set -euo pipefail
configuration=/opt/kafka/config/server.properties
while IFS='=' read -r name value; do
    case $name in KAFKA_HEAP_OPTS | KAFKA_*_PASSWORD) continue ;; KAFKA_*) ;; *) continue ;; esac
    name=${name#KAFKA_}
    name=${name,,}
    printf '%s=%s\n' "${name//_/.}" "$value"
done < <(env) >"$configuration"
java=(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp '/opt/kafka/libs/*')
"${java[@]}" kafka.tools.StorageTool format --ignore-formatted --cluster-id tidings-containers-001 --config "$configuration"
# shellcheck disable=SC2086
exec "${java[@]}" ${KAFKA_HEAP_OPTS:-} kafka.Kafka "$configuration"
