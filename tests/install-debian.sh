#!/bin/sh
# Installs the programs of Debian that the tests start, unless they're there: PROGRAM=PACKAGES …
# Starts none of them. OR: what else may be done by whoever can't install packages.
set -eu

packages=
for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || packages="$packages ${pair#*=}"
done
if [ -z "$packages" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need (Debian, Ubuntu): sudo apt-get install$packages${OR:+; or $OR}" >&2
    exit 1
fi

echo "Installing for the tests (once):$packages"
# Debian starts a service when it installs one; the tests have their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # one word each
apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends $packages
