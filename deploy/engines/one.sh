#!/usr/bin/env bash
# Controls one engine, for fault tests: one.sh VERB ENGINE. Settings as in up.sh. ENGINE is kafka, redis or postgres; with
# PRODUCTION=1 kafka1 to kafka3, redis, redis_replica, postgres, replica1, replica2, pgbouncer_auth, _dialog or _counter.
#   start  starts it on its existing data     stop    shuts it down cleanly
#   kill   sends SIGKILL                      pause   sends SIGSTOP; resume: SIGCONT
#   abort  Postgres only: its immediate shutdown, without a checkpoint; the next start recovers from the log
#   wipe   stops it and deletes its data      status  exits with 0 if it runs, else with 1
#   promote  redis and postgres with PRODUCTION=1: makes a replica the primary in place of it; it must not run
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/all.sh"

usage() { die "one.sh start|stop|kill|abort|pause|resume|wipe|status|promote ${engines[*]}"; }
[ $# -eq 2 ] || usage
verb=$1 engine=$2 kind=$(kind "$2")
[[ " ${engines[*]} " == *" $engine "* ]] || usage

mkdir -p "$engines_dir"
exec 9>"$engines_dir/$engine.lock"
flock 9
case $verb in
    start) "${kind}_install" 9>&- && "${kind}_start" "$engine" 9>&- ;;
    stop) "${kind}_stop" "$engine" ;;
    kill) halt "$engine" KILL 10 ;;
    abort) [[ $kind == postgres || $kind == replica ]] || usage; halt "$engine" QUIT 20 ;;
    pause) kill -s STOP "$(running "$engine")" ;;
    resume) kill -s CONT "$(running "$engine")" ;;
    wipe) "${kind}_stop" "$engine" && "${kind}_wipe" "$engine" ;;
    promote)
        if [ "$production" != 1 ] || ! declare -F "${kind}_promote" >/dev/null; then usage; fi
        "${kind}_promote" "$engine"
        engine_env >"$engines_dir/env"
        ;;
    status) running "$engine" ;;
    *) usage ;;
esac
