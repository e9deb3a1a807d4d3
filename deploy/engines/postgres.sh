# shellcheck shell=bash
# PostgreSQL from Debian packages, with separate data folders and ports. With PRODUCTION=1 there are three servers, of which two
# follow the primary (replica.sh), and a commit waits until one of them has written it. Sourced by the other scripts.

# Prints the port of a server: postgres, replica1 or replica2.
postgres_port_of() { local number=${1#replica}; printf '%s\n' $((postgres_port + ${number/postgres/0})); }

# Print the name of the primary, and its URL.
postgres_primary() { if [ -e "$engines_dir/primary" ]; then cat "$engines_dir/primary"; else echo postgres; fi; }
postgres_url() { printf 'postgres://postgres@127.0.0.1:%s/postgres\n' "$(postgres_port_of "$(postgres_primary)")"; }

postgres_bin() { find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1; }

# Runs a command as the user postgres if this user is root: the server refuses to run as root.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

# Prints the data folder: in the engines' folder, or in /var/tmp if only root can enter the former.
postgres_data() {
    if [ -e "$engines_dir/$1.data" ]; then cat "$engines_dir/$1.data"; else printf '%s\n' "$engines_dir/$1"; fi
}

postgres_mark() { postgres_data "$1"; }

postgres_install() {
    [ -n "$(postgres_bin)" ] || install_packages postgresql
    [ -n "$(postgres_bin)" ] || die "PostgreSQL is not installed in /usr/lib/postgresql"
}

# Creates an empty data folder and prints its path.
postgres_folder() {
    local data=$engines_dir/$1
    rm -rf "$data"
    if [ "$(id -u)" -eq 0 ]; then
        as_postgres test -x "$engines_dir" || data=/var/tmp/tidings-postgres-$(postgres_port_of "$1")
        rm -rf "$data"
        install -d -o postgres -m 700 "$data"
    fi
    printf '%s\n' "$data" | tee "$engines_dir/$1.data"
}

postgres_make() {
    local data
    data=$(postgres_folder "$1")
    as_postgres "$(postgres_bin)/initdb" --pgdata="$data" --username=postgres --auth=trust --encoding=UTF8 \
        --locale=C.UTF-8 --no-sync >"$engines_dir/$1.log" 2>&1 || die "initdb failed: see $engines_dir/$1.log"
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
    if [ "$production" != 1 ]; then return; fi
    # One of two: a replica may be away, and every acknowledged commit is on two servers. A replica that has missed more than
    # this much of the log must be made again.
    as_postgres tee -a "$data/postgresql.conf" >/dev/null <<CONF
synchronous_standby_names = 'ANY 1 (*)'
wal_keep_size = 512MB
# Replicas look for their primary this often, and commits wait for them: the default is 5 s.
wal_retrieve_retry_interval = 500ms
CONF
}

# Starts the server in an existing data folder, which it announces to a primary under its name.
postgres_run() {
    local data
    data=$(postgres_data "$1")
    as_postgres rm -f "$data/postmaster.pid"
    as_postgres "$(postgres_bin)/pg_ctl" start --silent --wait --timeout=60 --pgdata="$data" --log="$data/server.log" \
        --options="-p $(postgres_port_of "$1") -c cluster_name=$1" || die "PostgreSQL did not start: see $data/server.log"
    as_postgres head -n 1 "$data/postmaster.pid" >"$engines_dir/$1.pid"
}

postgres_start() {
    if running "$1" >/dev/null; then return; fi
    port_is_free "$(postgres_port_of "$1")"
    if [ "$(postgres_primary)" != "$1" ]; then
        # It may have commits that its successor has not.
        replica_make "$1"
    else
        as_postgres test -e "$(postgres_data "$1")/PG_VERSION" || postgres_make "$1"
    fi
    postgres_run "$1"
}

# SIGINT is PostgreSQL's fast shutdown: it closes connections and ends cleanly.
postgres_stop() { halt "$1" INT 20; }
postgres_wipe() {
    rm -rf "$(postgres_data "$1")" "$engines_dir/$1.data"
    if [ "$(postgres_primary)" = "$1" ]; then rm -f "$engines_dir/primary"; fi
}
