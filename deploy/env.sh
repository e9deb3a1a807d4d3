#!/usr/bin/env bash
# Prepares the checkout for docker-compose.yml: creates .env from .env.example with random passwords, readable only by its
# owner, unless .env exists, and lets the containers read the files that are mounted into them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The containers run as other users than the one who has checked out these files, perhaps with umask 077.
mounted=(deploy/haproxy.cfg deploy/postgres/start.sh deploy/postgres/databases.sh)
find "${mounted[@]}" ! -perm -444 -exec chmod a+r {} +

[ ! -e .env ] || exit 0
umask 077
while IFS= read -r line; do
    case $line in
        *_PASSWORD=) printf '%s%s\n' "$line" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
        *) printf '%s\n' "$line" ;;
    esac
done <.env.example >.env.new
mv .env.new .env
volume=${COMPOSE_PROJECT_NAME:-tidings}_postgres
if docker volume inspect "$volume" >/dev/null 2>&1; then
    echo ".env was lost, but volume $volume exists: created .env with new passwords, which PostgreSQL takes over at the next" \
        "\`make up\`; your other settings are back at their defaults"
else
    echo "created .env; read it and docs/operations.md before you let other machines connect"
fi
