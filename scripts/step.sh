# Sourced by the other scripts: runs a named step and says how long it took.
#
#   step NAME COMMAND [ARGUMENT...]
#
# A step that fails ends the script, with the step's name as the last line.

# Debian puts some of the tools where only root's PATH looks.
PATH="$PATH:/usr/sbin:/sbin"

step() {
    local name=$1 start=$SECONDS status
    shift
    echo "==> $name: $*"
    # In a subshell of its own and behind no `||` or `if`, where bash would ignore errexit in the
    # functions that are called as steps.
    set +e
    (
        set -e
        "$@"
    )
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        echo "==> $name: FAILED with status $status after $((SECONDS - start)) s" >&2
        exit "$status"
    fi
    echo "==> $name: ok in $((SECONDS - start)) s"
}

# need COMMAND HOW: ends the script unless COMMAND is installed, and says how to install it.
need() {
    if ! command -v "$1" >/dev/null 2>&1; then
        echo "error: $1 is not installed; install it with: $2" >&2
        exit 1
    fi
}
