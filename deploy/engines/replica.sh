# shellcheck shell=bash
# Streaming replicas of the PostgreSQL server, made from a copy of it, and the choice of another primary. Sourced by the other
# scripts, with postgres.sh and pgbouncer.sh.

primary_conninfo() { printf 'host=127.0.0.1 port=%s user=postgres\n' "$(postgres_port_of "$(postgres_primary)")"; }

replica_mark() { postgres_data "$1"; }
replica_install() { postgres_install; }
replica_port_of() { postgres_port_of "$1"; }

replica_make() {
    local data
    data=$(postgres_folder "$1")
    as_postgres "$(postgres_bin)/pg_basebackup" --pgdata="$data" --write-recovery-conf --checkpoint=fast --no-sync \
        --dbname="$(primary_conninfo)" >"$engines_dir/$1.log" 2>&1 ||
        die "pg_basebackup failed: see $engines_dir/$1.log"
}

replica_start() {
    if running "$1" >/dev/null; then return; fi
    port_is_free "$(postgres_port_of "$1")"
    as_postgres test -e "$(postgres_data "$1")/PG_VERSION" || replica_make "$1"
    postgres_run "$1"
}

# Runs a statement on a server and prints the result.
on_server() {
    "$(postgres_bin)/psql" "host=127.0.0.1 port=$(postgres_port_of "$1") user=postgres" -XAtq -v ON_ERROR_STOP=1 -c "$2"
}

# Gives the primary, which must not run any more, a successor: the replica that has received most. The other one and the
# PgBouncers follow it.
postgres_promote() {
    local server received most=0/0 successor= others=() pooler
    [ "$1" = "$(postgres_primary)" ] || die "$1 is not the primary"
    if running "$1" >/dev/null; then die "$1 runs: two primaries would accept writes"; fi
    for server in replica1 replica2 postgres; do
        if [ "$server" = "$1" ] || ! running "$server" >/dev/null; then continue; fi
        received=$(on_server "$server" "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())")
        if [ "$(on_server "$server" "select '$received'::pg_lsn > '$most'")" = t ]; then most=$received successor=$server; fi
        others+=("$server")
    done
    [ -n "$successor" ] || die "no replica runs"
    as_postgres "$(postgres_bin)/pg_ctl" promote --silent --wait --pgdata="$(postgres_data "$successor")" >&2
    printf '%s\n' "$successor" >"$engines_dir/primary"
    for server in "${others[@]}"; do
        if [ "$server" = "$successor" ]; then continue; fi
        on_server "$server" "alter system set primary_conninfo = '$(primary_conninfo)'"
        on_server "$server" "select pg_reload_conf()" >/dev/null
    done
    for pooler in "${engines[@]}"; do
        if [ "$(kind "$pooler")" = pgbouncer ]; then pgbouncer_follow "$pooler"; fi
    done
}

replica_stop() { postgres_stop "$1"; }
replica_wipe() { postgres_wipe "$1"; }
