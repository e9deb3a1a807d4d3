#!/usr/bin/env bash
# Starts PostgreSQL, Redis and Apache Kafka as local processes on the loopback address, with separate folders and ports, and
# installs them on Debian if absent. Running engines are not restarted. Prints the URLs and writes them to ENGINES_DIR/env.
#
# Settings, all environment variables: ENGINES_DIR (target/engines), POSTGRES_PORT (15433), REDIS_PORT (16379), KAFKA_PORT and
# KAFKA_CONTROLLER_PORT (19092, 19093), KAFKA_HOME (an unpacked Kafka instead of the jars from Maven Central).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
for part in common postgres redis kafka; do source "$here/$part.sh"; done

mkdir -p "$engines_dir"
exec 9>"$engines_dir/lock"
flock 9

postgres_install
redis_install
kafka_install
kafka_start 9>&- &
kafka=$!
postgres_start 9>&-
redis_start 9>&-
wait "$kafka"

{
    printf 'TEST_POSTGRES_URL=%s\n' "$(postgres_url)"
    printf 'TEST_KAFKA_URL=%s\n' "$(kafka_url)"
    printf 'TEST_REDIS_URL=%s\n' "$(redis_url)"
} >"$engines_dir/env"
cat "$engines_dir/env"
