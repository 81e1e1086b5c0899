#!/usr/bin/env bash
# Installs the engines that regions run on, for tests and development, where they are missing (Debian
# 12, as root or with sudo): PostgreSQL and Redis as packages; Apache Kafka as libraries through Maven;
# PD and the test double of TiKV, built with Go; the test double of S3 in a Python environment. What is
# no package goes below target/engines.
#
#   scripts/install-engines.sh [ENGINE...]    only these: kafka postgres redis tikv s3
#   scripts/install-engines.sh --list         only print what is missing
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/apt.sh
. scripts/apt.sh
# shellcheck source=scripts/go.sh
. scripts/go.sh
# shellcheck source=scripts/python.sh
. scripts/python.sh

ENGINES=(kafka postgres redis tikv s3)
ENGINE_HOME=${CARGO_TARGET_DIR:-target}/engines
JAVA_VERSION=17

list=false
if [ "${1:-}" = --list ]; then
    list=true
    shift
fi
[ "$#" -gt 0 ] || set -- "${ENGINES[@]}"

# Each line: an engine, a command or file that shows that the package is there, and the package.
packages() {
    cat <<'LIST'
kafka java openjdk-17-jre-headless
kafka mvn maven
postgres /usr/lib/postgresql/*/bin/initdb postgresql
postgres setpriv util-linux
redis redis-server redis-server
redis openssl openssl
tikv python3 python3-venv
s3 python3 python3-venv
LIST
}

# java_is_old: whether the installed Java can not run this Kafka.
java_is_old() {
    local version
    version=$(java -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p')
    [ -z "$version" ] || ((version < JAVA_VERSION))
}

# there FILE COMMAND_OR_PATTERN
there() {
    case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

# same STAMP FILE...: whether what STAMP tells of was made from these files as they are.
same() {
    local stamp=$1
    shift
    [ -e "$stamp" ] && [ "$(cat -- "$@" | sha256sum)" = "$(cat "$stamp")" ]
}

# Last of all, so that an installation that was cut off is done again.
made() {
    local stamp=$1
    shift
    cat -- "$@" | sha256sum >"$stamp"
}

KAFKA_FILES=(tests/engines/kafka/pom.xml)
S3_FILES=(tests/engines/s3/requirements.txt)
mapfile -t PD_FILES < <(find tests/engines/pd -type f 2>/dev/null | sort)
mapfile -t TIKV_FILES < <(find tests/engines/tikv-double -type f 2>/dev/null | sort)

# installed NAME: whether what is no package is there, as the repository wants it.
installed() {
    case $1 in
    kafka) same "$ENGINE_HOME/kafka/made" "${KAFKA_FILES[@]}" ;;
    tikv) same "$ENGINE_HOME/pd/made" "${PD_FILES[@]}" && same "$ENGINE_HOME/tikv-double/made" "${TIKV_FILES[@]}" ;;
    s3) same "$ENGINE_HOME/s3/made" "${S3_FILES[@]}" ;;
    *) true ;;
    esac
}

install_kafka() {
    echo "Installing Apache Kafka into $ENGINE_HOME/kafka"
    rm -rf "$ENGINE_HOME/kafka"
    mkdir -p "$ENGINE_HOME/kafka"
    mvn --batch-mode --quiet --file tests/engines/kafka/pom.xml dependency:copy-dependencies \
        -DoutputDirectory="$(realpath "$ENGINE_HOME")/kafka/libs"
    made "$ENGINE_HOME/kafka/made" "${KAFKA_FILES[@]}"
}

# build_go NAME FILE...: builds tests/engines/NAME.
build_go() {
    local name=$1 out
    shift
    if same "$ENGINE_HOME/$name/made" "$@"; then
        return
    fi
    echo "Building $name into $ENGINE_HOME/$name"
    rm -rf "${ENGINE_HOME:?}/$name"
    mkdir -p "$ENGINE_HOME/$name"
    out=$(realpath "$ENGINE_HOME/$name")/$name
    # Only what go.sum names; without symbols, which makes it link in half the time.
    (cd "tests/engines/$name" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly \
        go build -trimpath -ldflags="-s -w" -tags without_dashboard -o "$out" .)
    made "$ENGINE_HOME/$name/made" "$@"
}

install_tikv() {
    local problem
    go_install
    problem=$(go_problem)
    if [ -n "$problem" ]; then
        echo "error: $problem; install version $GO_VERSIONS from https://go.dev/dl" >&2
        exit 1
    fi
    build_go pd "${PD_FILES[@]}"
    build_go tikv-double "${TIKV_FILES[@]}"
}

install_s3() {
    echo "Installing moto into $ENGINE_HOME/s3"
    python3 -m venv --clear "$ENGINE_HOME/s3"
    "$ENGINE_HOME/s3/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --require-hashes --only-binary :all: --requirement "${S3_FILES[0]}"
    made "$ENGINE_HOME/s3/made" "${S3_FILES[@]}"
}

missing=()
for engine in "$@"; do
    [[ " ${ENGINES[*]} " == *" $engine "* ]] || {
        echo "error: no engine $engine; engines are: ${ENGINES[*]}" >&2
        exit 2
    }
    while read -r of shows package; do
        [ "$of" = "$engine" ] || continue
        there "$shows" || [[ " ${missing[*]-} " == *" $package "* ]] || missing+=("$package")
    done < <(packages)
done
if [[ " $* " == *" kafka "* ]] && command -v java >/dev/null 2>&1 && java_is_old; then
    missing+=(openjdk-17-jre-headless)
fi
if [[ " $* " == *" s3 "* ]] && [ -n "$(python_problem)" ]; then
    missing+=(python3 python3-venv)
fi

if [ "$list" = true ]; then
    for engine in "$@"; do
        installed "$engine" || missing+=("$engine")
    done
    echo "${missing[*]-}"
    exit 0
fi

# Debian makes and starts a database, and starts a Redis, on installing them; tests start their own.
if [[ " ${missing[*]-} " == *" postgresql "* ]]; then
    apt_install postgresql-common
    echo "create_main_cluster = false" | as_root tee -a /etc/postgresql-common/createcluster.conf >/dev/null
fi
apt_install ${missing[@]+"${missing[@]}"}
if [[ " ${missing[*]-} " == *" redis-server "* ]] && [ -d /run/systemd/system ]; then
    as_root systemctl disable --now redis-server.service
fi

for engine in "$@"; do
    if ! installed "$engine"; then
        start=$SECONDS
        "install_$engine"
        echo "$engine is installed, in $((SECONDS - start)) s"
    fi
done
