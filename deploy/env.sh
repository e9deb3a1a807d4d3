#!/usr/bin/env bash
# Makes .env from .env.example, with fresh passwords, where there is none; readable by its owner alone.
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
echo "made .env: what to change before others can reach it is said there and in README.md"
