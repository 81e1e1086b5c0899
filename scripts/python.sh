# Sourced by the scripts that use Python: which Python will do, and where the test clients' packages
# are installed: in a virtual environment below target, so that nothing else sees them.

PYTHON_VERSIONS="3.11 or newer"
PYTHON_ENV=${CARGO_TARGET_DIR:-target}/python
PYTHON_PACKAGES=tests/sdk-python/requirements.txt

# python_problem: prints what is wrong with the installed Python; nothing if it will do.
python_problem() {
    if ! command -v python3 >/dev/null 2>&1; then
        echo "Python is not installed"
    elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$(python3 --version 2>&1) will not do"
    elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        echo "Python has no venv"
    fi
}

# python_ready: whether the environment has exactly the packages that the lock file names.
python_ready() {
    [ -x "$PYTHON_ENV/bin/python" ] && cmp -s "$PYTHON_PACKAGES" "$PYTHON_ENV/installed.txt"
}

# python_install: makes the environment anew, unless it is ready. Only what was locked is installed,
# by its hashes.
python_install() {
    if python_ready; then
        return
    fi
    echo "Installing the Python packages of $(dirname "$PYTHON_PACKAGES") into $PYTHON_ENV"
    python3 -m venv --clear "$PYTHON_ENV"
    "$PYTHON_ENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --require-hashes --only-binary :all: --requirement "$PYTHON_PACKAGES"
    # Last, so that an installation that was cut off is done again.
    cp "$PYTHON_PACKAGES" "$PYTHON_ENV/installed.txt"
}
