#!/bin/sh
# Installs the PostgreSQL that the tests start, unless it's there. Leaves no server running.
set -eu
cd "$(dirname "$0")"

if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && ! command -v initdb >/dev/null; then
    # Debian makes a server of the system when it installs; the tests have their own.
    no_server=/etc/postgresql-common/createcluster.d/reverie.conf
    mkdir -p "${no_server%/*}"
    echo "create_main_cluster = false" >"$no_server"
    trap 'rm -f "$no_server"' EXIT
fi
OR="put the folder of its initdb on PATH" ./install-debian.sh initdb=postgresql
