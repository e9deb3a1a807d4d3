#!/usr/bin/env bash
# Creates a database and its owner for every service, and sets the owners' passwords to AUTH_, DIALOG_ and
# COUNTER_DATABASE_PASSWORD. No service can access the database of another. May be repeated at any time: what exists is kept,
# and a changed password is taken over.
set -euo pipefail

run_sql() { psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username=postgres --dbname=postgres "$@"; }

for service in auth dialog counter; do
    password=${service^^}_DATABASE_PASSWORD
    run_sql --set=service="$service" --set=password="${!password:?}" <<'SQL'
select format('create role %I', :'service') where not exists (select from pg_roles where rolname = :'service') \gexec
alter role :"service" login password :'password';
select format('create database %I owner %I', :'service', :'service')
where not exists (select from pg_database where datname = :'service') \gexec
revoke all on database :"service" from public;
SQL
done
# The superuser connects only from inside the container. Volumes of an earlier version gave it a password.
run_sql --command='alter role postgres password null'
