# Sourced by the scripts that use Node: which versions will do, which is what vite asks for.

NODE_VERSIONS="20.19 or a newer 20, or 22.12 or newer"

# node_problem: prints what is wrong with the installed Node; nothing if it will do.
node_problem() {
    local version major minor
    if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
        echo "Node is not installed"
        return
    fi
    version=$(node --version 2>/dev/null || true)
    IFS=. read -r major minor _ <<<"${version#v}"
    if ! [[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]]; then
        echo "\`node --version\` says no version but '$version'"
    elif ! ((major > 22 || (major == 22 && minor >= 12) || (major == 20 && minor >= 19))); then
        echo "Node $version will not do"
    fi
}
