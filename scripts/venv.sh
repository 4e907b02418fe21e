#!/usr/bin/env bash
# Makes (or brings up to date) a virtual environment for a Django series, in a cache that every clone
# shares, and prints the path of its python:  python=$(scripts/venv.sh 5.2)
# The cache is the folder that scripts/cache.sh prints.
set -euo pipefail

case ${1:-} in
  4.2 | 5.2) series=$1 ;;
  *) echo "usage: scripts/venv.sh 4.2|5.2" >&2; exit 2 ;;
esac
wanted="Django~=$series.0 psycopg[binary]"
cache=$("$(dirname "$0")/cache.sh")
home=$cache/django-$series

ready() { [ "$(cat "$home/.complete" 2>/dev/null)" = "$wanted" ] && "$home/bin/python" -c 'import django, psycopg' 2>/dev/null; }

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
  echo "making a virtual environment with Django $series in $home …" >&2
  rm -rf "$home"
  "$base" -m venv "$home" >&2
  # shellcheck disable=SC2086  # two requirements, two words
  "$home/bin/python" -m pip install --quiet --disable-pip-version-check $wanted >&2
  echo "$wanted" >"$home/.complete"
fi
echo "$home/bin/python"
