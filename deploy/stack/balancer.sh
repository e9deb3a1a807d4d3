#!/usr/bin/env bash
# Installs HAProxy where it is absent: the balancer of the stack.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
haproxy_install
