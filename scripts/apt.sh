# Sourced by the install scripts: installs Debian packages, as root or through sudo.

# Debian puts some of the tools where only root's PATH looks.
PATH="$PATH:/usr/sbin:/sbin"

# as_root COMMAND...: runs it as root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# apt_install PACKAGE...: installs them, or says what to run where this script may not.
apt_install() {
    [ "$#" -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: missing: $*" >&2
        echo "       this script installs packages on Debian and Ubuntu only; install them with your package manager" >&2
        return 1
    fi
    # sudo may ask for a password only where somebody can answer.
    if [ "$(id -u)" -ne 0 ] && [ ! -t 0 ] && ! sudo -n true 2>/dev/null; then
        echo "error: missing: $*" >&2
        echo "       install them with: sudo apt-get install -y --no-install-recommends $*" >&2
        return 1
    fi
    echo "Installing: $*"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}
