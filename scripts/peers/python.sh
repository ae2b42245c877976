#!/bin/bash
# python.sh: print the path of a Python that has exchangelib (and with it lxml), a client of EWS that is not ours. It is installed once, into a
# virtual environment in the user's cache, outside the source tree. Exit code 77 = cannot be done on this machine.
set -euo pipefail
venv=${XDG_CACHE_HOME:-$HOME/.cache}/email-router/peers-python
python=$venv/bin/python
if ! "$python" -c 'import exchangelib, lxml' 2>/dev/null; then
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check 'exchangelib==5.6.0'; } >&2; then
    echo "python.sh: exchangelib cannot be installed (needs python3 with venv, and its package registry)" >&2
    exit 77
  fi
fi
echo "$python"
