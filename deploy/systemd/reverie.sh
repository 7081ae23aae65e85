#!/bin/sh
# /usr/local/bin/reverie: the command as the service has it, with its user, folders, configuration
# and secrets. Files that are named without a folder are in /var/lib/reverie. PROGRAM is another
# version of it, as for an upgrade's plan. docs/deploy.md says more.
set -eu
if [ "$(id -u)" != 0 ]; then
    echo "error: only root can become the service's user; run: sudo reverie $*" >&2
    exit 1
fi
if [ -e /etc/reverie/environment ]; then
    set -a
    . /etc/reverie/environment
    set +a
fi
export XDG_STATE_HOME=/var/lib HOME=/var/lib/reverie
export REVERIE_HOME=/var/cache/reverie HF_HOME=/var/cache/reverie/hub
export REVERIE_CONFIG=/etc/reverie/reverie.toml
umask 077
cd /var/lib/reverie
exec setpriv --reuid=reverie --regid=reverie --init-groups -- "${PROGRAM:-/opt/reverie/bin/reverie}" "$@"
