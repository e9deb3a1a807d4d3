# shellcheck shell=bash
# The real program for tests from outside: on free ports and in a folder of its own, ended with the script. TIDINGS names a
# built one; without, it is built with the arguments given, for cargo. Sourced, not run.

scratch=$(mktemp -d "${TMPDIR:-/tmp}/tidings-test.XXXXXX")
program=
finish() {
    local status=$?
    [ "$status" -eq 0 ] || tail -n 20 "$scratch/log" >&2 || true
    [ -z "$program" ] || { kill "$program" 2>/dev/null && wait "$program"; } || true
    rm -rf "$scratch"
}
trap finish EXIT

# Starts it and says in `url` where it is.
start_program() {
    local run=("${TIDINGS:-}")
    if [ -z "${TIDINGS:-}" ]; then
        "${CARGO:-cargo}" build "$@"
        # `cargo run` becomes the program: its process id is the program's.
        run=("${CARGO:-cargo}" run --quiet "$@")
    fi
    LISTEN=${LISTEN:-127.0.0.1:0} OPS_LISTEN=127.0.0.1:0 DATA_DIR=$scratch/data INTROSPECTION=on RATE_LIMIT_REQUESTS=0 RATE_LIMIT_SIGN_IN=0 \
        "${run[@]}" >"$scratch/log" 2>&1 &
    program=$!
    url=
    for _ in $(seq 300); do
        url=$(sed -n 's/^ *GraphQL *\(http[^ ]*\)\/graphql.*/\1/p' "$scratch/log")
        [ -z "$url" ] && kill -0 "$program" 2>/dev/null || break
        sleep 0.1
    done
    [ -n "$url" ] || { echo "the program did not say where it listens" >&2; return 1; }
}
