#!/usr/bin/env bash
# One engine, for tests of faults: one.sh VERB ENGINE, settings as in up.sh.
#   start  starts it, on the data that it has    stop    ends it as its own tools would
#   kill   SIGKILL                               pause   SIGSTOP; resume: SIGCONT
#   wipe   stops it and removes its data         status  says whether it runs (exit 0) or not (exit 1)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
for part in common postgres redis kafka; do source "$here/$part.sh"; done

usage() { die "one.sh start|stop|kill|pause|resume|wipe|status kafka|redis|postgres"; }
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
    pause) kill -s STOP "$(running "$engine")" ;;
    resume) kill -s CONT "$(running "$engine")" ;;
    wipe) "${engine}_stop" && "${engine}_wipe" ;;
    status) running "$engine" ;;
    *) usage ;;
esac
