#!/bin/sh
# Makes the bucket of deploy/compose.yaml once MinIO answers.
set -eu
# The file has no end of line, for which read fails.
read -r secret </etc/gb6/mesh/s3.secret || [ -n "$secret" ]
tries=0
until mc alias set store http://minio:9000 gb6 "$secret" >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -ge 60 ]; then
        echo "error: http://minio:9000 does not answer" >&2
        exit 1
    fi
    sleep 1
done
mc mb --ignore-existing store/gb6
