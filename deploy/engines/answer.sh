#!/usr/bin/env bash
# Exits with 0 if all engines that up.sh starts run and accept connections, else with 1. Prints and changes nothing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/all.sh"

[ -r "$engines_dir/env" ] || exit 1
for engine in "${engines[@]}"; do
    running "$engine" >/dev/null || exit 1
    listens "$("$(kind "$engine")_port_of" "$engine")" || exit 1
done
