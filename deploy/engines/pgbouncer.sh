# shellcheck shell=bash
# PgBouncer in transaction mode, one for the database of each service: pgbouncer_auth, pgbouncer_dialog and pgbouncer_counter.
# Version 1.21 or newer, which keeps the prepared statements of its clients. Debian 13 has one; on Debian 12 it is built from
# the sources of Debian 13. PGBOUNCER names another program. Sourced by the other scripts, with postgres.sh.

pgbouncer_port_of() {
    local services=(auth dialog counter) index
    for index in "${!services[@]}"; do
        if [ "$1" = "pgbouncer_${services[index]}" ]; then printf '%s\n' $((pgbouncer_port + index)); fi
    done
}

# Prints the URL of a database, without its name, through the PgBouncer of a service.
pgbouncer_url() { printf 'postgres://postgres@127.0.0.1:%s\n' "$(pgbouncer_port_of "pgbouncer_$1")"; }

pgbouncer_built() { printf '%s/target/engines/pgbouncer/bin/pgbouncer\n' "$root"; }

# Prints the path of the program, if one is new enough.
pgbouncer_program() {
    local program version
    for program in ${PGBOUNCER:+"$PGBOUNCER"} "$(pgbouncer_built)" /usr/sbin/pgbouncer; do
        version=$("$program" --version 2>/dev/null | sed -n 's/^PgBouncer //p') || continue
        if [ -n "$version" ] && printf '1.21\n%s\n' "$version" | sort -V -C; then
            printf '%s\n' "$program"
            return
        fi
    done
    return 1
}

pgbouncer_install() {
    if pgbouncer_program >/dev/null; then return; fi
    [ -x /usr/sbin/pgbouncer ] || install_packages pgbouncer
    pgbouncer_program >/dev/null || pgbouncer_build
    pgbouncer_program >/dev/null || die "PgBouncer is older than 1.21; set PGBOUNCER to the path of a newer one"
}

# Builds the PgBouncer of Debian 13, from a package list of its own: the system's stays as it is.
pgbouncer_build() {
    local dir=$root/target/engines/pgbouncer apt mirror
    say "engines: building a PgBouncer that is newer than this system's"
    install_packages dpkg-dev gcc make pkg-config libevent-dev libssl-dev
    rm -rf "$dir"
    mkdir -p "$dir/lists/partial" "$dir/source"
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$mirror" >"$dir/sources.list"
    apt=(-qq -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$dir/lists"
        -o APT::Sandbox::User=root)
    (
        cd "$dir/source"
        as_root apt-get "${apt[@]}" update
        apt-get "${apt[@]}" --only-source source pgbouncer
        cd pgbouncer-*/
        ./configure --prefix="$dir" --without-cares --without-pam --without-ldap --without-systemd
        make -j2 pgbouncer
        install -D pgbouncer "$dir/bin/pgbouncer"
    ) >"$dir/build.log" 2>&1 || die "cannot build PgBouncer: see $dir/build.log"
    rm -rf "$dir/source" "$dir/lists"
}

# Writes the settings of a PgBouncer, which lead to the primary.
pgbouncer_configure() {
    local port
    port=$(pgbouncer_port_of "$1")
    cat >"$engines_dir/$1.ini" <<CONF
[databases]
* = host=127.0.0.1 port=$(postgres_port_of "$(postgres_primary)") user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
; For this machine only: anyone may log in.
auth_type = any
pool_mode = transaction
; Each process has about 60 statements; the texts are shared by all clients.
max_prepared_statements = 200
; Two processes of a role have up to 16 connections each.
max_client_conn = 200
default_pool_size = 20
; A parameter of the driver that has no effect on its binary results.
ignore_startup_parameters = extra_float_digits
; A server that is away is tried every second, and a client gets an answer within the 3 s that a role waits for a connection.
server_login_retry = 1
server_connect_timeout = 2
query_wait_timeout = 3
CONF
}

pgbouncer_start() {
    local port user=()
    if running "$1" >/dev/null; then return; fi
    port=$(pgbouncer_port_of "$1")
    port_is_free "$port"
    pgbouncer_configure "$1"
    if [ "$(id -u)" -eq 0 ]; then user=(-u postgres); fi
    launch "$1" "$(pgbouncer_program)" "${user[@]}" "$engines_dir/$1.ini"
    wait_for 10 "$1" listens "$port"
}

# Leads a PgBouncer to the present primary. Clients keep their connections.
pgbouncer_follow() {
    local pid
    pgbouncer_configure "$1"
    if pid=$(running "$1"); then kill -s HUP "$pid"; fi
}

pgbouncer_stop() { halt "$1" INT 5; }
pgbouncer_wipe() { rm -f "$engines_dir/$1.ini"; }
