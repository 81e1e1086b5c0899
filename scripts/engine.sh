#!/usr/bin/env bash
# Starts, stops and shows one engine on 127.0.0.1, without containers, with its data in a directory.
#
#   scripts/engine.sh start ENGINE DIR PORT[,PORT...] [OPTION...]
#   scripts/engine.sh start ENGINE DIR       again, as it was: what does not run is started, on its data
#   scripts/engine.sh stop ENGINE DIR [NAME...]      all of its processes, or those
#   scripts/engine.sh status ENGINE DIR      its processes, and 0 if all of them run
#   scripts/engine.sh address ENGINE DIR     how clients reach it
#   scripts/engine.sh promote postgres DIR   its replica becomes a primary; the primary must be gone
#   scripts/engine.sh ports ENGINE [OPTION...]       how many ports it needs
#   scripts/engine.sh tool kafka NAME [ARGUMENT...]  a tool of Kafka: TopicCommand, ProducerPerformance
#
# ENGINE and its options; those of the first start are kept in DIR and hold for the later ones:
#   all       --advertised HOST:PORT,... (how clients reach it, where not on its ports: through proxies;
#             an engine that tells clients where it is tells them this: each broker, PD and the store)
#   kafka     --brokers N (1), --peers-advertised (brokers reach each other as advertised, too), --tls (two
#             further ports: over TLS with certificates on both sides, and over TLS with a login), --acl
#             (beside --tls: who comes there may do only what `tool kafka AclCommand` has given to the user)
#   postgres  --replica (a second server that follows the first), --synchronous (a commit waits for it),
#             --tls (for those who ask for it, and a login)
#   redis     --cluster N (masters, 3 or more), --tls (a second port that speaks TLS), --password TEXT
#   tikv      --split KEY,... (first keys of further regions, in hex), --trace (the store's log has what is
#             done to transactions)
#   s3        --bucket NAME (gb6)
#
# Of what speaks TLS, the authority is DIR/tls/ca.pem and a client's certificate DIR/tls/client.pem, with
# its key in client.key; other-ca.pem and other-client.pem are of an authority that the engine does not know.
# Logins are those of the user `guarded`, whose password is `open sesame`.
#
# With GB6_ENGINE_OWNER=PID the engine is stopped when that process has ended, however it ends. With
# fewer ports than needed the others are those after the last one. DIR/pid has a line for each process
# (name, process id, start), DIR/NAME.log its log. `start` prints what `address` does once the engine
# answers, and ends with its last log lines if it does not within GB6_ENGINE_DEADLINE seconds.
set -euo pipefail
CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=scripts/engines/common.sh
. scripts/engines/common.sh

usage() {
    sed -n '/^#   /s/^# *//p' "$0" >&2
    exit 2
}

[ "$#" -ge 2 ] || usage
COMMAND=$1
ENGINE=$2
shift 2
case $ENGINE in
kafka | postgres | redis | tikv | s3) ;;
*) fail "no engine $ENGINE; engines are: kafka postgres redis tikv s3" ;;
esac
# shellcheck source=/dev/null
. "scripts/engines/$ENGINE.sh"

# options OPTION...: those of all engines here, the others by the engine's own file.
options() {
    local own=()
    ADVERTISED=
    while [ "$#" -gt 0 ]; do
        if [ "$1" = --advertised ]; then
            ADVERTISED=${2:-}
            [ -n "$ADVERTISED" ] || fail "--advertised needs HOST:PORT, several with commas between"
            shift
        else
            own+=("$1")
        fi
        shift
    done
    engine_options ${own[@]+"${own[@]}"}
}

# keep: starts a process that stops the engine once its owner has ended.
keep() {
    local start
    start=$(started_at "$GB6_ENGINE_OWNER") || fail "GB6_ENGINE_OWNER: there is no process $GB6_ENGINE_OWNER"
    # 9 is the lock.
    setsid "$PWD/scripts/engine.sh" keep "$ENGINE" "$DIR" "$GB6_ENGINE_OWNER" "$start" \
        </dev/null >/dev/null 2>&1 9>&- &
    echo "$! $(started_at "$!")" >"$DIR/keeper"
}

# unkeep: ends that process; one of an earlier owner would stop what a later one started.
unkeep() {
    local pid start
    if read -r pid start 2>/dev/null <"$DIR/keeper" && [ "$(started_at "$pid")" = "$start" ]; then
        kill -- -"$pid" 2>/dev/null || true
    fi
    rm -f "$DIR/keeper"
}

case $COMMAND in
ports)
    options "$@"
    engine_port_count
    exit 0
    ;;
tool)
    declare -F engine_tool >/dev/null || fail "$ENGINE has no tools here"
    engine_tool "$@"
    exit 0
    ;;
start | stop | status | address | promote | keep) ;;
*) usage ;;
esac

[ "$#" -ge 1 ] || usage
DIR=$(cd "$CALLED_FROM" && realpath -m "$1")
shift

# known: reads the engine's ports and options from DIR.
known() {
    [ -e "$DIR/options" ] || fail "no $ENGINE was started in $DIR: name its port"
    [ "$(cat "$DIR/engine")" = "$ENGINE" ] || fail "$DIR holds $(cat "$DIR/engine"), not $ENGINE"
    mapfile -t OPTIONS <"$DIR/options"
    read -r -a PORTS <"$DIR/ports"
    options ${OPTIONS[@]+"${OPTIONS[@]}"}
}

case $COMMAND in
# What `keep` starts.
keep)
    while [ "$(started_at "$1")" = "$2" ]; do
        sleep 0.5
    done
    known
    mapfile -t names < <(engine_names)
    finish "${names[@]}"
    ;;
start)
    mkdir -p "$DIR"
    # Two starts at once would make its data twice.
    exec 9>"$DIR/lock"
    flock -w "$ENGINE_DEADLINE" 9 || fail "another start of $DIR is still at work"
    if [ "$#" -gt 0 ]; then
        [ ! -e "$DIR/options" ] || fail "$DIR has an engine already: start it with scripts/engine.sh start $ENGINE $DIR"
        IFS=, read -r -a PORTS <<<"$1"
        shift
        options "$@"
        needed=$(engine_port_count)
        while [ "${#PORTS[@]}" -lt "$needed" ]; do
            PORTS+=("$((${PORTS[-1]} + 1))")
        done
        for port in "${PORTS[@]}"; do
            [[ $port =~ ^[0-9]+$ ]] && ((port > 0 && port < 65536)) || fail "$port is no port"
            ! answers "$port" || fail "port $port is in use; choose another for $ENGINE"
        done
        echo "$ENGINE" >"$DIR/engine"
        echo "${PORTS[*]}" >"$DIR/ports"
        [ "$#" -eq 0 ] || printf '%s\n' "$@" >"$DIR/options"
        [ "$#" -gt 0 ] || : >"$DIR/options"
    fi
    known
    unkeep
    [ -z "${GB6_ENGINE_OWNER:-}" ] || keep
    engine_start
    engine_address | tee "$DIR/address"
    ;;
stop)
    known
    if [ "$#" -eq 0 ]; then
        unkeep
        mapfile -t names < <(engine_names)
        set -- "${names[@]}"
    fi
    finish "$@"
    ;;
status)
    known
    all=0
    for name in $(engine_names); do
        if pid=$(pid_of "$name"); then
            echo "$name runs as process $pid"
        else
            echo "$name does not run"
            all=1
        fi
    done
    exit "$all"
    ;;
address)
    known
    engine_address
    ;;
promote)
    declare -F engine_promote >/dev/null || fail "$ENGINE has nothing to promote"
    known
    engine_promote
    ;;
esac
