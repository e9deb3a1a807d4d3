#!/usr/bin/env bash
# Creates a database and its owner for every service when the server starts on an empty volume. No service can access the
# database of another. The passwords are AUTH_, DIALOG_ and COUNTER_DATABASE_PASSWORD.
set -euo pipefail

for service in auth dialog counter; do
    password=${service^^}_DATABASE_PASSWORD
    psql -v ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
        --set=service="$service" --set=password="${!password:?}" <<'SQL'
create role :"service" login password :'password';
create database :"service" owner :"service";
revoke all on database :"service" from public;
SQL
done
