#!/usr/bin/env bash
# Builds the development profile and starts `gb6 dev`: every role in one process on ./gb6-data.
# Needs Rust and a C compiler; no root, no browser, and Node only for the console.
#
#   scripts/run.sh [ARGUMENT...]     arguments of gb6 dev, such as --http 127.0.0.1:9000
#
# GB6_BIN names the binary to use instead of building the development profile.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh

gb6=${GB6_BIN:-}
if [ -z "$gb6" ]; then
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    need cc "sudo apt-get install -y build-essential"
    scripts/console.sh --if-missing
    echo "Building gb6 (the first time takes a few minutes)" >&2
    cargo build --locked -p gb6
    gb6=${CARGO_TARGET_DIR:-target}/debug/gb6
fi
echo "Starting gb6 dev $*" >&2
exec "$gb6" dev "$@"
