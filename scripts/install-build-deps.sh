#!/usr/bin/env bash
# Installs what building needs and is missing: a C compiler and make (for ring and mimalloc), git
# and certificates; OpenSSL and zlib headers where the engines are built too (for librdkafka). Rust and Node are only looked for: how they are installed is the user's choice.
#
#   scripts/install-build-deps.sh [--node] [--engines]     --node: Node is needed too
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/apt.sh
. scripts/apt.sh
# shellcheck source=scripts/node.sh
. scripts/node.sh

node=false
engines=false
for argument in "$@"; do
    case $argument in
    --node) node=true ;;
    --engines) engines=true ;;
    *)
        echo "error: no option $argument; options are: --node --engines" >&2
        exit 2
        ;;
    esac
done

missing=()
command -v cc >/dev/null 2>&1 || missing+=(build-essential)
command -v make >/dev/null 2>&1 || missing+=(make)
command -v git >/dev/null 2>&1 || missing+=(git)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ "$engines" = true ]; then
    command -v c++ >/dev/null 2>&1 || missing+=(g++)
    command -v pkg-config >/dev/null 2>&1 || missing+=(pkg-config)
    [ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
    [ -e /usr/include/zlib.h ] || missing+=(zlib1g-dev)
fi
apt_install ${missing[@]+"${missing[@]}"}

if ! command -v cargo >/dev/null 2>&1; then
    echo "error: Rust is not installed; install it with: curl --proto '=https' -sSf https://sh.rustup.rs | sh" >&2
    exit 1
fi
if [ "$node" = true ]; then
    problem=$(node_problem)
    if [ -n "$problem" ]; then
        echo "error: $problem; install version $NODE_VERSIONS from https://nodejs.org" >&2
        exit 1
    fi
fi
