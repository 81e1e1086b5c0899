#!/usr/bin/env bash
# The randomised tests with many more cases than CI gives them.
#
#   scripts/soak.sh [CASES]     cases for each property, 20000 unless said
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh

cases=${1:-20000}
export PROPTEST_CASES="$cases"
step "soak, $cases cases for each property" scripts/test.sh units
