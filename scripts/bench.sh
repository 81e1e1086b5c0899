#!/usr/bin/env bash
# Builds the release profile and runs the benchmarks, ours and the peers' by turns in one run.
#
#   scripts/bench.sh [ARGUMENT...]     arguments of gb6 bench; `all` unless said
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh
need nats-server "sudo apt-get install -y nats-server"
scripts/install-build-deps.sh --node
scripts/console.sh --if-missing

cargo build --release --locked -p gb6
[ "$#" -gt 0 ] || set -- all
exec "${CARGO_TARGET_DIR:-target}/release/gb6" bench "$@"
