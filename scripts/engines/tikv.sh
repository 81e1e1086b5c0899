# Sourced by scripts/engine.sh: PD, the real one, and a test double of TiKV behind it; what the double
# is and is not stands in tests/engines/tikv-double/main.go. Three ports: PD's for clients, the store's,
# and PD's for other members.

SPLIT=
TRACE=

engine_options() {
    while [ "$#" -gt 0 ]; do
        case $1 in
        --split)
            SPLIT=${2:-}
            [ -n "$SPLIT" ] || fail "--split needs keys in hex, with commas between"
            shift
            ;;
        --trace) TRACE=--trace ;;
        *) fail "tikv has no option $1" ;;
        esac
        shift
    done
}

engine_port_count() {
    echo 3
}

engine_names() {
    echo pd
    echo store
}

# Each writes a file once it serves.
engine_ready() {
    [ -e "$DIR/$1.ready" ]
}

# serve NAME COMMAND...: starts it, unless it runs, and forgets that an earlier one was ready.
serve() {
    local name=$1
    pid_of "$name" >/dev/null || rm -f "$DIR/$name.ready"
    launch "$@" --ready-file "$DIR/$name.ready"
    await "$name"
}

engine_start() {
    have "$ENGINE_HOME/pd/pd"
    have "$ENGINE_HOME/tikv-double/tikv-double"
    serve pd "$ENGINE_HOME/pd/pd" --data-dir "$DIR/pd-data" --port "$(port 1)" --peer-port "$(port 3)" \
        --advertised "$(address_of 1)"
    serve store "$ENGINE_HOME/tikv-double/tikv-double" --data-dir "$DIR/store-data" --port "$(port 2)" \
        --pd "127.0.0.1:$(port 1)" --advertised "$(address_of 2)" --split "$SPLIT" \
        ${TRACE:+"$TRACE"}
}

engine_address() {
    address_of 1
}
