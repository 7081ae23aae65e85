#!/bin/sh
# Writes the secrets of compose.yaml to secrets/, once: what is there stays as it is.
# It prints none of them but the first key to call Reverie with, which is kept nowhere.
set -eu
cd "$(dirname "$0")"

# Only the folder keeps others out: each container reads its files as a user of its own.
install -d -m 0700 secrets
umask 0222

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
sha256() { sha256sum | cut -d ' ' -f 1; }

for name in postgres_password grafana_password metrics_key; do
    [ -e "secrets/$name" ] || random >"secrets/$name"
done
if [ ! -e secrets/api_keys ]; then
    key=$(random)
    {
        echo "$(sha256 <secrets/metrics_key) prometheus"
        echo "$(printf %s "$key" | sha256) first"
    } >secrets/api_keys
    echo "Your key, shown once: $key"
fi
