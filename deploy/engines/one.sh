#!/usr/bin/env bash
# Controls one engine, for fault tests: one.sh VERB ENGINE. Settings as in up.sh.
#   start  starts it on its existing data     stop    shuts it down cleanly
#   kill   sends SIGKILL                      pause   sends SIGSTOP; resume: SIGCONT
#   abort  Postgres only: its immediate shutdown, without a checkpoint; the next start recovers from the log
#   wipe   stops it and deletes its data      status  exits with 0 if it runs, else with 1
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
for part in common postgres redis kafka; do source "$here/$part.sh"; done

usage() { die "one.sh start|stop|kill|abort|pause|resume|wipe|status kafka|redis|postgres"; }
[ $# -eq 2 ] || usage
verb=$1 engine=$2
case $engine in kafka | redis | postgres) ;; *) usage ;; esac

mkdir -p "$engines_dir"
exec 9>"$engines_dir/$engine.lock"
flock 9
case $verb in
    start) "${engine}_install" && "${engine}_start" 9>&- ;;
    stop) "${engine}_stop" ;;
    kill) halt "$engine" KILL 10 ;;
    abort) [ "$engine" = postgres ] || usage; halt postgres QUIT 20 ;;
    pause) kill -s STOP "$(running "$engine")" ;;
    resume) kill -s CONT "$(running "$engine")" ;;
    wipe) "${engine}_stop" && "${engine}_wipe" ;;
    status) running "$engine" ;;
    *) usage ;;
esac
