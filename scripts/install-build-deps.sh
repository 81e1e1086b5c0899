#!/usr/bin/env bash
# Installs what building needs and is missing: a C compiler and make (for ring and mimalloc), git
# and certificates. Rust and Node are only looked for: how they are installed is the user's choice.
#
#   scripts/install-build-deps.sh [--node]     --node: Node is needed too
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/apt.sh
. scripts/apt.sh
# shellcheck source=scripts/node.sh
. scripts/node.sh

missing=()
command -v cc >/dev/null 2>&1 || missing+=(build-essential)
command -v make >/dev/null 2>&1 || missing+=(make)
command -v git >/dev/null 2>&1 || missing+=(git)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
apt_install ${missing[@]+"${missing[@]}"}

if ! command -v cargo >/dev/null 2>&1; then
    echo "error: Rust is not installed; install it with: curl --proto '=https' -sSf https://sh.rustup.rs | sh" >&2
    exit 1
fi
if [ "${1:-}" = --node ]; then
    problem=$(node_problem)
    if [ -n "$problem" ]; then
        echo "error: $problem; install version $NODE_VERSIONS from https://nodejs.org" >&2
        exit 1
    fi
fi
