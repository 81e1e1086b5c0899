#!/usr/bin/env bash
# The randomised tests with many more cases than CI gives them: properties, and seeds of the
# simulated mesh (GB6_SEEDS) and of moves (GB6_MOVES).
#
#   scripts/soak.sh [CASES]     cases for each property, 20000 unless said
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh

cases=${1:-20000}
export PROPTEST_CASES="$cases"
export GB6_SEEDS="${GB6_SEEDS:-$cases}" GB6_MOVES="${GB6_MOVES:-2000}"
step "soak, $cases cases for each property" scripts/test.sh units
