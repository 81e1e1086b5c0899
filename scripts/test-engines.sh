#!/usr/bin/env bash
# Runs the tests that need real engines, all stages or the named ones: starts every engine on free ports
# with its data in a temporary directory, names them in GB6_TEST_*, and stops them again, however the
# tests end. scripts/install-engines.sh installs the engines.
#
#   scripts/test-engines.sh               every stage
#   scripts/test-engines.sh contracts     one stage
#   scripts/test-engines.sh --list        the stages
#   scripts/test-engines.sh --features    what cargo must be told for the targets of `contracts`
#
# PACKAGE names one package and FILTER one test of `contracts`:
#   PACKAGE=gb6-region-stores-kafka FILTER=fence scripts/test-engines.sh contracts
# Of `crash`, GB6_ROUNDS and GB6_SEED set how often and with which chance, and FILTER names one test.
# GB6_MATRIX=all takes every cell of the matrix of faults instead of one for each engine, those with three
# brokers, PostgreSQL's standby, and what else is long; GB6_MATRIX="r1 to" those cells whose name has this in
# it; with brokers, beside FILTER=brokers.
# SUITES names the suites of `end-to-end`, some of scripts/test.sh; of its crash suite GB6_ROUNDS, GB6_SEED
# and FILTER hold too:
#   SUITES=sdk-python scripts/test-engines.sh end-to-end
#
# A new stage is a function stage_NAME and its name in STAGES, in the order in which CI runs them.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh
# shellcheck source=scripts/engines/all.sh
. scripts/engines/all.sh

STAGES=(contracts end-to-end crash)
SUITES=${SUITES:-sdk sdk-python sdk-go browser conformance crash}

# packages: every package with tests against engines: it has the feature, and the file of the target.
packages() {
    local manifest
    find . -name Cargo.toml -not -path '*/target/*' -not -path '*/node_modules/*' | sort |
        while read -r manifest; do
            if grep -q '^engine-tests *=' "$manifest" &&
                [ -e "$(dirname "$manifest")/tests/engine/main.rs" ]; then
                sed -n '0,/^name *= *"/s/^name *= *"\(.*\)".*/\1/p' "$manifest"
            fi
        done
}

# features PACKAGE...: their features, as cargo takes them.
features() {
    local package all=''
    for package in "$@"; do
        all+=${all:+,}$package/engine-tests
    done
    if [ -z "$all" ]; then
        echo "error: no package has tests against engines" >&2
        exit 1
    fi
    echo "$all"
}

# The contract suites and whatever else a crate tests against an engine. All packages are selected, so
# that what they depend on is what `make test` has built.
stage_contracts() {
    local features selected=(--workspace)
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    [ -z "${PACKAGE:-}" ] || selected=(-p "$PACKAGE")
    # shellcheck disable=SC2046
    features=$(features ${PACKAGE:-$(packages)})
    cargo test --locked --no-fail-fast "${selected[@]}" --features "$features" --test engine -- ${FILTER:-}
}

# embedded_only: the modules of the crash suite that are left out on engines.
embedded_only() {
    local list=tests/engines/embedded-only.txt module reason
    while read -r module reason; do
        [[ $module != "#"* ]] || continue
        if [ -z "$reason" ] || ! grep -q "^mod $module;" tests/cluster/tests/it/main.rs; then
            echo "error: $list: $module is no module of the crash suite, or has no reason" >&2
            exit 1
        fi
        echo "$module"
    done <"$list"
}

# The suites of scripts/test.sh once more, where every region keeps everything in the engines: those of the
# SDKs, the console, what they show of the protocol, and the crash suite.
stage_end-to-end() {
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    GB6_CRASH_SKIP=$(embedded_only)
    # The stage crash has more of them.
    export GB6_CRASH_SKIP GB6_ROUNDS=${GB6_ROUNDS:-4}
    export GB6_ENGINES_DIR=$ENGINES_DIR/e2e GB6_BIN=$PWD/tests/engines/gb6-on-engines
    GB6_ENGINES_BIN=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug/gb6
    export GB6_ENGINES_BIN
    mkdir -p "$GB6_ENGINES_DIR"
    (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$GB6_ENGINES_DIR/record.key")
    # shellcheck disable=SC2086
    scripts/test.sh $SUITES
}

# A region of three processes on engines of its own: killed, paused, cut off and slowed down.
stage_crash() {
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    scripts/console.sh --if-missing
    cargo build --locked -p gb6 --features engines
    local which=()
    # Of one test that is named, whichever cells are asked for.
    if [ "${GB6_MATRIX:-}" = all ] || [[ -n ${GB6_MATRIX:-} && -n ${FILTER:-} ]]; then
        which=(--include-ignored)
    fi
    # One after the other: each wants the machine for itself.
    cargo test --locked -p gb6-tests-cluster --test engines -- --nocapture --test-threads=1 \
        ${which[@]+"${which[@]}"} ${FILTER:-}
}

if [ "${1:-}" = --list ]; then
    printf '%s\n' "${STAGES[@]}"
    exit 0
fi
if [ "${1:-}" = --features ]; then
    # shellcheck disable=SC2046
    features $(packages)
    exit 0
fi
[ "$#" -gt 0 ] || set -- "${STAGES[@]}"
for stage in "$@"; do
    if ! declare -F "stage_$stage" >/dev/null; then
        echo "error: no stage $stage; stages are: ${STAGES[*]}" >&2
        exit 2
    fi
done

# Said now, and not after half an hour of other stages.
if [[ " $* " == *" end-to-end "* ]]; then
    # shellcheck disable=SC2086
    scripts/test.sh --check $SUITES
fi
missing=$(scripts/install-engines.sh --list)
if [ -n "$missing" ]; then
    echo "error: missing: $missing; install them with: scripts/install-engines.sh" >&2
    exit 1
fi

ENGINES_DIR=$(mktemp -d "${TMPDIR:-/tmp}/gb6-engines-XXXXXX")
# PostgreSQL runs as a user of its own, who has to come through.
chmod 755 "$ENGINES_DIR"

end() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    stop_all
    if [ "$status" -eq 0 ]; then
        rm -rf "$ENGINES_DIR"
    else
        echo "the data and logs of the engines are kept in $ENGINES_DIR" >&2
    fi
    exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# Ended by SIGKILL, this script still leaves no engine behind.
export GB6_ENGINE_OWNER=$$

# The stage crash starts engines of its own.
if [[ " $* " == *" contracts "* || " $* " == *" end-to-end "* ]]; then
    step "start the engines" start_all
    for engine in "${ALL_ENGINES[@]}"; do
        ADDRESS[$engine]=$(head -n 1 "$ENGINES_DIR/$engine.address")
        export "GB6_TEST_${engine^^}=${ADDRESS[$engine]}"
    done
fi
for stage in "$@"; do
    step "$stage" "stage_$stage"
done
