#!/bin/sh
# Starts redis-server as its own user, with the defaults of the official image.
set -eu

case ${1-} in
    -* | *.conf) set -- redis-server "$@" ;;
esac

if [ "${1-}" = redis-server ]; then
    if [ "$(id -u)" = 0 ]; then
        find . ! -user redis -exec chown redis {} +
        exec setpriv --reuid redis --regid redis --clear-groups -- "$0" "$@"
    fi

    # The official image is compiled with protected mode off: no port is published unless asked for.
    # Here it is a first option, so that a later one wins; a configuration file that sets it, or may
    # (include), is left alone.
    shift
    case ${1-} in
        '' | -*) set -- redis-server --protected-mode no "$@" ;;
        *)
            config=$1
            shift
            if grep -qiE '^[[:space:]]*(protected-mode|include)[[:space:]]' "$config"; then
                set -- redis-server "$config" "$@"
            else
                set -- redis-server "$config" --protected-mode no "$@"
            fi
            ;;
    esac
fi

# Dumps are nobody else's to read.
[ "$(umask)" != 0022 ] || umask 0077
exec "$@"
