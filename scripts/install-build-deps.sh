#!/usr/bin/env bash
# Installs what building needs and is missing: a C compiler and make (for ring and mimalloc), git
# and certificates. Rust and Node are only looked for: how they are installed is the user's choice.
#
#   scripts/install-build-deps.sh [--node]     --node: Node is needed too
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/apt.sh
. scripts/apt.sh

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
    if ! command -v npm >/dev/null 2>&1; then
        echo "error: Node is not installed; install version 20.19 or newer from https://nodejs.org" >&2
        exit 1
    fi
    if ! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'; then
        echo "error: Node $(node --version) is too old; install version 20.19 or newer from https://nodejs.org" >&2
        exit 1
    fi
fi
