#!/usr/bin/env bash
# A mesh on one machine, to watch and to break: geo (g1), a region (r1) and two edges (e1, e2), each
# a process of its own on loopback, with data, certificates, configuration and logs in ./mesh-data.
# A process that ends is started again, so kill any of them:  kill -9 $(cat mesh-data/r1.pid)
#
#   scripts/mesh.sh                start and stay; Ctrl-C stops all
#   scripts/mesh.sh --engines      a region of three nodes (r1, r2, r3) on Kafka, PostgreSQL, Redis and
#                                  TiKV, which are started too, in ./region-data
#   scripts/mesh.sh --no-restart   leave dead what dies
#   scripts/mesh.sh --reset        delete the directory first
#
# GB6_BIN names the binary to use instead of building the development profile. Other ports than the
# usual ones are chosen by G1_HTTP, R1_HTTP, E1_HTTP, E2_HTTP, E1_ADMIN, E2_ADMIN (TCP) and G1_MESH,
# R1_MESH (UDP) and the like, and those of engines by ENGINE_PORTS, their first one, when the directory
# is made; from then on its files say which.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh

restart=true
engines=false
for argument in "$@"; do
    case $argument in
    --no-restart) restart=false ;;
    --reset) reset=true ;;
    --engines) engines=true ;;
    *)
        echo "error: no option $argument; options are: --engines --no-restart --reset" >&2
        exit 2
        ;;
    esac
done

DIR=mesh-data
REGIONS=(r1)
ENGINES=()
FEATURES=()
if [ "$engines" = true ]; then
    DIR=region-data
    REGIONS=(r1 r2 r3)
    ENGINES=(kafka postgres redis tikv)
    FEATURES=(--features engines)
fi
NODES=(g1 "${REGIONS[@]}" e1 e2)
declare -A ROLE=([g1]=geo [r1]=region [r2]=region [r3]=region [e1]=edge [e2]=edge)
declare -A HTTP=([g1]=${G1_HTTP:-7701} [r1]=${R1_HTTP:-7601} [r2]=${R2_HTTP:-7611} [r3]=${R3_HTTP:-7621} [e1]=${E1_HTTP:-8081} [e2]=${E2_HTTP:-8082})
declare -A ADMIN=([e1]=${E1_ADMIN:-7801} [e2]=${E2_ADMIN:-7802})
declare -A MESH=([g1]=${G1_MESH:-7700} [r1]=${R1_MESH:-7600} [r2]=${R2_MESH:-7610} [r3]=${R3_MESH:-7620})
declare -A PID=()

for node in "${NODES[@]}"; do
    # The process id may belong to another program by now.
    if [ -e "$DIR/$node.pid" ] &&
        grep -qs -- "$DIR/$node.toml" "/proc/$(cat "$DIR/$node.pid")/cmdline"; then
        echo "error: $node already runs as process $(cat "$DIR/$node.pid"); end it first: kill $(cat "$DIR/$node.pid")" >&2
        exit 1
    fi
done
if [ "${reset:-false}" = true ]; then
    rm -rf "$DIR"
fi

gb6=${GB6_BIN:-}
if [ -z "$gb6" ]; then
    need cargo "curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    scripts/console.sh --if-missing
    echo "Building gb6 (the first time takes a few minutes)"
    cargo build --locked -p gb6 ${FEATURES[@]+"${FEATURES[@]}"}
    gb6=${CARGO_TARGET_DIR:-target}/debug/gb6
fi

