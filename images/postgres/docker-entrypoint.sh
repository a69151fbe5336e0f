#!/usr/bin/env bash
# Makes the database in an empty PGDATA, as POSTGRES_* say, and starts the server.
set -Eeuo pipefail

die() {
    printf 'docker-entrypoint.sh: %s\n' "$1" >&2
    exit 1
}

# setting NAME [DEFAULT]: takes NAME from the file named in NAME_FILE if that is set.
setting() {
    local file=$1_FILE
    if [ -n "${!file-}" ]; then
        [ -z "${!1-}" ] || die "both $1 and $file are set; set one"
        printf -v "$1" %s "$(< "${!file}")"
    fi
    [ -n "${!1-}" ] || printf -v "$1" %s "${2-}"
    export "${1?}"
    unset "$file"
}

# Over the socket, whatever PGHOST says of other servers.
sql() { env -u PGHOST -u PGHOSTADDR psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" --no-password --no-psqlrc "$@"; }
init_sql() { sql --dbname "$POSTGRES_DB" "$@"; }

init_files() {
    local file
    shopt -s nullglob
    for file in /docker-entrypoint-initdb.d/*; do
        echo "docker-entrypoint.sh: running $file"
        case $file in
            *.sh)
                # shellcheck disable=SC1090
                if [ -x "$file" ]; then "$file"; else . "$file"; fi
                ;;
            *.sql) init_sql -f "$file" ;;
            *.sql.gz) gunzip -c "$file" | init_sql ;;
            *.sql.xz) xzcat "$file" | init_sql ;;
            *.sql.zst) zstd -dc "$file" | init_sql ;;
            *) echo "docker-entrypoint.sh: ignoring $file" ;;
        esac
    done
}

init_database() {
    setting POSTGRES_PASSWORD
    setting POSTGRES_USER postgres
    setting POSTGRES_DB "$POSTGRES_USER"
    setting POSTGRES_INITDB_ARGS
    setting POSTGRES_HOST_AUTH_METHOD scram-sha-256
    if [ "$POSTGRES_HOST_AUTH_METHOD" = trust ]; then
        echo "docker-entrypoint.sh: WARNING: POSTGRES_HOST_AUTH_METHOD=trust lets in whoever reaches the port" >&2
    elif [ -z "$POSTGRES_PASSWORD" ]; then
        die "PGDATA is empty and there is no password for it: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE"
    fi
    ls /docker-entrypoint-initdb.d > /dev/null

    # initdb wants an empty directory, so it works in one of its own beside the marker.
    : > "$unfinished"
    local initdb_args
    eval "initdb_args=($POSTGRES_INITDB_ARGS)"
    initdb --pgdata "$PGDATA/initdb" --username "$POSTGRES_USER" --set listen_addresses='*' \
        --pwfile <(printf '%s\n' "$POSTGRES_PASSWORD") "${initdb_args[@]}"
    mv "$PGDATA"/initdb/* "$PGDATA"
    rmdir "$PGDATA/initdb"
    printf '\nhost all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >> "$PGDATA/pg_hba.conf"

    # The server that runs the init files answers on the socket only: no client takes it for the real one.
    PGUSER=$POSTGRES_USER pg_ctl --wait start \
        -o "$(printf '%q ' "$@" -c listen_addresses= -p "${PGPORT:-5432}")"
    export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
    if [ -z "$(sql -d postgres -v db="$POSTGRES_DB" -At <<< "SELECT 1 FROM pg_database WHERE datname = :'db'")" ]; then
        sql -d postgres -v db="$POSTGRES_DB" <<< 'CREATE DATABASE :"db"'
    fi
    init_files
    unset PGPASSWORD
    pg_ctl --wait --mode fast stop
    sync
    rm "$unfinished"
    echo "docker-entrypoint.sh: the database is ready"
}

[ "${1-}" = "${1#-}" ] || set -- postgres "$@"

if [ "$1" = postgres ] && [[ ! " $* " =~ \ (-\?|--help|--describe-config|-V|--version)\  ]]; then
    if [ "$(id -u)" = 0 ]; then
        mkdir -p "$PGDATA" /var/run/postgresql
        chmod 3775 /var/run/postgresql
        find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown postgres {} +
        HOME=/var/lib/postgresql exec setpriv --reuid postgres --regid postgres --init-groups -- "$0" "$@"
    fi
    mkdir -p "$PGDATA"
    # A directory we do not own cannot be changed; the server says what is wrong with it, if anything is.
    chmod 700 "$PGDATA" || true

    # While this file exists no client has been served: what lies beside it is the rest of an
    # interrupted start, which would pass for a database.
    unfinished=$PGDATA/celeriac-init-unfinished
    contents() { find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found "$@"; }
    if [ -e "$unfinished" ]; then
        echo "docker-entrypoint.sh: the last start was interrupted before the database was ready; starting over"
        contents ! -path "$unfinished" -exec rm -rf {} +
        rm "$unfinished"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        [ -z "$(contents -print -quit)" ] || die "$PGDATA is not empty, but holds no database"
        init_database "${@:2}"
    fi
    # The server has no use for it.
    unset POSTGRES_PASSWORD
fi

exec "$@"
