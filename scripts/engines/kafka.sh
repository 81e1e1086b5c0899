# Sourced by scripts/engine.sh: Apache Kafka (KRaft), one broker or several, each also a controller.
# A broker has three ports: for clients (as advertised), for the other brokers, for controllers. With --tls
# it has two more for clients: TLS with certificates on both sides, and TLS with a login. With --acl these
# may do what AclCommand has given them, and who comes to the others everything.

BROKERS=1
TLS=false
ACL=false
PEERS_ADVERTISED=false

KAFKA_LIBS=$ENGINE_HOME/kafka/libs
# Small, since tests run several beside everything else.
KAFKA_JVM=(-Xms128m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+ExitOnOutOfMemoryError
    -Djava.awt.headless=true -Dorg.slf4j.simpleLogger.showDateTime=true
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS"
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
# When all end at once, the last ones have no controller left to ask.
ENGINE_STOP_DEADLINE=5

engine_options() {
    while [ "$#" -gt 0 ]; do
        case $1 in
        --brokers)
            BROKERS=${2:-}
            [[ $BROKERS =~ ^[1-9][0-9]?$ ]] || fail "--brokers needs a number of brokers"
            shift
            ;;
        --tls) TLS=true ;;
        --acl) ACL=true ;;
        --peers-advertised) PEERS_ADVERTISED=true ;;
        *) fail "kafka has no option $1" ;;
        esac
        shift
    done
    [ "$ACL" = false ] || [ "$TLS" = true ] || fail "--acl is about logins: it goes with --tls"
}

# Clients' ports first, so that these are the ones to name.
engine_port_count() {
    if [ "$TLS" = true ]; then echo $((5 * BROKERS)); else echo $((3 * BROKERS)); fi
}

engine_names() {
    local n
    for ((n = 1; n <= BROKERS; n++)); do
        echo "broker-$n"
    done
}

# java_run CLASS ARGUMENT...: a program of Kafka, in the foreground.
java_run() {
    java "${KAFKA_JVM[@]}" -cp "$KAFKA_LIBS/*" "$@"
}

engine_tool() {
    local name=${1:-}
    [ -n "$name" ] || fail "which tool of Kafka, such as TopicCommand?"
    shift
    have java
    have "$KAFKA_LIBS"
    # In place of the script, so that whoever ends it ends the tool.
    exec java "${KAFKA_JVM[@]}" -cp "$KAFKA_LIBS/*" "org.apache.kafka.tools.$name" "$@"
}

# How the listeners TLS and LOGIN know their clients. A keystore in PEM begins with its key.
secure_properties() {
    local scram=org.apache.kafka.common.security.scram.ScramLoginModule
    local plain=org.apache.kafka.common.security.plain.PlainLoginModule
    cat <<PROPERTIES
ssl.keystore.type=PEM
ssl.keystore.location=$DIR/tls/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$DIR/tls/ca.pem
listener.name.tls.ssl.client.auth=required
listener.name.login.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.login.plain.sasl.jaas.config=$plain required user_$LOGIN_USER="$LOGIN_PASSWORD";
listener.name.login.scram-sha-256.sasl.jaas.config=$scram required;
listener.name.login.scram-sha-512.sasl.jaas.config=$scram required;
PROPERTIES
}

# Who is not asked for a name is ANONYMOUS: brokers, controllers, and who has to set things up.
acl_properties() {
    cat <<PROPERTIES
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
PROPERTIES
}

# peer N: where brokers and controllers reach that port of one of them.
peer() {
    if [ "$PEERS_ADVERTISED" = true ]; then address_of "$1"; else echo "127.0.0.1:$(port "$1")"; fi
}

