#!/bin/sh
# Makes, once, what the services of deploy/compose.yaml share: certificates, secrets, and the snapshot
# beside them. It runs as root in a container; the nodes read as user 10001.
set -eu
cd /etc/gb6/mesh

secret() {
    # openssl is not in the image.
    [ -s "$1" ] || head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$1"
}

secret demo.secret
secret record.key
secret postgres.password
secret s3.secret
[ -e ca.pem ] || gb6 cert ca .
for node in g1:geo r1:region r2:region e1:edge e2:edge; do
    name=${node%%:*}
    [ -e "$name.pem" ] || gb6 cert node --ca . --role "${node##*:}" --name "$name"
done
cp /etc/gb6/snapshot.toml snapshot.toml
chown -R 10001 .
chmod 600 -- *
# PostgreSQL reads its password as a user of its own.
chmod 644 -- *.pem snapshot.toml postgres.password
# Whoever has it can join the mesh as any node.
chown root ca.key
