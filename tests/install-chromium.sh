#!/bin/sh
# Installs the Chromium that the tests of the page drive, unless it's there.
set -eu
cd "$(dirname "$0")"

if [ -n "${CHROMIUM:-}" ]; then
    exit 0
fi
export OR="set CHROMIUM to the program's path"
exec ./install-debian.sh "chromium=chromium fonts-dejavu-core"
