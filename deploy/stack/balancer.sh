#!/usr/bin/env bash
# Installs HAProxy, the balancer of the stack, on Debian if absent.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
haproxy_install
