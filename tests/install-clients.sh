#!/bin/sh
# Installs the client libraries of the field for Python that the tests run, in an environment of
# their own, unless they're there. PYTHON: the interpreter that makes it. LOCK=1: chooses the newest
# versions of what they need again, and writes them to constraints.txt.
set -eu
python=$(command -v "${PYTHON:-python3}")
python=$(cd "$(dirname "$python")" && pwd)/${python##*/}
cd "$(dirname "$0")/contract/python"

wanted=$(cat requirements.txt constraints.txt)
if [ -z "${LOCK-}" ] && [ "$(cat .venv/made.txt 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi
echo "Installing Python's clients for the tests (once)"
"$python" -m venv --clear .venv
pip="$PWD/.venv/bin/python -m pip --disable-pip-version-check"
if [ -n "${LOCK-}" ]; then
    $pip install --quiet -r requirements.txt
    $pip freeze --exclude pip --exclude setuptools >constraints.txt
    wanted=$(cat requirements.txt constraints.txt)
else
    $pip install --quiet -r requirements.txt -c constraints.txt
fi
printf '%s\n' "$wanted" >.venv/made.txt
