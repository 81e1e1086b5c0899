# Sourced by scripts/engine.sh: Redis, alone or as a cluster of masters. Nothing is written to disk on
# its own account but what a save at a clean end leaves: it is a cache, and is tested as one.

CLUSTER=0
TLS=false
# What clients must say, if anything.
PASSWORD=

engine_options() {
    while [ "$#" -gt 0 ]; do
        case $1 in
        --cluster)
            CLUSTER=${2:-}
            [[ $CLUSTER =~ ^[0-9]+$ ]] && ((CLUSTER >= 3)) || fail "--cluster needs a number of masters, 3 or more"
            shift
            ;;
        --tls) TLS=true ;;
        --password)
            PASSWORD=${2:-}
            [ -n "$PASSWORD" ] || fail "--password needs one"
            shift
            ;;
        *) fail "redis has no option $1" ;;
        esac
        shift
    done
    if [ "$TLS" = true ] && [ "$CLUSTER" -gt 0 ]; then
        fail "redis: --tls and --cluster do not go together here"
    fi
    if [ -n "$PASSWORD" ]; then
        [ "$CLUSTER" -eq 0 ] || fail "redis: --password and --cluster do not go together here"
        # For redis-cli, which would otherwise have it among its arguments.
        export REDISCLI_AUTH=$PASSWORD
    fi
}

# The nodes of a cluster have a second port for each other.
engine_port_count() {
    if [ "$CLUSTER" -gt 0 ]; then
        echo $((2 * CLUSTER))
    elif [ "$TLS" = true ]; then
        echo 2
    else
        echo 1
    fi
}

engine_names() {
    local n
    if [ "$CLUSTER" -eq 0 ]; then
        echo redis
    else
        for ((n = 1; n <= CLUSTER; n++)); do
            echo "redis-$n"
        done
    fi
}

# number NAME: which port is its.
number() {
    local n=${1#redis}
    n=${n#-}
    echo "${n:-1}"
}

run() {
    local name=$1 n
    n=$(number "$name")
    mkdir -p "$DIR/$name"
    set -- redis-server --bind 127.0.0.1 --port "$(port "$n")" --dir "$DIR/$name" \
        --save "" --appendonly no --daemonize no --protected-mode yes
    if [ "$CLUSTER" -gt 0 ]; then
        set -- "$@" --cluster-enabled yes --cluster-config-file nodes.conf --cluster-node-timeout 2000 \
            --cluster-port "$(port $((CLUSTER + n)))"
        [ -z "$ADVERTISED" ] || set -- "$@" --cluster-announce-port "$(address_of "$n" | sed 's/.*://')"
    fi
    if [ "$TLS" = true ]; then
        set -- "$@" --tls-port "$(port 2)" --tls-cert-file "$DIR/tls/server.pem" \
            --tls-key-file "$DIR/tls/server.key" --tls-ca-cert-file "$DIR/tls/ca.pem" --tls-auth-clients no
    fi
    [ -z "$PASSWORD" ] || set -- "$@" --requirepass "$PASSWORD"
    launch "$name" "$@"
}

cli() {
    timeout 2 redis-cli -h 127.0.0.1 -p "$@" 2>/dev/null
}

engine_ready() {
    [ "$(cli "$(port "$(number "$1")")" ping)" = PONG ]
}

cluster_is_ok() {
    local n
    for ((n = 1; n <= CLUSTER; n++)); do
        cli "$(port "$n")" cluster info | grep -q '^cluster_state:ok' || return 1
    done
}

make_cluster() {
    local n nodes=() deadline=$((SECONDS + ENGINE_DEADLINE))
    if [ ! -e "$DIR/cluster" ]; then
        for ((n = 1; n <= CLUSTER; n++)); do
            nodes+=("127.0.0.1:$(port "$n")")
        done
        timeout "$ENGINE_DEADLINE" redis-cli --cluster create "${nodes[@]}" --cluster-yes >"$DIR/cluster.log" 2>&1 ||
            fail "redis: the cluster can not be made: $(tail -n 5 "$DIR/cluster.log")"
        : >"$DIR/cluster"
    fi
    until cluster_is_ok; do
        [ "$SECONDS" -lt "$deadline" ] || fail "redis: the cluster is not ok after $ENGINE_DEADLINE s: $(cli "$(port 1)" cluster info | head -n 1)"
        sleep 0.1
    done
}

engine_start() {
    local name
    have redis-server
    [ "$TLS" = false ] || make_certificates
    for name in $(engine_names); do
        run "$name"
    done
    for name in $(engine_names); do
        await "$name"
    done
    [ "$CLUSTER" -eq 0 ] || make_cluster
}

# With TLS the second line is the port that speaks it.
engine_address() {
    local n all=
    if [ "$CLUSTER" -gt 0 ]; then
        for ((n = 1; n <= CLUSTER; n++)); do
            all+=${all:+,}$(address_of "$n")
        done
        echo "redis+cluster://$all"
    else
        echo "redis://$(address_of 1)"
        [ "$TLS" = false ] || echo "rediss://$(address_of 2)"
    fi
}
