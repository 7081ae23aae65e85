#!/bin/sh
# Installs the clients and agents that the tests run on Node, unless they're there.
set -eu
cd "$(dirname "$0")/contract/javascript"

if cmp -s package.json node_modules/installed.json; then
    exit 0
fi
OR="have Node 20 or newer, with npm" ../../install-debian.sh npm=npm
npm install --no-audit --no-fund --no-package-lock --loglevel=error
# npm leaves out what packages would do when they are installed; this one needs it.
node node_modules/@anthropic-ai/claude-code/install.cjs
cp package.json node_modules/installed.json
