#!/usr/bin/env bash
# Every check that runs no test: format, lints, house rules, documentation, dependencies, console.
# Clippy comes before rustdoc, which uses the metadata that it leaves behind.
#
#   scripts/lint.sh [STEP...]     only these: fmt tidy console deploy clippy doc deny
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh
# shellcheck source=scripts/apt.sh
. scripts/apt.sh
# shellcheck source=scripts/python.sh
. scripts/python.sh
scripts/install-build-deps.sh --node --engines

DENY_VERSION=0.20.2
target=${CARGO_TARGET_DIR:-target}

deny() {
    local tool=$target/tools/bin/cargo-deny
    if [ ! -x "$tool" ]; then
        echo "Installing cargo-deny $DENY_VERSION into $target/tools"
        cargo install cargo-deny --version "$DENY_VERSION" --locked --debug --root "$target/tools" --quiet
    fi
    # The graph holds crates of other platforms too; their licences are read from the sources.
    cargo fetch --locked --quiet
    "$tool" --offline --log-level warn check --hide-inclusion-graph bans licenses sources
}

# One set of features, so that everything is compiled once: those of the tests, and those without which the
# tests against engines are not there.
features() {
    echo "gb6/engines,$(scripts/test-engines.sh --features)"
}

# And that the binary builds without any.
clippy() {
    local features
    features=$(features)
    cargo clippy --workspace --all-targets --features "$features" --locked --quiet -- -D warnings
    cargo clippy -p gb6 --locked --quiet -- -D warnings
}

docs() {
    local features
    features=$(features)
    RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --workspace --no-deps --features "$features" --locked --quiet
}

# The build embeds console/dist, so it is made before anything is compiled.
console() {
    scripts/console.sh
    scripts/console.sh --check
}

# Files for containers, which can not be run here.
deploy() {
    local venv=$target/deploy-check wanted=deploy/check/requirements.txt problem
    if ! cmp -s "$wanted" "$venv/installed.txt"; then
        problem=$(python_problem)
        if [ -n "$problem" ]; then
            apt_install python3 python3-venv
        fi
        python3 -m venv --clear "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
            --require-hashes --only-binary :all: --requirement "$wanted"
        cp "$wanted" "$venv/installed.txt"
    fi
    "$venv/bin/python" deploy/check/check.py
}

run() {
    case $1 in
    fmt) step fmt cargo fmt --all --check ;;
    tidy) step tidy cargo xtask tidy ;;
    console) step console console ;;
    deploy) step deploy deploy ;;
    clippy) step clippy clippy ;;
    doc) step doc docs ;;
    deny) step deny deny ;;
    *)
        echo "error: no step $1; steps are: fmt tidy console deploy clippy doc deny" >&2
        exit 2
        ;;
    esac
}

[ "$#" -gt 0 ] || set -- fmt tidy console deploy clippy doc deny
for name in "$@"; do
    run "$name"
done