# The session is shorter than by default (9 s), which a broker that was killed waits for before it comes
# back.
properties() {
    local n=$1 i copies in_sync=1 voters="" secure="" advertised=""
    copies=$((BROKERS < 3 ? BROKERS : 3))
    ((copies < 3)) || in_sync=2
    for ((i = 1; i <= BROKERS; i++)); do
        voters+=${voters:+,}$i@$(peer $((2 * BROKERS + i)))
    done
    if [ "$TLS" = true ]; then
        secure=",TLS://127.0.0.1:$(port $((3 * BROKERS + n))),LOGIN://127.0.0.1:$(port $((4 * BROKERS + n)))"
        advertised=",TLS://$(address_of $((3 * BROKERS + n))),LOGIN://$(address_of $((4 * BROKERS + n)))"
        secure_properties
    fi
    [ "$ACL" = false ] || acl_properties
    cat <<PROPERTIES
process.roles=broker,controller
node.id=$n
controller.quorum.voters=$voters
listeners=CLIENT://127.0.0.1:$(port "$n"),INTERNAL://127.0.0.1:$(port $((BROKERS + n))),CONTROLLER://127.0.0.1:$(port $((2 * BROKERS + n)))$secure
advertised.listeners=CLIENT://$(address_of "$n"),INTERNAL://$(peer $((BROKERS + n))),CONTROLLER://$(peer $((2 * BROKERS + n)))$advertised
listener.security.protocol.map=CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,LOGIN:SASL_SSL
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
log.dirs=$DIR/broker-$n/log
auto.create.topics.enable=false
default.replication.factor=$copies
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$copies
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=$copies
share.coordinator.state.topic.min.isr=$in_sync
group.initial.rebalance.delay.ms=0
num.io.threads=2
num.network.threads=2
background.threads=2
num.recovery.threads.per.data.dir=1
log.cleaner.dedupe.buffer.size=8388608
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
PROPERTIES
}

# A directory is formatted once; the properties are as they were.
prepare() {
    local n=$1 home=$DIR/broker-$1 hash users=()
    [ ! -e "$home/formatted" ] || return 0
    rm -rf "$home"
    mkdir -p "$home"
    properties "$n" >"$home/server.properties"
    if [ "$TLS" = true ]; then
        for hash in 256 512; do
            users+=(--add-scram "SCRAM-SHA-$hash=[name=$LOGIN_USER,password=\"$LOGIN_PASSWORD\"]")
        done
    fi
    java_run kafka.tools.StorageTool format -t "$(cat "$DIR/cluster")" -c "$home/server.properties" \
        ${users[@]+"${users[@]}"} >"$home/format.log" 2>&1 || fail "kafka: $home/log can not be formatted: $(tail -n 5 "$home/format.log")"
    : >"$home/formatted"
}

# Whether a broker answers ApiVersions (key 18, version 0; https://kafka.apache.org/protocol): it opens
# the port of clients only once it serves them.
engine_ready() {
    local bytes
    bytes=$( (
        exec 3<>"/dev/tcp/127.0.0.1/$(port "${1#broker-}")" || exit 1
        printf '\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff' >&3
        timeout 2 head -c 8 <&3 | od -An -tx1 | tr -d ' \n'
    ) 2>/dev/null) || return 1
    # After the length comes the number that the request had.
    [[ $bytes == ????????00000001 ]]
}

engine_start() {
    local name n
    have java
    have "$KAFKA_LIBS"
    # 16 random bytes as Kafka writes them, in base64 without padding, and without its two signs, one of
    # which would make an option of it.
    [ -e "$DIR/cluster" ] ||
        head -c 16 /dev/urandom | base64 | tr '+/' 'ab' | tr -d '=\n' >"$DIR/cluster"
    if [ "$TLS" = true ]; then
        make_certificates
        cat "$DIR/tls/server.key" "$DIR/tls/server.pem" >"$DIR/tls/keystore.pem"
    fi
    for name in $(engine_names); do
        n=${name#broker-}
        prepare "$n"
        launch "$name" java "${KAFKA_JVM[@]}" -cp "$KAFKA_LIBS/*" kafka.Kafka "$DIR/$name/server.properties"
    done
    # They need one another: none is ready before most of them run.
    for name in $(engine_names); do
        await "$name"
    done
}

# With --tls the second line are the listeners with certificates, the third those with logins.
engine_address() {
    local n kind all kinds=(0)
    [ "$TLS" = false ] || kinds+=(3 4)
    for kind in "${kinds[@]}"; do
        all=
        for ((n = 1; n <= BROKERS; n++)); do
            all+=${all:+,}$(address_of $((kind * BROKERS + n)))
        done
        echo "$all"
    done
}
