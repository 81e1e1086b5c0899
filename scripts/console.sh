#!/usr/bin/env bash
# Builds the web console into console/dist, from where the gb6 build embeds it.
#
#   scripts/console.sh               build it
#   scripts/console.sh --if-missing  only where console/dist is missing or older than its sources.
#                                    What keeps it from being built is said and is no failure: gb6
#                                    works without it
#   scripts/console.sh --check       check its types and run its unit tests
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/node.sh
. scripts/node.sh
cd console

install_packages() {
    if [ ! -e node_modules/.package-lock.json ] ||
        [ package-lock.json -nt node_modules/.package-lock.json ]; then
        echo "Installing the npm packages of the console" >&2
        npm ci --no-audit --no-fund --loglevel=error "$@" >&2
    fi
}

build() {
    echo "Building the console into console/dist" >&2
    npm run --silent build >&2
}

# left_out WHY: says that the console is not built, and what that means.
left_out() {
    if [ -e dist/index.html ]; then
        echo "The console stays as it was built before: $1." >&2
    else
        echo "The console is left out: $1." >&2
    fi
    echo "With Node $NODE_VERSIONS and the npm registry in reach it is built on the next start." >&2
    exit 0
}

problem=$(node_problem)
if [ "${1:-}" = --if-missing ]; then
    sources=(src index.html package.json package-lock.json tsconfig.json vite.config.ts)
    if [ -e dist/index.html ] && [ -z "$(find "${sources[@]}" -newer dist/index.html -print -quit)" ]; then
        exit 0
    fi
    [ -z "$problem" ] || left_out "$problem"
    # Whoever waits for gb6 does not wait minutes for a registry that does not answer.
    install_packages --fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=30000 ||
        left_out "its npm packages can not be installed, see above"
    build || left_out "it can not be built, see above"
    exit 0
fi

if [ -n "$problem" ]; then
    echo "error: $problem; install version $NODE_VERSIONS from https://nodejs.org" >&2
    exit 1
fi
install_packages
if [ "${1:-}" = --check ]; then
    npm run --silent check
    npm run --silent test
else
    build
fi
