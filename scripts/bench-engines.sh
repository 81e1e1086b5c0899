#!/usr/bin/env bash
# Measures durable publishes on each backend in one run: the log embedded, and on Kafka, with the index of
# rooms embedded and on (a double of) TiKV; beside them bare produces of as many messages with the same
# client, Kafka's own producer benchmark, and the log without a server beside bare produces of the same
# bytes. Starts the engines, one broker, on this machine.
#
#   scripts/bench-engines.sh [ROUNDS]     rounds of each, 3 unless said; the median of each figure is shown
#
# DURATION is how many seconds each is measured (5), PROFILE the cargo profile (dist, which is shipped).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh
# shellcheck source=scripts/engines/all.sh
. scripts/engines/all.sh
need python3 "sudo apt-get install -y python3"

rounds=${1:-3}
duration=${DURATION:-5}
profile=${PROFILE:-dist}
target=${CARGO_TARGET_DIR:-target}
scripts/install-build-deps.sh --engines
scripts/install-engines.sh kafka postgres redis tikv
scripts/console.sh --if-missing
cargo build --profile "$profile" --locked -p gb6 --features engines
cargo build --profile "$profile" --locked -p gb6-region-stores-kafka --example produce_floor
bin=$target/$profile
[ "$profile" != dev ] || bin=$target/debug

ENGINES_DIR=$(mktemp -d "${TMPDIR:-/tmp}/gb6-bench-XXXXXX")
chmod 755 "$ENGINES_DIR"
end() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    stop_all
    rm -rf "$ENGINES_DIR"
    exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
export GB6_ENGINE_OWNER=$$
ALL_ENGINES=(kafka postgres redis tikv)
start_all
for engine in "${ALL_ENGINES[@]}"; do
    export "GB6_TEST_${engine^^}=${ADDRESS[$engine]}"
done
export GB6_ENGINES_DIR=$ENGINES_DIR/objects
GB6_ENGINES_BIN=$(realpath "$bin/gb6")
export GB6_ENGINES_BIN
mkdir -p "$GB6_ENGINES_DIR"
(umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$GB6_ENGINES_DIR/record.key")
figures=$ENGINES_DIR/figures
mkdir "$figures"

# publish NAME IN_FLIGHT BINARY: one measurement of the whole server.
publish() {
    "$bin/gb6" bench publish --in-flight "$2" --duration "$duration" --gb6 "$3" --json >"$figures/$1-$2-$round.json"
}

# bare IN_FLIGHT: a produce for each publish, without a server.
bare() {
    "$bin/examples/produce_floor" "kafka://$GB6_TEST_KAFKA/bare?replication=1&min_insync=1" bare "$1" "$duration" \
        >"$figures/bare-$1-$round.json"
}

# Kafka's own: as fast as it goes, one producer, every record acknowledged by all.
producer() {
    local topic=perf-$round
    scripts/engine.sh tool kafka TopicCommand --bootstrap-server "$GB6_TEST_KAFKA" --create --topic "$topic" --partitions 4 >/dev/null
    scripts/engine.sh tool kafka ProducerPerformance --topic "$topic" --num-records 300000 --record-size 300 \
        --throughput -1 --producer-props acks=all linger.ms=0 "bootstrap.servers=$GB6_TEST_KAFKA" |
        tail -n 1 >"$figures/producer-$round.txt"
}

for round in $(seq "$rounds"); do
    for in_flight in 1 256; do
        publish embedded "$in_flight" "$bin/gb6"
        GB6_ENGINES_ROOMS=embedded publish kafka "$in_flight" tests/engines/gb6-on-engines
        bare "$in_flight"
        publish kafka-tikv "$in_flight" tests/engines/gb6-on-engines
    done
    producer
done

python3 - "$figures" "$rounds" <<'PY'
import json, re, statistics, sys
from pathlib import Path

figures, rounds = Path(sys.argv[1]), int(sys.argv[2])
print(f"durable publishes of 300 bytes, the median of {rounds} rounds")
print(f"{'backend':12} {'in flight':>9} {'per second':>11} {'p50':>9} {'p99':>9} {'CPU of the server':>18}")
for backend in ("embedded", "kafka", "kafka-tikv"):
    for in_flight in (1, 256):
        found = [json.loads((figures / f"{backend}-{in_flight}-{n}.json").read_text()) for n in range(1, rounds + 1)]
        middle = lambda of: statistics.median(of(one) for one in found)
        cpu = middle(lambda one: sum(share["ns_per_op"] for share in one["cpu"])) / 1000
        print(
            f"{backend:12} {in_flight:9} {middle(lambda o: o['per_s']):11.0f} "
            f"{middle(lambda o: o['latency']['p50_us']):6.0f} us {middle(lambda o: o['latency']['p99_us']):6.0f} us "
            f"{cpu:11.1f} us/op"
        )
for in_flight in (1, 256):
    read = lambda name: [json.loads((figures / f"{name}-{in_flight}-{n}.json").read_text()) for n in range(1, rounds + 1)]
    bare, ours = read("bare"), read("kafka")
    middle = lambda of: statistics.median(of(one, floor) for one, floor in zip(ours, bare))
    print(
        f"bare produces {in_flight:8} {middle(lambda _, b: b['per_s']):11.0f} "
        f"{middle(lambda _, b: b['p50_us']):6.0f} us {middle(lambda _, b: b['p99_us']):6.0f} us {middle(lambda _, b: b['ns_per_op'] / 1000):11.1f} us/op; the server on kafka has "
        f"{100 * middle(lambda o, b: o['per_s'] / b['per_s']):.0f} % of the rate, "
        f"{middle(lambda o, b: o['latency']['p50_us'] / b['p50_us']):.2f} times the p50"
    )
rates, middles = [], []
for n in range(1, rounds + 1):
    text = (figures / f"producer-{n}.txt").read_text()
    rates.append(float(re.search(r"([\d.]+) records/sec", text).group(1)))
    middles.append(float(re.search(r"([\d.]+) ms 50th", text).group(1)))
print(f"Kafka's ProducerPerformance, acks=all: {statistics.median(rates):.0f}/s, p50 {statistics.median(middles):.1f} ms")
PY
echo
echo "The log without a server, beside bare produces with acks=all of the same bytes:"
"$bin/examples/produce_floor" "kafka://$GB6_TEST_KAFKA/floor?replication=1&min_insync=1"
