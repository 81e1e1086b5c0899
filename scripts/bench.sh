#!/usr/bin/env bash
# Builds the profile that is shipped (thin LTO) and runs the benchmarks, ours and the peers' by turns in one run.
#
#   scripts/bench.sh [ARGUMENT...]     arguments of gb6 bench; `all` unless said
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh
need nats-server "sudo apt-get install -y nats-server"
scripts/install-build-deps.sh --node
scripts/console.sh --if-missing

cargo build --profile dist --locked -p gb6
[ "$#" -gt 0 ] || set -- all
exec "${CARGO_TARGET_DIR:-target}/dist/gb6" bench "$@"
