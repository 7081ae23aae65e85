#!/bin/sh
# Installs the PostgreSQL that the tests start, unless it's there. Leaves no server running.
set -eu

if command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need PostgreSQL: install it (Debian, Ubuntu: sudo apt-get install" >&2
    echo "postgresql), or put the folder of its initdb on PATH." >&2
    exit 1
fi

echo "Installing PostgreSQL for the tests (once)"
# Debian makes and starts a server of the system when it installs; the tests have their own.
no_server=/etc/postgresql-common/createcluster.d/reverie.conf
mkdir -p "${no_server%/*}"
echo "create_main_cluster = false" >"$no_server"
trap 'rm -f "$no_server"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends postgresql
