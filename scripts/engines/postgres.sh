# Sourced by scripts/engine.sh: PostgreSQL, alone or with a replica that follows it. Everything is
# synced as by default (fsync is on): what was committed survives.

REPLICA=false
SYNCHRONOUS=false
TLS=false
# The database, and the user who owns it and everything else; anybody on loopback is trusted.
PG_NAME=gb6
# A user for nodes, whom row-level security binds.
PG_NODE=node
# Asked for last: Debian puts the server's programs there.
PG_BIN=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
# Fast shutdown: sessions are ended, and the data is left clean.
ENGINE_STOP_SIGNAL=INT
# It refuses to run as root.
RUN_AS=postgres

engine_options() {
    while [ "$#" -gt 0 ]; do
        case $1 in
        --replica) REPLICA=true ;;
        --synchronous) SYNCHRONOUS=true ;;
        --tls) TLS=true ;;
        *) fail "postgres has no option $1" ;;
        esac
        shift
    done
    if [ "$SYNCHRONOUS" = true ] && [ "$REPLICA" = false ]; then
        fail "postgres: --synchronous needs --replica: a commit would wait for ever"
    fi
}

engine_port_count() {
    if [ "$REPLICA" = true ]; then echo 2; else echo 1; fi
}

engine_names() {
    echo primary
    [ "$REPLICA" = false ] || echo replica
}

# as_user COMMAND...: as the user of the server.
as_user() {
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid="$RUN_AS" --regid="$RUN_AS" --init-groups -- "$@"
    else
        "$@"
    fi
}

own() {
    if [ "$(id -u)" -eq 0 ]; then
        chown "$RUN_AS:" "$1"
        as_user test -r "$1" ||
            fail "postgres: the user $RUN_AS can not reach $1; choose a directory below one that everybody may enter, such as /tmp"
    fi
}

# No socket in a directory: its path may be longer than a socket's may be.
settings() {
    cat <<SETTINGS
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 64MB
wal_level = replica
max_wal_senders = 5
max_replication_slots = 5
hot_standby = on
# 'r1' is the replica's application_name in its primary_conninfo.
synchronous_standby_names = '$([ "$SYNCHRONOUS" = false ] || echo r1)'
log_min_messages = warning
SETTINGS
}

# The server wants its key for itself. Of the rules for logins the first that fits holds.
prepare_tls() {
    local data=$1 file
    make_certificates
    for file in server.pem server.key; do
        install -m 600 "$DIR/tls/$file" "$data/$file"
        own "$data/$file"
    done
    # 127.0.0.2 is an address that the certificate does not name.
    cat >>"$data/postgresql.conf" <<SETTINGS
listen_addresses = '127.0.0.1, 127.0.0.2'
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
SETTINGS
    {
        echo "host all $LOGIN_USER 127.0.0.0/8 scram-sha-256"
        cat "$data/pg_hba.conf"
    } >"$DIR/pg_hba.conf"
    # Into the file that is there, which keeps its owner.
    cat "$DIR/pg_hba.conf" >"$data/pg_hba.conf"
}

prepare_primary() {
    local data=$DIR/primary
    [ ! -e "$data/gb6-prepared" ] || return 0
    rm -rf "$data"
    mkdir -m 700 "$data"
    own "$data"
    # The path of initdb's own programs, not of what the PATH has.
    as_user "$PG_BIN/initdb" -D "$data" -U "$PG_NAME" -A trust --encoding UTF8 --locale C.UTF-8 \
        --no-instructions >"$DIR/initdb.log" 2>&1 ||
        fail "postgres: initdb failed: $(tail -n 5 "$DIR/initdb.log")"
    settings >>"$data/postgresql.conf"
    [ "$TLS" = false ] || prepare_tls "$data"
    touch "$data/gb6-prepared"
    own "$data/gb6-prepared"
}

