#!/usr/bin/env bash
# Entry point of the service `postgres`: creates the database cluster unless there is one, then runs the given command.
#
# The image's own entry point takes PG_VERSION for the sign of a complete cluster, but initdb writes that file early: a first
# start that is interrupted leaves a volume on which the server never works. Here the folder gets its name when it is complete.
set -euo pipefail
volume=/var/lib/postgresql/data
export PGDATA=$volume/cluster

# A volume of an earlier version has its files at the top.
if [ -s "$volume/PG_VERSION" ]; then PGDATA=$volume; fi
if [ ! -d "$PGDATA" ]; then
    rm -rf "$volume/new"
    # Only connections from inside the container need no password. No network connection of the superuser is possible, because
    # this role has none.
    initdb --pgdata="$volume/new" --username=postgres --auth=trust
    printf '\nhost all all all scram-sha-256\n' >>"$volume/new/pg_hba.conf"
    sync -f "$volume/new/pg_hba.conf"
    mv -T "$volume/new" "$PGDATA"
fi
exec "$@"
