#!/bin/sh
# Writes /etc/nginx/templates/**/*.template, environment filled in, to /etc/nginx/conf.d.
set -eu
templates=${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}
suffix=${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}
output=${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}

[ -d "$templates" ] || exit 0
if [ ! -w "$output" ]; then
    echo "$0: $templates exists, but $output cannot be written" >&2
    exit 0
fi

# Only variables that exist are replaced: nginx's own, like $host, look the same.
defined=$(awk -v filter="${NGINX_ENVSUBST_FILTER-}" \
    'BEGIN { for (name in ENVIRON) if (name ~ filter) printf "${%s} ", name }')

find "$templates" -follow -type f -name "*$suffix" | while read -r template; do
    target=$output/${template#"$templates"/}
    target=${target%"$suffix"}
    mkdir -p "$(dirname "$target")"
    envsubst "$defined" < "$template" > "$target"
done
