#!/bin/sh
# Runs the steps in /docker-entrypoint.d in order before nginx starts.
set -eu

case ${1-} in
    nginx | nginx-debug)
        steps=$(find /docker-entrypoint.d -follow -type f -name '*.*sh' | sort -V)
        # Read line by line and not in a pipe: what an .envsh exports has to reach the steps after it.
        while read -r step <&3; do
            if [ -n "$step" ] && [ ! -x "$step" ]; then
                echo "$0: $step is not executable; skipped" >&2
                continue
            fi
            # shellcheck disable=SC1090
            case $step in
                *.envsh) . "$step" ;;
                *.sh) "$step" ;;
            esac
        done 3<< STEPS
$steps
STEPS
        exec 3<&-
        ;;
esac

exec "$@"
