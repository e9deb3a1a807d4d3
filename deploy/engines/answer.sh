#!/usr/bin/env bash
# Exits with 0 if all engines that up.sh starts run and accept connections, else with 1. Prints and changes nothing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
for part in common postgres redis kafka; do source "$here/$part.sh"; done

[ -r "$engines_dir/env" ] || exit 1
for engine in postgres redis kafka; do running "$engine" >/dev/null || exit 1; done
for port in "$postgres_port" "$redis_port" "$kafka_port"; do listens "$port" || exit 1; done