# What is there is kept, so that the mesh comes back as it was and may be edited.
prepare() {
    mkdir -p "$DIR"
    if [ ! -e "$DIR/snapshot.toml" ]; then
        (umask 077 && head -c 32 /dev/urandom | base64 >"$DIR/demo.secret")
        "$gb6" config example snapshot |
            sed "s/127.0.0.1:7700/127.0.0.1:${MESH[g1]}/; s/127.0.0.1:7600/127.0.0.1:${MESH[r1]}/" >"$DIR/snapshot.toml"
        if [ "$engines" = true ]; then
            # The nodes decide among themselves who owns what.
            sed -i 's/^owners = .*/assigned = "region"/' "$DIR/snapshot.toml"
            local more
            for more in "${REGIONS[@]:1}"; do
                printf '\n[nodes.%s]\nroles = ["region"]\nmesh = "127.0.0.1:%s"\nregion = "eu"\n' \
                    "$more" "${MESH[$more]}" >>"$DIR/snapshot.toml"
            done
        fi
    fi
    local key
    for key in record directory; do
        if [ "$engines" = true ] && [ ! -e "$DIR/$key.key" ]; then
            (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$DIR/$key.key")
        fi
    done
    if [ ! -e "$DIR/certs/ca.pem" ]; then
        "$gb6" cert ca "$DIR/certs" >&2
    fi
    local node
    for node in "${NODES[@]}"; do
        if [ ! -e "$DIR/certs/$node.pem" ]; then
            "$gb6" cert node --ca "$DIR/certs" --role "${ROLE[$node]}" --name "$node" >&2
        fi
        if [ ! -e "$DIR/$node.toml" ]; then
            configure "$node" >"$DIR/$node.toml"
        fi
        HTTP[$node]=$(port_in "$DIR/$node.toml" http "${HTTP[$node]}")
        if [ -n "${ADMIN[$node]:-}" ]; then
            ADMIN[$node]=$(port_in "$DIR/$node.toml" admin "${ADMIN[$node]}")
        fi
        if [ -n "${MESH[$node]:-}" ]; then
            MESH[$node]=$(port_in "$DIR/$node.toml" listen "${MESH[$node]}")
        fi
    done
}

# The configuration of a node: what is not here has its default.
configure() {
    local node=$1
    echo "# gb6 config example ${ROLE[$node]} prints every key."
    echo "name = \"$node\""
    echo "http = \"127.0.0.1:${HTTP[$node]}\""
    if [ "$engines" = true ]; then
        echo "data_dir = \"$DIR/$node\""
        [ "$node" != g1 ] || echo "snapshot = \"$DIR/snapshot.toml\""
    fi
    if [ "${ROLE[$node]}" = edge ]; then
        echo "admin = \"127.0.0.1:${ADMIN[$node]}\""
        echo "# The console may make tokens for any name: only on loopback."
        echo "dev_tokens = true"
    fi
    echo
    echo "[mesh]"
    if [ -n "${MESH[$node]:-}" ]; then
        echo "listen = \"127.0.0.1:${MESH[$node]}\""
    fi
    if [ "$node" != g1 ]; then
        echo "geo = [\"g1@127.0.0.1:${MESH[g1]}\"]"
    fi
    [ "$engines" = true ] || return 0
    local file
    for file in ca:ca.pem "cert:$node.pem" "key:$node.key"; do
        echo "${file%%:*} = \"$DIR/certs/${file#*:}\""
    done
    [ "${ROLE[$node]}" != edge ] || return 0
    echo
    echo "[stores]"
    if [ "$node" = g1 ]; then
        echo "directory = \"${ADDRESS[postgres]/gb6@/node@}\""
        echo "directory_key_file = \"$DIR/directory.key\""
        return
    fi
    # One broker: its death is survived, its machine's is not.
    echo "log = \"kafka://${ADDRESS[kafka]}/gb6?replication=1&min_insync=1\""
    echo "rooms = \"tikv://${ADDRESS[tikv]}\""
    echo "signals = \"${ADDRESS[redis]}\""
    echo "limits = \"${ADDRESS[redis]}\""
    echo "map = \"${ADDRESS[postgres]/gb6@/node@}\""
    echo "blobs = \"file:$DIR/blobs\""
    echo "record_key_file = \"$DIR/record.key\""
}

declare -A ADDRESS=()

# start_engine ENGINE: starts it, or what of it does not run, on its data.
start_engine() {
    local engine=$1 address
    if [ -e "$DIR/engines/$engine/options" ]; then
        address=$(scripts/engine.sh start "$engine" "$DIR/engines/$engine")
    else
        address=$(scripts/engine.sh start "$engine" "$DIR/engines/$engine" "$ENGINE_PORTS")
    fi
    ADDRESS[$engine]=$(head -n 1 <<<"$address")
}

start_engines() {
    [ "${#ENGINES[@]}" -gt 0 ] || return 0
    scripts/install-engines.sh "${ENGINES[@]}"
    # Ended by SIGKILL, this script still leaves no engine behind.
    export GB6_ENGINE_OWNER=$$
    mkdir -p "$DIR/engines"
    ENGINE_PORTS=${ENGINE_PORTS:-20600}
    local engine
    for engine in "${ENGINES[@]}"; do
        start_engine "$engine"
        echo "  $engine  ${ADDRESS[$engine]}  $DIR/engines/$engine"
        ENGINE_PORTS=$((ENGINE_PORTS + 10))
    done
}

# mend_engines: starts again what of the engines has ended.
mend_engines() {
    local engine
    for engine in ${ENGINES[@]+"${ENGINES[@]}"}; do
        if ! scripts/engine.sh status "$engine" "$DIR/engines/$engine" >"$DIR/engines/$engine.status"; then
            echo "$engine: $(grep 'does not run' "$DIR/engines/$engine.status" | tr '\n' ' ')"
            sleep 2
            # One that can not be started now is tried again.
            start_engine "$engine" && echo "$engine runs again" || true
        fi
    done
}

# port_in FILE KEY DEFAULT: the port of the address that KEY has in FILE.
port_in() {
    local port
    port=$(sed -n "s/^$2 *= *\"[^\"]*:\([0-9][0-9]*\)\".*/\1/p" "$1")
    echo "${port:-$3}"
}

# held tcp|udp PORT NODE: ends the script if a process has the port, naming both. Without this, what
# another mesh answers there would pass for ours.
held() {
    local inode fd pid by
    inode=$(awk -v port="$(printf ':%04X$' "$2")" -v table="$1" \
        '$2 ~ port && (table == "udp" || $4 == "0A") { print $10; exit }' \
        "/proc/net/$1" "/proc/net/${1}6" 2>/dev/null || true)
    [ -n "$inode" ] || return 0
    fd=$(find /proc/[0-9]*/fd -maxdepth 1 -lname "socket:\[$inode\]" -print -quit 2>/dev/null || true)
    by="a process that this user may not see"
    if [ -n "$fd" ]; then
        pid=${fd#/proc/}
        pid=${pid%%/*}
        by="process $pid ($(tr '\0' ' ' <"/proc/$pid/cmdline")): end it with \`kill $pid\`"
    fi
    echo "error: port $2 ($1) of $3 is in use by $by, or choose another in $DIR/$3.toml" >&2
    exit 1
}

start() {
    local node=$1
    # In a process group of its own: Ctrl-C reaches this script only, which then ends the nodes in
    # their order.
    set -m
    "$gb6" "${ROLE[$node]}" --config "$DIR/$node.toml" >>"$DIR/$node.log" 2>&1 </dev/null &
    PID[$node]=$!
    set +m
    echo "${PID[$node]}" >"$DIR/$node.pid"
}

# Whether the node answers 200 to /readyz.
is_ready() {
    local line=
    {
        exec 3<>"/dev/tcp/127.0.0.1/${HTTP[$1]}" || return 1
        printf 'GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
        read -r -t 2 line <&3 || true
        exec 3>&-
    } 2>/dev/null
    [[ $line == *" 200 "* ]]
}

wait_ready() {
    local node=$1 deadline=$((SECONDS + 30))
    while true; do
        # First of all: what answers on its port is not it if it has ended.
        if ! kill -0 "${PID[$node]}" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            echo "error: $node is not ready; the end of $DIR/$node.log:" >&2
            tail -n 20 "$DIR/$node.log" >&2
            return 1
        fi
        if is_ready "$node"; then
            break
        fi
        sleep 0.1
    done
    echo "  $node  ${ROLE[$node]}  process ${PID[$node]}  http://127.0.0.1:${HTTP[$node]}  $DIR/$node.log"
}

# stop NODE...: ends them together, and waits for each.
stop() {
    local node status
    for node in "$@"; do
        [ -z "${PID[$node]:-}" ] || kill -TERM "${PID[$node]}" 2>/dev/null || true
    done
    for node in "$@"; do
        [ -n "${PID[$node]:-}" ] || continue
        status=0
        wait "${PID[$node]}" || status=$?
        rm -f "$DIR/$node.pid"
        say "  $node ended with status $status"
    done
}

# The terminal may be gone: nobody to tell is no reason to leave nodes behind.
say() {
    echo "$*" 2>/dev/null || true
}

stop_all() {
    trap '' INT TERM HUP
    trap - EXIT
    say
    say "Stopping; clients are told to reconnect"
    # Edges first: what they have in flight still finds its region.
    stop e1 e2
    stop "${REGIONS[@]}"
    stop g1
    local engine
    for engine in ${ENGINES[@]+"${ENGINES[@]}"}; do
        [ ! -e "$DIR/engines/$engine/options" ] ||
            scripts/engine.sh stop "$engine" "$DIR/engines/$engine" || true
    done
}

trap 'stop_all; exit 0' INT TERM HUP
trap stop_all EXIT
mkdir -p "$DIR"
start_engines
prepare
for node in "${NODES[@]}"; do
    held tcp "${HTTP[$node]}" "$node"
    [ -z "${ADMIN[$node]:-}" ] || held tcp "${ADMIN[$node]}" "$node"
    [ -z "${MESH[$node]:-}" ] || held udp "${MESH[$node]}" "$node"
done
echo "Starting"
for node in "${NODES[@]}"; do
    start "$node"
    wait_ready "$node"
done
cat <<TEXT

Open http://127.0.0.1:${HTTP[e1]} and http://127.0.0.1:${HTTP[e2]}: two edges, one room.
Kill anything and watch:  kill -9 \$(cat $DIR/r1.pid)
Ctrl-C stops the mesh; its data stays in ./$DIR.
TEXT
[ "$engines" = false ] || cat <<TEXT

Customers are in PostgreSQL, beside the instance demo of $DIR/snapshot.toml:
  $gb6 ctl org add Acme --config $DIR/g1.toml
  $gb6 ctl instance add acme --region eu --org ORG --config $DIR/g1.toml
  $gb6 ctl key add acme --config $DIR/g1.toml
TEXT

while true; do
    # A signal that comes in the moment before bash begins to wait is heard when the wait ends: within
    # a second, for which this is here.
    sleep 1 >/dev/null 2>&1 &
    tick=$!
    status=0
    wait -n -p ended || status=$?
    if [ "${ended:-}" = "$tick" ]; then
        [ "$restart" = false ] || mend_engines
        continue
    fi
    kill "$tick" 2>/dev/null || true
    wait "$tick" 2>/dev/null || true
    for node in "${NODES[@]}"; do
        [ "${PID[$node]:-}" = "${ended:-}" ] || continue
        unset "PID[$node]"
        rm -f "$DIR/$node.pid"
        echo "$node ended with status $status"
        if [ "$restart" = true ]; then
            # Long enough to see what the others do without it, and not to spin if it can not start.
            sleep 2
            start "$node"
            echo "$node starts again as process ${PID[$node]}"
        elif [ "${#PID[@]}" -eq 0 ]; then
            exit 1
        fi
    done
done
