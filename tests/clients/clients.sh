# shellcheck shell=bash
# The packages of the clients, installed where they are not, and how all clients are run. Without Node or npm it says so in
# one line and ends content. Sourced, not run.

for tool in node npm; do
    command -v "$tool" >/dev/null || { echo "skipped: real clients against the program ($tool is not installed)"; exit 0; }
done
# npm writes the first file last.
if ! [ tests/clients/node_modules/.package-lock.json -nt tests/clients/package-lock.json ]; then
    (cd tests/clients && npm ci --ignore-scripts --prefer-offline --loglevel=error)
fi

# Every client, some at a time: most of the time they wait before they connect again.
clients() {
    (cd tests/clients && node --test --test-concurrency=4 --test-reporter=spec audits.mjs pieces.mjs client-*.mjs)
}
