# Sourced by the install scripts: installs Debian packages, as root or through sudo.

# apt_install PACKAGE...: installs them, or says what to run where this script may not.
apt_install() {
    [ "$#" -gt 0 ] || return 0
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: missing: $*" >&2
        echo "       this script installs packages on Debian and Ubuntu only; install them with your package manager" >&2
        return 1
    fi
    if [ "${#as_root[@]}" -gt 0 ] && ! sudo -n true 2>/dev/null && [ ! -t 0 ]; then
        echo "error: missing: $*" >&2
        echo "       install them with: sudo apt-get install -y --no-install-recommends $*" >&2
        return 1
    fi
    echo "Installing: $*"
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "$@"
}
