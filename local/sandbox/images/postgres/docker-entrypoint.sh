#!/bin/sh
# Initialises the database cluster at the first start, with the superuser's password, like upstream's entry point.
# Needed by docker-compose.yml; environments initialise it with their own command.
set -eu
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    (umask 077 && printf %s "$POSTGRES_PASSWORD" >/tmp/password)
    # shellcheck disable=SC2086 - these are several
    initdb --username=postgres --pwfile=/tmp/password ${POSTGRES_INITDB_ARGS:-}
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
fi
unset POSTGRES_PASSWORD
exec "$@"
