#!/bin/sh
# Installs the clients and agents that the tests run on Node, unless they're there.
set -eu
cd "$(dirname "$0")/contract/javascript"

if cmp -s package.json node_modules/installed.json; then
    exit 0
fi
if ! command -v npm >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "The tests need Node 20 or newer, with npm." >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends npm
fi
npm install --no-audit --no-fund --no-package-lock --loglevel=error
# npm leaves out what packages would do when they are installed; this one needs it.
node node_modules/@anthropic-ai/claude-code/install.cjs
cp package.json node_modules/installed.json
