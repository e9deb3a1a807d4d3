#!/usr/bin/env bash
# Stops the engines that up.sh has started, by their pid files, and nothing else. Their data is kept. Settings as in up.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/all.sh"

[ -d "$engines_dir" ] || exit 0
exec 9>"$engines_dir/lock"
flock 9
for engine in "${engines[@]}"; do "$(kind "$engine")_stop" "$engine" & done
wait
rm -f "$engines_dir/env"
