#!/usr/bin/env bash
# Runs the tests, all stages or the named ones. What a stage needs is installed by
# scripts/install-test-deps.sh; a stage that misses something fails and says how to get it.
#
#   scripts/test.sh               every stage
#   scripts/test.sh units         one stage
#   scripts/test.sh --list        the stages
#   scripts/test.sh --check ...   only whether this user can run them
#
# A new stage is a function stage_NAME and its name in STAGES, in the order in which CI runs them.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh
# shellcheck source=scripts/go.sh
. scripts/go.sh
# shellcheck source=scripts/python.sh
. scripts/python.sh

STAGES=(units mutants sdk sdk-python sdk-go browser conformance crash)

# forget_results PREFIX: what an earlier run of these suites showed is no result of this one.
forget_results() {
    rm -f "${CARGO_TARGET_DIR:-target}/conformance/$1"-*.json
}

# Unit, property and integration tests of every crate.
stage_units() {
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    need cc "sudo apt-get install -y build-essential"
    scripts/console.sh --if-missing
    cargo test --workspace --features gb6/engines --locked
}

# Seeded mistakes, each of which a named test must catch.
stage_mutants() {
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    cargo xtask mutants
}

# The unmodified JavaScript SDK against a real server.
stage_sdk() {
    need node "scripts/install-build-deps.sh --node"
    if [ ! -d tests/sdk/node_modules ]; then
        echo "error: the packages of tests/sdk are not installed; install them with: scripts/install-test-deps.sh" >&2
        exit 1
    fi
    scripts/console.sh --if-missing
    cargo build --locked -p gb6 --features engines -p gb6-tests-harness
    forget_results sdk
    npm test --prefix tests/sdk
}

# The unmodified Python SDK against a real server.
stage_sdk-python() {
    if ! python_ready; then
        echo "error: the packages of $PYTHON_PACKAGES are not installed; install them with: scripts/install-test-deps.sh" >&2
        exit 1
    fi
    scripts/console.sh --if-missing
    cargo build --locked -p gb6 --features engines
    local python
    python=$(realpath "$PYTHON_ENV")/bin/python
    # The SDK does not wait for the end of sockets that it leaves.
    forget_results python
    (cd tests/sdk-python && "$python" -W ignore::ResourceWarning -m unittest discover -s suites -t .)
}

# The unmodified Go SDK against a real server.
stage_sdk-go() {
    local problem
    go_use
    problem=$(go_problem)
    if [ -n "$problem" ]; then
        echo "error: $problem; run scripts/install-test-deps.sh, or install version $GO_VERSIONS from https://go.dev/dl" >&2
        exit 1
    fi
    scripts/console.sh --if-missing
    cargo build --locked -p gb6 --features engines
    forget_results go
    # Never a result of before: the server is no input that Go knows of.
    (cd tests/sdk-go && go vet ./... && go test -count=1 ./...)
}

# The console in Chromium, on one process and on a mesh.
stage_browser() {
    need node "scripts/install-build-deps.sh --node"
    need chromium "scripts/install-test-deps.sh"
    scripts/console.sh
    cargo build --locked -p gb6 --features engines -p gb6-tests-harness
    forget_results browser
    npm test --prefix tests/browser
}

# What the stages of the SDKs showed is what docs/conformance.md says. Runs behind them.
stage_conformance() {
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    cargo xtask conformance --check
}

# Real processes: killed, paused, cut off the power, out of disk and of files. Needs root for file
# systems of its own. GB6_ROUNDS and GB6_SEED set how often and with which chance; FILTER names one
# test: FILTER=power_cuts scripts/test.sh crash. GB6_CRASH_SKIP names modules that are left out.
stage_crash() {
    local module skip=()
    for module in ${GB6_CRASH_SKIP:-}; do
        echo "left out: $module"
        skip+=(--skip "$module::")
    done
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    need prlimit "sudo apt-get install -y util-linux"
    need xfs_io "scripts/install-test-deps.sh"
    scripts/console.sh --if-missing
    cargo build --locked -p gb6 --features engines
    # One after the other: each wants the machine for itself.
    cargo test --locked -p gb6-tests-cluster --test cluster -- --nocapture --test-threads=1 \
        ${skip[@]+"${skip[@]}"} ${FILTER:-}
}

if [ "${1:-}" = --list ]; then
    printf '%s\n' "${STAGES[@]}"
    exit 0
fi
check=false
if [ "${1:-}" = --check ]; then
    check=true
    shift
fi
[ "$#" -gt 0 ] || set -- "${STAGES[@]}"
for stage in "$@"; do
    if ! declare -F "stage_$stage" >/dev/null; then
        echo "error: no stage $stage; stages are: ${STAGES[*]}" >&2
        exit 2
    fi
    # Said now, and not after half an hour of other stages.
    if [ "$stage" = crash ] && [ "$(id -u)" -ne 0 ]; then
        others=${STAGES[*]}
        echo "error: the stage crash makes and mounts file systems of its own, which only root may: run \`sudo make test\`, or the others with \`scripts/test.sh ${others% crash}\`" >&2
        exit 1
    fi
done
if [ "$check" = true ]; then
    exit 0
fi
for stage in "$@"; do
    step "$stage" "stage_$stage"
done
