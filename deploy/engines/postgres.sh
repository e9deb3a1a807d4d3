# shellcheck shell=bash
# PostgreSQL from Debian packages, with a separate data folder and port. Sourced by the other scripts.

postgres_url() { printf 'postgres://postgres@127.0.0.1:%s/postgres\n' "$postgres_port"; }

postgres_bin() { find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1; }

# Runs a command as the user postgres if this user is root: the server refuses to run as root.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

# Prints the data folder: in the engines' folder, or in /var/tmp if only root can enter the former.
postgres_data() {
    if [ -e "$engines_dir/postgres.data" ]; then cat "$engines_dir/postgres.data"; else printf '%s\n' "$engines_dir/postgres"; fi
}

postgres_mark() { postgres_data; }

postgres_install() {
    [ -n "$(postgres_bin)" ] || install_packages postgresql
    [ -n "$(postgres_bin)" ] || die "PostgreSQL is not installed in /usr/lib/postgresql"
}

postgres_make() {
    local data=$engines_dir/postgres
    if [ "$(id -u)" -eq 0 ]; then
        as_postgres test -x "$engines_dir" || data=/var/tmp/tidings-postgres-$postgres_port
        rm -rf "$data"
        install -d -o postgres -m 700 "$data"
    fi
    printf '%s\n' "$data" >"$engines_dir/postgres.data"
    as_postgres "$(postgres_bin)/initdb" --pgdata="$data" --username=postgres --auth=trust --encoding=UTF8 \
        --locale=C.UTF-8 --no-sync >"$engines_dir/postgres.log" 2>&1 || die "initdb failed: see $engines_dir/postgres.log"
    # fsync is off because this server is only for tests: data is lost only if the machine loses power, not if the server
    # is killed.
    as_postgres tee -a "$data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
max_connections = 400
shared_buffers = 128MB
max_wal_size = 512MB
CONF
}

postgres_start() {
    if running postgres >/dev/null; then return; fi
    port_is_free "$postgres_port"
    as_postgres test -e "$(postgres_data)/PG_VERSION" || postgres_make
    local data
    data=$(postgres_data)
    as_postgres rm -f "$data/postmaster.pid"
    as_postgres "$(postgres_bin)/pg_ctl" start --silent --wait --timeout=60 --pgdata="$data" --log="$data/server.log" \
        --options="-p $postgres_port" || die "PostgreSQL did not start: see $data/server.log"
    as_postgres head -n 1 "$data/postmaster.pid" >"$engines_dir/postgres.pid"
}

# SIGINT is PostgreSQL's fast shutdown: it closes connections and ends cleanly.
postgres_stop() { halt postgres INT 20; }
postgres_wipe() { rm -rf "$(postgres_data)" "$engines_dir/postgres.data"; }
