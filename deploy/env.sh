#!/usr/bin/env bash
# Prepares the checkout for docker-compose.yml: creates .env from .env.example with random passwords, readable only by its
# owner, or adds the passwords that an existing .env lacks, and lets the containers read what is mounted into them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The containers run as other users than the one who has checked out these files, perhaps with umask 077.
mounted=(
    deploy/haproxy.cfg deploy/postgres/start.sh deploy/postgres/databases.sh
    deploy/prometheus/prometheus.yml deploy/prometheus/alerts.yml deploy/jaeger.yml
    deploy/grafana/provisioning deploy/grafana/dashboards
)
find "${mounted[@]}" -type f ! -perm -444 -exec chmod a+r {} +
find "${mounted[@]}" -type d ! -perm -555 -exec chmod a+rx {} +

password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# An .env of an earlier version lacks the passwords of later services.
complete() {
    local name
    while read -r name; do
        if grep -q "^$name=" .env; then continue; fi
        # The last line may have no end.
        [ -z "$(tail -c 1 .env)" ] || echo >>.env
        printf '%s=%s\n' "$name" "$(password)" >>.env
        echo "added $name to .env"
    done < <(sed -n 's/^\([A-Z_]*_PASSWORD\)=$/\1/p' .env.example)
}

if [ -e .env ]; then
    complete
    exit 0
fi
umask 077
while IFS= read -r line; do
    case $line in
        *_PASSWORD=) printf '%s%s\n' "$line" "$(password)" ;;
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
