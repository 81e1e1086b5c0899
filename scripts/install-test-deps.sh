#!/usr/bin/env bash
# Installs what the tests and benchmarks need beyond building, where it is missing (Debian 12, as
# root or with sudo): Chromium for the browser tests, XFS tools for the power cut, nats-server as
# the peer of the benchmarks; and Go, where there is none that will do, and the npm, Python and Go
# packages of the test clients.
#
#   scripts/install-test-deps.sh [--list]     --list: only print which packages are missing
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/apt.sh
. scripts/apt.sh
# shellcheck source=scripts/go.sh
. scripts/go.sh
# shellcheck source=scripts/python.sh
. scripts/python.sh

# Each line: a command that shows that the package is there, and the package.
needed() {
    cat <<'LIST'
chromium chromium
xfs_io xfsprogs
mkfs.xfs xfsprogs
losetup mount
prlimit util-linux
nats-server nats-server
LIST
}

missing=()
while read -r command package; do
    if ! command -v "$command" >/dev/null 2>&1; then
        [[ " ${missing[*]-} " == *" $package "* ]] || missing+=("$package")
    fi
done < <(needed)
[ -z "$(python_problem)" ] || missing+=(python3 python3-venv)

if [ "${1:-}" = --list ]; then
    echo "${missing[*]-}"
    exit 0
fi
apt_install ${missing[@]+"${missing[@]}"}
# Debian starts a server on installing it; the benchmarks start their own on a port of their own.
if [[ " ${missing[*]-} " == *" nats-server "* ]] && [ -d /run/systemd/system ]; then
    as_root systemctl disable --now nats-server.service
fi

for package in tests/*/package.json; do
    [ -e "$package" ] || continue
    dir=$(dirname "$package")
    # npm ci deletes and installs everything again: only when the lock file is newer.
    if [ ! -e "$dir/node_modules/.package-lock.json" ] ||
        [ "$dir/package-lock.json" -nt "$dir/node_modules/.package-lock.json" ]; then
        echo "Installing the npm packages of $dir"
        npm ci --prefix "$dir" --no-audit --no-fund --loglevel=error
    fi
done

problem=$(python_problem)
if [ -n "$problem" ]; then
    echo "error: $problem; install version $PYTHON_VERSIONS from https://www.python.org" >&2
    exit 1
fi
python_install

go_install
problem=$(go_problem)
if [ -n "$problem" ]; then
    echo "error: $problem; install version $GO_VERSIONS from https://go.dev/dl" >&2
    exit 1
fi
(cd tests/sdk-go && go mod download)
