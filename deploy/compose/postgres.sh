#!/bin/sh
# Runs in the container of PostgreSQL when its data is made: the database, and a role for nodes that is
# no superuser, so that row-level security binds it.
set -eu
psql -v ON_ERROR_STOP=1 -v "password=$(cat /etc/gb6/mesh/postgres.password)" -U postgres -d postgres <<'SQL'
CREATE ROLE gb6 LOGIN PASSWORD :'password';
CREATE DATABASE gb6 OWNER gb6;
SQL
