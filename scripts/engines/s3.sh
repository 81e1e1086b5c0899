# Sourced by scripts/engine.sh: a test double of S3 (moto), with a journal that lets its buckets outlive
# it. It accepts any key and secret. The address is the endpoint; the bucket is not in it.

BUCKET=gb6

engine_options() {
    while [ "$#" -gt 0 ]; do
        case $1 in
        --bucket)
            BUCKET=${2:-}
            [ -n "$BUCKET" ] || fail "--bucket needs a name"
            shift
            ;;
        *) fail "s3 has no option $1" ;;
        esac
        shift
    done
}

engine_port_count() {
    echo 1
}

engine_names() {
    echo s3
}

engine_ready() {
    local line=
    {
        exec 3<>"/dev/tcp/127.0.0.1/$(port 1)" || return 1
        printf 'GET /%s?location HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$BUCKET" >&3
        read -r -t 2 line <&3 || true
        exec 3>&-
    } 2>/dev/null
    [[ $line == *" 200 "* ]]
}

engine_start() {
    have "$ENGINE_HOME/s3/bin/python"
    launch s3 "$(realpath -s "$ENGINE_HOME/s3/bin/python")" "$PWD/tests/engines/s3/server.py" \
        --port "$(port 1)" --journal "$DIR/journal" --bucket "$BUCKET"
    await s3
}

engine_address() {
    echo "http://$(address_of 1)"
}
