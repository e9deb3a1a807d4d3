#!/usr/bin/env bash
# Creates .env from .env.example with random passwords, readable only by its owner, unless .env exists.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ ! -e .env ] || exit 0
umask 077
while IFS= read -r line; do
    case $line in
        *_PASSWORD=) printf '%s%s\n' "$line" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
        *) printf '%s\n' "$line" ;;
    esac
done <.env.example >.env.new
mv .env.new .env
echo "created .env; read it and docs/operations.md before you let other machines connect"
