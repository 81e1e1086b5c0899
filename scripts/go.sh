# Sourced by the scripts that use Go: which version will do, which is what the Go SDK asks for.

GO_VERSIONS="1.25 or newer"

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
