#!/usr/bin/env bash
# Controls one process of the stack, for fault tests: one.sh VERB ROLE, for example one.sh kill gateway2, or with PRODUCTION=1
# one.sh kill dialog1. Settings as in up.sh, which has started the stack.
#   start  starts it       stop    SIGTERM     kill  SIGKILL
#   pause  sends SIGSTOP   resume  SIGCONT
#   pid    prints its process id; fails if it does not run
#   ops    prints the address of its /readyz and /metrics
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=/dev/null
for part in common roles; do source "$here/$part.sh"; done

usage() { die "one.sh start|stop|kill|pause|resume|pid|ops ${roles[*]}"; }
[ $# -eq 2 ] || usage
verb=$1 role=$2
[[ " ${roles[*]} " == *" $role "* ]] || usage

exec 9>"$stack_dir/$role.lock"
flock 9
case $verb in
    start) engine_urls && start_role "$role" 9>&- ;;
    stop) halt "$role" TERM 25 ;;
    kill) halt "$role" KILL 10 ;;
    pause) kill -s STOP "$(running "$role")" ;;
    resume) kill -s CONT "$(running "$role")" ;;
    pid) running "$role" ;;
    ops) printf '127.0.0.1:%s\n' "$(ops_port "$role")" ;;
    *) usage ;;
esac
