# shellcheck shell=bash
# Loads the functions of every kind of engine. Sourced, not run.

# shellcheck source=/dev/null
for part in common postgres replica pgbouncer redis kafka; do source "$(dirname "${BASH_SOURCE[0]}")/$part.sh"; done

# Prints the URLs of the engines, as environment variables.
engine_env() {
    printf 'TEST_POSTGRES_URL=%s\n' "$(postgres_url)"
    printf 'TEST_KAFKA_URL=%s\n' "$(kafka_url)"
    printf 'TEST_REDIS_URL=%s\n' "$(redis_url)"
}
