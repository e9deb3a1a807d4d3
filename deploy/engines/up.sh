#!/usr/bin/env bash
# Starts PostgreSQL, Redis and Apache Kafka as local processes on the loopback address, with separate folders and ports, and
# installs them on Debian if absent. Running engines are not restarted. Prints the URLs and writes them to ENGINES_DIR/env.
#
# PRODUCTION=1 starts what a production-like stack needs instead: PostgreSQL with two replicas and a PgBouncer for each
# database, Redis with a replica, and three Kafka brokers.
#
# Settings, all environment variables: ENGINES_DIR (target/engines), POSTGRES_PORT (15433), REDIS_PORT (16379), KAFKA_PORT and
# KAFKA_CONTROLLER_PORT (19092, 19093), KAFKA_HOME (an unpacked Kafka instead of the jars from Maven Central). With
# PRODUCTION=1: PRODUCTION_DIR (target/production), PRODUCTION_PORT (21000, the first of 40 ports), KAFKA_HOME, PGBOUNCER (path
# of a program).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/all.sh"

mkdir -p "$engines_dir"
exec 9>"$engines_dir/lock"
flock 9

for engine in "${engines[@]}"; do "$(kind "$engine")_install" 9>&-; done
# The brokers of a cluster answer once two of them run, and they take the longest.
starting=()
for engine in "${engines[@]}"; do
    if [ "$(kind "$engine")" = kafka ]; then kafka_start "$engine" 9>&- & starting+=($!); fi
done
# In the order of the list, because replicas are copies of the server before them.
for engine in "${engines[@]}"; do
    if [ "$(kind "$engine")" != kafka ]; then "$(kind "$engine")_start" "$engine" 9>&-; fi
done
for pid in "${starting[@]}"; do wait "$pid"; done

engine_env | tee "$engines_dir/env"
