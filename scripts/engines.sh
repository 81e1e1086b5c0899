#!/usr/bin/env bash
# Installs and starts every engine that a region can run on, on 127.0.0.1, prints how they are reached,
# and stays; Ctrl-C stops them. Data and logs are in ./engines-data, and are gone on with.
#
#   scripts/engines.sh            start and stay
#   scripts/engines.sh --reset    delete ./engines-data first
#
# GB6_ENGINE_OPTIONS_KAFKA="--brokers 3" and the like give an engine options (scripts/engine.sh) when
# ./engines-data is made.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/engines/all.sh
. scripts/engines/all.sh

case ${1:-} in
"") ;;
--reset) rm -rf engines-data ;;
*)
    echo "error: no option $1; there is: --reset" >&2
    exit 2
    ;;
esac

scripts/install-engines.sh
mkdir -p engines-data
ENGINES_DIR=$PWD/engines-data

end() {
    trap '' INT TERM HUP
    trap - EXIT
    # The terminal may be gone: nobody to tell is no reason to leave engines behind.
    echo "Stopping" 2>/dev/null || true
    [ -z "${tick:-}" ] || kill "$tick" 2>/dev/null || true
    stop_all
    exit "$1"
}
trap 'end 0' INT TERM HUP
trap 'end $?' EXIT
# Ended by SIGKILL, this script still leaves nothing behind.
export GB6_ENGINE_OWNER=$$
echo "Starting"
start_all
brokers=$(tr ',' '\n' <<<"${ADDRESS[kafka]}" | wc -l)
copies=$((brokers < 3 ? brokers : 3))
[ -e engines-data/record.key ] || (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >engines-data/record.key)
cat <<TEXT

In the file of each node of a region whose gb6 was built with --features engines:

[stores]
log = "kafka://${ADDRESS[kafka]}/gb6?replication=$copies&min_insync=$((copies < 2 ? 1 : 2))"
rooms = "tikv://${ADDRESS[tikv]}"
signals = "${ADDRESS[redis]}"
limits = "${ADDRESS[redis]}"
map = "${ADDRESS[postgres]/gb6@/node@}"
blobs = "s3://gb6/region?endpoint=${ADDRESS[s3]}&allow_http=true"
record_key_file = "$PWD/engines-data/record.key"

and for S3, which takes any key, AWS_ACCESS_KEY_ID=gb6 AWS_SECRET_ACCESS_KEY=gb6 in its environment.
TiKV and S3 are test doubles: tests/engines/README.md says what they do not show.

Kill anything, watch, and bring it back:
  kill -9 \$(awk '\$1 == "broker-1" { print \$2 }' engines-data/kafka/pid)
  scripts/engine.sh start kafka engines-data/kafka
Ctrl-C stops them; their data stays in ./engines-data.
TEXT
while true; do
    # In the background, so that a signal is heard at once.
    sleep 30 &
    tick=$!
    wait "$tick" || true
done
