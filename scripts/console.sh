#!/usr/bin/env bash
# Builds the web console into console/dist, from where the gb6 build embeds it.
#
#   scripts/console.sh               build it
#   scripts/console.sh --if-missing  only where console/dist is missing, and only if Node is there
#   scripts/console.sh --check       check its types and run its unit tests
set -euo pipefail
cd "$(dirname "$0")/../console"

if [ "${1:-}" = --if-missing ]; then
    if [ -e dist/index.html ]; then
        exit 0
    fi
    if ! command -v npm >/dev/null 2>&1; then
        echo "The console is left out: Node is not installed. With Node 20.19 or newer it is built on the next start." >&2
        exit 0
    fi
fi

if [ ! -e node_modules/.package-lock.json ] ||
    [ package-lock.json -nt node_modules/.package-lock.json ]; then
    echo "Installing the npm packages of the console" >&2
    npm ci --no-audit --no-fund --loglevel=error >&2
fi
if [ "${1:-}" = --check ]; then
    npm run --silent check
    npm run --silent test
else
    echo "Building the console into console/dist" >&2
    npm run --silent build >&2
fi
