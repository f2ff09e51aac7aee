#!/bin/sh
# Starts PostgreSQL, after making its cluster, with the user and the database `rqstack`, where there is none.
# Uses nothing of an image but PostgreSQL's own programs on PATH.
# Environment: PGDATA, a folder below the volume; POSTGRES_PASSWORD_FILE, the password of the user `rqstack`.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # Made beside and moved in one step, so that a start that was cut off leaves nothing half made.
    rm -rf "$PGDATA.new"
    initdb --pgdata="$PGDATA.new" --username=rqstack --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 \
        --locale=C.UTF-8 --auth-local=scram-sha-256 --auth-host=scram-sha-256 --data-checksums
    echo "host all all all scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
    echo "CREATE DATABASE rqstack" | postgres --single -D "$PGDATA.new" postgres >/dev/null
    mv "$PGDATA.new" "$PGDATA"
fi

# exec: the signals of `stop` reach PostgreSQL itself.
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
