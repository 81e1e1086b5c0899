# Sourced by scripts/test-engines.sh and scripts/engines.sh: starts every engine, each in a directory of
# its own below ENGINES_DIR, and stops them. Says in ADDRESS what each is reached by.

ALL_ENGINES=(kafka postgres redis tikv s3)
declare -A ADDRESS=()

# free_ports COUNT: the first of so many ports in a row where nothing listens, outside the range from
# which the kernel takes ports for outgoing connections.
free_ports() {
    local count=$1 base n tries=0
    base=$((20000 + ($$ * 37 + RANDOM) % 10000))
    while ((tries++ < 200)); do
        for ((n = 0; n < count; n++)); do
            if (exec 3<>"/dev/tcp/127.0.0.1/$((base + n))") 2>/dev/null; then
                base=$((20000 + (base + n + 1 - 20000) % 10000))
                continue 2
            fi
        done
        echo "$base"
        return 0
    done
    echo "error: no $count free ports in a row were found between 20000 and 32000" >&2
    return 1
}

# options_of ENGINE: the options to start it with, from GB6_ENGINE_OPTIONS_KAFKA and the like.
options_of() {
    local name=GB6_ENGINE_OPTIONS_${1^^}
    echo "${!name:-}"
}

# start_all: starts them side by side; ends with the errors of those that do not start.
start_all() {
    local engine ports pids=() names=() status=0 next
    next=$(free_ports 32)
    for engine in "${ALL_ENGINES[@]}"; do
        if [ -e "$ENGINES_DIR/$engine/options" ]; then
            scripts/engine.sh start "$engine" "$ENGINES_DIR/$engine" >"$ENGINES_DIR/$engine.address" &
        else
            # shellcheck disable=SC2046
            ports=$(scripts/engine.sh ports "$engine" $(options_of "$engine"))
            # shellcheck disable=SC2046
            scripts/engine.sh start "$engine" "$ENGINES_DIR/$engine" "$next" $(options_of "$engine") \
                >"$ENGINES_DIR/$engine.address" &
            next=$((next + ports))
        fi
        pids+=("$!")
        names+=("$engine")
    done
    for n in "${!pids[@]}"; do
        if wait "${pids[$n]}"; then
            ADDRESS[${names[$n]}]=$(head -n 1 "$ENGINES_DIR/${names[$n]}.address")
        else
            status=1
        fi
    done
    return "$status"
}

# stop_all: stops them side by side. Nobody to tell is no reason to leave one behind.
stop_all() {
    local engine pids=()
    for engine in "${ALL_ENGINES[@]}"; do
        [ -e "$ENGINES_DIR/$engine/options" ] || continue
        scripts/engine.sh stop "$engine" "$ENGINES_DIR/$engine" &
        pids+=("$!")
    done
    [ "${#pids[@]}" -eq 0 ] || wait "${pids[@]}" || true
}
