#!/usr/bin/env bash
# Stops what up.sh started, by the pid files in STACK_DIR, and nothing else. Databases, log and secrets stay.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ -d "$stack_dir" ] || exit 0
exec 9>"$stack_dir/lock"
flock 9
# The gateways close their sockets first, with the services still there; each has its DRAIN_WINDOW and 10 s, 20 s in all.
for name in gateway1 gateway2; do halt "$name" TERM 25 & done
wait
for name in balancer counter dialog auth; do halt "$name" TERM 25 & done
wait
