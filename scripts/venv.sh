#!/usr/bin/env bash
# Makes (or brings up to date) a virtual environment in a cache that every clone shares, and prints the
# path of its python:  python=$(scripts/venv.sh 5.2)
#   4.2, 5.2   that series of Django
#   moto       an S3 server
# The cache is the folder that scripts/cache.sh prints.
set -euo pipefail

case ${1:-} in
  4.2 | 5.2) name=django-$1; wanted="Django~=$1.0 psycopg[binary]"; modules="django, psycopg" ;;
  moto) name=moto; wanted="moto[server,s3]==5.2.5"; modules="moto.server" ;;
  *) echo "usage: scripts/venv.sh 4.2|5.2|moto" >&2; exit 2 ;;
esac
cache=$("$(dirname "$0")/cache.sh")
home=$cache/$name

ready() { [ "$(cat "$home/.complete" 2>/dev/null)" = "$wanted" ] && "$home/bin/python" -c "import $modules" 2>/dev/null; }

if ! ready; then
  mkdir -p "$cache"
  if command -v flock >/dev/null; then exec 9>"$home.lock"; flock 9; fi
fi
if ! ready; then
  base=${PYTHON:-python3}
  if ! "$base" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: $base is missing, older than 3.10, or without venv; run scripts/install.sh demo" >&2
    exit 1
  fi
  echo "making a virtual environment with $wanted in $home …" >&2
  rm -rf "$home"
  "$base" -m venv "$home" >&2
  # shellcheck disable=SC2086  # each requirement is a word
  "$home/bin/python" -m pip install --quiet --disable-pip-version-check $wanted >&2
  echo "$wanted" >"$home/.complete"
fi
echo "$home/bin/python"
