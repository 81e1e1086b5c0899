#!/usr/bin/env bash
# The randomised tests with many more cases than CI gives them: properties, and seeds of the
# simulated mesh (GB6_SEEDS), of moves (GB6_MOVES), of revocations, drains and storms without other
# faults (GB6_CROWDS), and of regions of several nodes (GB6_NODES).
#
#   scripts/soak.sh [CASES]     cases for each property, 20000 unless said
#
# GB6_ROUNDS sets how often processes are killed and paused, bytes are dropped and the power is cut:
# 200 unless said, ten times what CI does.
# GB6_LOG_MIB is the log behind which a killed server is started again, with the time that it takes:
# 5120 unless said, on the disk of the build, removed afterwards.
# GB6_ENGINE_ROUNDS is how often the whole matrix of faults, rounds on it, and those of the crash suite
# run on real engines: 20. Beside them everything else that `make test-engines` runs is run there.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh

cases=${1:-20000}
export PROPTEST_CASES="$cases"
export GB6_SEEDS="${GB6_SEEDS:-$cases}" GB6_MOVES="${GB6_MOVES:-2000}" GB6_CROWDS="${GB6_CROWDS:-2000}"
export GB6_NODES="${GB6_NODES:-2000}"
step "soak, $cases cases for each property" scripts/test.sh units
export GB6_ROUNDS=${GB6_ROUNDS:-200}
export GB6_LOG_MIB=${GB6_LOG_MIB:-5120}
# The time is that of the binary that people run.
scripts/console.sh --if-missing
step "a release build for the large log" cargo build --release --locked -p gb6
step "soak, a start after SIGKILL with $GB6_LOG_MIB MiB of log" \
    env FILTER=large_log GB6_BIN=target/release/gb6 scripts/test.sh crash
# Once is enough: below it is as in CI.
unset GB6_LOG_MIB
step "soak, $GB6_ROUNDS rounds of killed processes" scripts/test.sh crash
unset GB6_ROUNDS
# Every suite on the distributed engines, every cell of the matrix of faults, several times, and more rounds.
# The cases of properties are those of CI: each costs a question to an engine.
step "soak, every suite and the whole matrix of faults on real engines" \
    env -u PROPTEST_CASES GB6_MATRIX=all GB6_ROUNDS="${GB6_ENGINE_ROUNDS:-20}" scripts/test-engines.sh
