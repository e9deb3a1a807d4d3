# shellcheck shell=bash
# Starts the real program for external tests, on free ports and with a temporary data folder, and stops it when the script
# exits. TIDINGS is the path of a built program; without it, cargo builds one with the given arguments. Sourced, not run.

scratch=$(mktemp -d "${TMPDIR:-/tmp}/tidings-test.XXXXXX")
program=
finish() {
    local status=$?
    [ "$status" -eq 0 ] || tail -n 20 "$scratch/log" >&2 || true
    [ -z "$program" ] || { kill "$program" 2>/dev/null && wait "$program"; } || true
    rm -rf "$scratch"
}
trap finish EXIT

# Starts the program and sets `url` to its address.
start_program() {
    local run=("${TIDINGS:-}")
    if [ -z "${TIDINGS:-}" ]; then
        "${CARGO:-cargo}" build "$@"
        # `cargo run` replaces itself with the program, so the process id is the program's.
        run=("${CARGO:-cargo}" run --quiet "$@")
    fi
    LISTEN=${LISTEN:-127.0.0.1:0} OPS_LISTEN=127.0.0.1:0 DATA_DIR=$scratch/data INTROSPECTION=on LOG_FORMAT=text RATE_LIMIT_REQUESTS=0 RATE_LIMIT_SIGN_IN=0 \
        "${run[@]}" >"$scratch/log" 2>&1 &
    program=$!
    url=
    for _ in $(seq 300); do
        url=$(sed -n 's/^ *GraphQL *\(http[^ ]*\)\/graphql.*/\1/p' "$scratch/log")
        [ -z "$url" ] && kill -0 "$program" 2>/dev/null || break
        sleep 0.1
    done
    [ -n "$url" ] || { echo "the program did not print its address" >&2; return 1; }
}
