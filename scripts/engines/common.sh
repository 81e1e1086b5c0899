# Sourced by scripts/engine.sh: the processes of an engine, each with a line in DIR/pid
# (`NAME PID START`), a log DIR/NAME.log, and a deadline on being ready.
#
# An engine's own file defines engine_options, engine_names, engine_port_count, engine_start,
# engine_ready and engine_address; what it may call is here.

# How long an engine may take to be ready, and to end before it is killed; seconds.
ENGINE_DEADLINE=${GB6_ENGINE_DEADLINE:-90}
ENGINE_STOP_DEADLINE=20
# What asks an engine to end.
ENGINE_STOP_SIGNAL=TERM
# Who may log in where an engine asks for it.
# shellcheck disable=SC2034
LOGIN_USER=guarded LOGIN_PASSWORD="open sesame"
# Where scripts/install-engines.sh puts what Debian has no package of.
ENGINE_HOME=$PWD/target/engines
[ -z "${CARGO_TARGET_DIR:-}" ] || ENGINE_HOME=$(realpath -m "$CARGO_TARGET_DIR")/engines

fail() {
    echo "error: $*" >&2
    exit 1
}

# started_at PID: when the process began, in ticks since the machine's start; fails if there is none.
# With it a process id that was given to another process is not taken for ours.
started_at() {
    local stat=
    # To the end of the file, which read calls a failure.
    read -r -d '' stat 2>/dev/null <"/proc/$1/stat" || [ -n "$stat" ] || return 1
    # The command's name, in brackets, may contain anything.
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- $stat
    # A zombie has ended, only its parent has not looked yet; but while it has further threads, these
    # still hold its sockets and files.
    [ "$1" != Z ] || [ "${18}" -gt 1 ] || return 1
    echo "${20}"
}

# pid_of NAME: the process of that name, if it runs.
pid_of() {
    local name pid start
    [ -e "$DIR/pid" ] || return 1
    while read -r name pid start; do
        if [ "$name" = "$1" ]; then
            [ "$(started_at "$pid")" = "$start" ] || return 1
            echo "$pid"
            return 0
        fi
    done <"$DIR/pid"
    return 1
}

# forget NAME: takes its line out of DIR/pid.
forget() {
    [ -e "$DIR/pid" ] || return 0
    grep -v "^$1 " "$DIR/pid" >"$DIR/pid.new" || true
    mv "$DIR/pid.new" "$DIR/pid"
}

# launch NAME COMMAND...: starts a process of the engine, unless it runs. It outlives this script and
# hears nothing of a Ctrl-C. With RUN_AS set, it runs as that user.
launch() {
    local name=$1 pid start
    shift
    if pid_of "$name" >/dev/null; then
        return 0
    fi
    forget "$name"
    if [ -n "${RUN_AS:-}" ] && [ "$(id -u)" -eq 0 ]; then
        set -- setpriv --reuid="$RUN_AS" --regid="$RUN_AS" --init-groups -- "$@"
    fi
    # exec keeps the process id; 9 is the lock of scripts/engine.sh.
    (
        cd "$DIR"
        exec setsid "$@" </dev/null >>"$DIR/$name.log" 2>&1 9>&-
    ) &
    pid=$!
    start=$(started_at "$pid") || fail "$ENGINE: $name ended at once; the end of $DIR/$name.log:
$(tail -n 20 "$DIR/$name.log")"
    echo "$name $pid $start" >>"$DIR/pid"
}

# await NAME: waits until engine_ready NAME says yes; ends the script if the process ends or the
# deadline passes.
await() {
    local name=$1 deadline=$((SECONDS + ENGINE_DEADLINE))
    while true; do
        # First of all: what answers on its port is not it if it has ended.
        if ! pid_of "$name" >/dev/null; then
            fail "$ENGINE: $name ended before it was ready; the end of $DIR/$name.log:
$(tail -n 20 "$DIR/$name.log")"
        fi
        if engine_ready "$name"; then
            return 0
        fi
        if [ "$SECONDS" -ge "$deadline" ]; then
            fail "$ENGINE: $name is not ready after $ENGINE_DEADLINE s (GB6_ENGINE_DEADLINE sets how long it may take); the end of $DIR/$name.log:
$(tail -n 20 "$DIR/$name.log")"
        fi
        sleep 0.1
    done
}

# finish NAME...: asks the processes to end, all at once, waits, and kills what does not.
finish() {
    local name pid deadline=$((SECONDS + ENGINE_STOP_DEADLINE))
    for name in "$@"; do
        pid=$(pid_of "$name") || continue
        kill -s "$ENGINE_STOP_SIGNAL" "$pid" 2>/dev/null || true
        # A paused process hears no signal but this one.
        kill -s CONT "$pid" 2>/dev/null || true
    done
    for name in "$@"; do
        while pid=$(pid_of "$name"); do
            if [ "$SECONDS" -ge "$deadline" ]; then
                echo "warning: $ENGINE: $name did not end within $ENGINE_STOP_DEADLINE s; it is killed" >&2
                kill -s KILL "$pid" 2>/dev/null || true
            fi
            sleep 0.05
        done
        forget "$name"
    done
}

# port N: the port of the engine with that number, from 1 on.
port() {
    echo "${PORTS[$(($1 - 1))]}"
}

# answers PORT: whether something accepts connections there.
answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# have COMMAND or FILE: ends the script unless it is there.
have() {
    if ! command -v "$1" >/dev/null 2>&1 && [ ! -e "$1" ]; then
        fail "$ENGINE: $1 is missing; install it with: scripts/install-engines.sh $ENGINE"
    fi
}

# make_certificates: an authority of the engine's own in DIR/tls/ca.pem, and of it a certificate for
# 127.0.0.1 in server.pem and server.key, and one for a client in client.pem and client.key; and in
# other-ca.pem another authority, with a client's certificate in other-client.pem and other-client.key.
make_certificates() {
    [ ! -e "$DIR/tls/ca.pem" ] || return 0
    have openssl
    mkdir -p "$DIR/tls"
    (
        cd "$DIR/tls"
        # Who runs the engine may be another user; keys are of tests only.
        umask 022
        make_authority "$ENGINE tests" made-ca
        make_leaf made-ca server "subjectAltName=IP:127.0.0.1,DNS:localhost"
        make_leaf made-ca client "extendedKeyUsage=clientAuth"
        make_authority "others" other-ca
        make_leaf other-ca other-client "extendedKeyUsage=clientAuth"
        # Last, so that a start that was cut off makes them again.
        mv made-ca.pem ca.pem
    ) >"$DIR/tls.log" 2>&1 || fail "$ENGINE: no certificates could be made: $(tail -n 5 "$DIR/tls.log")"
}

# make_authority SUBJECT NAME: a certificate that signs others, NAME.pem, and its key, NAME.key.
make_authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$1" \
        -addext basicConstraints=critical,CA:TRUE -keyout "$2.key" -out "$2.pem"
}

# make_leaf AUTHORITY NAME EXTENSION: a certificate of it, NAME.pem, and its key, NAME.key.
make_leaf() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
        -keyout "$2.key" -out "$2.csr"
    openssl x509 -req -in "$2.csr" -CA "$1.pem" -CAkey "$1.key" -CAcreateserial -days 30 -out "$2.pem" \
        -extfile <(echo "$3")
}

# address_of N: where clients reach port N: as advertised, else on loopback.
address_of() {
    local given
    IFS=, read -r -a given <<<"$ADVERTISED"
    echo "${given[$(($1 - 1))]:-127.0.0.1:$(port "$1")}"
}