prepare_replica() {
    local data=$DIR/replica
    [ ! -e "$data/gb6-prepared" ] || return 0
    rm -rf "$data"
    mkdir -m 700 "$data"
    own "$data"
    as_user "$PG_BIN/pg_basebackup" -D "$data" -X stream --checkpoint=fast -R -C -S r1 \
        -d "host=127.0.0.1 port=$(port 1) user=$PG_NAME application_name=r1" >"$DIR/basebackup.log" 2>&1 ||
        fail "postgres: pg_basebackup failed: $(tail -n 5 "$DIR/basebackup.log")"
    # It came along from the primary.
    [ -e "$data/gb6-prepared" ] || touch "$data/gb6-prepared"
}

# in_use DATA: whether a process of a server works there; each of them does so as its directory.
in_use() {
    local cwd
    for cwd in /proc/[0-9]*/cwd; do
        [ "$(readlink "$cwd" 2>/dev/null)" != "$1" ] || return 0
    done
    return 1
}

# After a server was killed its sessions take a moment to see it, and its file with a process id stays.
serve() {
    local name=$1 deadline=$((SECONDS + ENGINE_STOP_DEADLINE))
    if ! pid_of "$name" >/dev/null; then
        while in_use "$DIR/$name"; do
            [ "$SECONDS" -lt "$deadline" ] || fail "postgres: processes of an earlier server still work in $DIR/$name"
            sleep 0.05
        done
        rm -f "$DIR/$name/postmaster.pid"
    fi
    launch "$name" "$PG_BIN/postgres" -D "$DIR/$name" -p "$2"
}

engine_ready() {
    local n=1
    [ "$1" = primary ] || n=2
    "$PG_BIN/pg_isready" -q -t 2 -h 127.0.0.1 -p "$(port "$n")" -U "$PG_NAME" -d postgres
}

# sql_on N ARGUMENT...: psql on the primary, 1, or the replica, 2.
sql_on() {
    local n=$1
    shift
    PGCONNECT_TIMEOUT=5 "$PG_BIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$(port "$n")" -U "$PG_NAME" "$@"
}

sql() {
    sql_on 1 "$@"
}

# Two that take writes could not be told apart by who starts then: the old one must be gone first.
engine_promote() {
    [ "$REPLICA" = true ] || fail "postgres: there is no replica in $DIR: start it with --replica"
    ! pid_of primary >/dev/null || fail "postgres: the primary in $DIR still runs; stop it first"
    # What waited for a standby would wait for ever.
    sql_on 2 -d postgres -c "select pg_promote(true, 30)" >/dev/null
    sql_on 2 -d postgres -c "alter system set synchronous_standby_names = ''"
    sql_on 2 -d postgres -c "select pg_reload_conf()" >/dev/null
}

engine_start() {
    [ -n "$PG_BIN" ] || fail "postgres: no server is installed; install it with: scripts/install-engines.sh postgres"
    own "$DIR"
    prepare_primary
    serve primary "$(port 1)"
    await primary
    if [ "$REPLICA" = true ]; then
        prepare_replica
        serve replica "$(port 2)"
        await replica
    fi
    # A primary that was replaced by its replica answers as a standby, or has the database.
    if ! sql -d "$PG_NAME" -c "select 1" >/dev/null 2>&1; then
        sql -d postgres -c "create role $PG_NODE login" -c "create database $PG_NAME" >/dev/null
        sql -d "$PG_NAME" -c "grant all on database $PG_NAME to $PG_NODE" \
            -c "grant all on schema public to $PG_NODE" >/dev/null
        [ "$TLS" = false ] || sql -d postgres -c "create role $LOGIN_USER login password '$LOGIN_PASSWORD'" \
            -c "create database $LOGIN_USER owner $LOGIN_USER" >/dev/null
    fi
}

# With a replica the second line is its address.
engine_address() {
    echo "postgres://$PG_NAME@$(address_of 1)/$PG_NAME"
    [ "$REPLICA" = false ] || echo "postgres://$PG_NAME@$(address_of 2)/$PG_NAME"
}
