#!/bin/sh
# Installs the Chromium that the tests of the page drive, unless it's there.
set -eu

if [ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need Chromium: install it (Debian: sudo apt-get install chromium), or set" >&2
    echo "CHROMIUM to the program's path." >&2
    exit 1
fi

echo "Installing Chromium for the tests (once)"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends chromium fonts-dejavu-core
