# shellcheck shell=bash
# Installs the packages of the clients and defines `clients`, which runs all of them. Without Node or npm, prints one line
# and exits with status 0. Sourced, not run.

for tool in node npm; do
    command -v "$tool" >/dev/null || { echo "skipped: real clients against the program ($tool is not installed)"; exit 0; }
done
# npm writes .package-lock.json last, so it is newer only after a complete installation.
if ! [ tests/clients/node_modules/.package-lock.json -nt tests/clients/package-lock.json ]; then
    (cd tests/clients && npm ci --ignore-scripts --prefer-offline --loglevel=error)
fi

# Runs four clients concurrently: they mostly wait for reconnects.
clients() {
    (cd tests/clients && node --test --test-concurrency=4 --test-reporter=spec audits.mjs unused-snippets.mjs client-*.mjs)
}
