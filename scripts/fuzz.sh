#!/usr/bin/env bash
# Fuzzes the parsers of outside bytes with libFuzzer: all of them in turn, or one.
#
#   scripts/fuzz.sh               every target for a minute
#   scripts/fuzz.sh websocket 3600    one target for so many seconds
#   scripts/fuzz.sh --list        the targets
#
# Begins with the corpus that the tests replay. A finding stands in tests/fuzz/artifacts: once it is
# mended, put it into that corpus, named after the harm.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/step.sh
. scripts/step.sh

# Each target, and the directory of its corpus.
TARGETS=(
    client_frame:core/wire/corpus/client_frame
    one_way:core/wire/corpus/one_way
    mesh_frame:core/wire/corpus/mesh_frame
    record:core/wire/corpus/record
    fossil_delta:core/wire/corpus/fossil
    tags_filter:core/wire/corpus/filter
    mesh_stream:core/mesh/corpus/stream
    mesh_hello:core/mesh/corpus/hello
    mesh_certificate:core/mesh/corpus/certificate
    mesh_snapshot:core/mesh/corpus/snapshot
    api_request:edge/node/corpus/api_request
    websocket:edge/node/corpus/websocket
    stream:edge/node/corpus/stream
    webtransport:edge/node/corpus/webtransport
    token:edge/node/corpus/token
    claims:edge/node/corpus/claims
    key_set:edge/node/corpus/key_set
    public_key:edge/node/corpus/public_key
    revocation:edge/node/corpus/revocation
    proxy_answer:edge/node/corpus/proxy_answer
    upgrade:edge/node/corpus/upgrade
    archive_manifest:region/archive/tests/corpus/manifest
    kafka_message:region/stores/kafka/tests/corpus/frame
    kafka_uri:region/stores/kafka/tests/corpus/frame
    log_directory:region/stores/embedded/tests/corpus/segment
    checkpoint:region/shard/corpus/checkpoint
    redis_message:region/stores/redis/tests/corpus/message
    instance_settings:geo-config/plan/tests/corpus/instance_settings
)

if [ "${1:-}" = --list ]; then
    printf '%s\n' "${TARGETS[@]%%:*}"
    exit 0
fi
need cargo-fuzz "rustup toolchain install nightly && cargo install cargo-fuzz"
seconds=${2:-60}
found=no
for entry in "${TARGETS[@]}"; do
    name=${entry%%:*} corpus=${entry#*:}
    [ -z "${1:-}" ] || [ "$1" = "$name" ] || continue
    found=yes
    # What it learns goes into the first directory; the corpus itself is only read.
    mkdir -p "target/fuzz-corpus/$name"
    step "fuzz $name for $seconds s" cargo +nightly fuzz run --fuzz-dir tests/fuzz \
        --target-dir target/fuzz "$name" "target/fuzz-corpus/$name" "$corpus" \
        -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048
done
if [ "$found" = no ]; then
    echo "error: no target $1; targets are: ${TARGETS[*]%%:*}" >&2
    exit 2
fi
