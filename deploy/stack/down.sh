#!/usr/bin/env bash
# Stops the processes that up.sh has started, by the pid files in STACK_DIR, and nothing else. Databases, Kafka and secrets
# are kept. Settings as in up.sh.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ -d "$stack_dir" ] || exit 0
exec 9>"$stack_dir/lock"
flock 9
# Gateways first, so that they drain their sockets while the services still answer. Each takes up to DRAIN_WINDOW plus 10 s,
# which is 20 s.
for name in gateway1 gateway2; do halt "$name" TERM 25 & done
wait
for name in topics balancer "${instances[@]}"; do halt "$name" TERM 25 & done
wait
