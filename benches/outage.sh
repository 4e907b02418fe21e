#!/usr/bin/env bash
# What the users of a database notice of a restore: a reader looks accounts up as fast as it can and a
# writer changes one, while 1 % and then 40 % of the rows of 7 tables are brought back, by coeval, by
# TRUNCATE and COPY in one transaction, and by Django's flush and loaddata, in one run.
#   benches/outage.sh COEVAL            ROWS=100000 says how many rows there are in all
# Prints a line of JSON for each, then a table; fails if coeval loses a look-up or keeps a reader
# waiting for more than 20 ms. Then the same of SQLite with coeval alone, with a write-ahead log and
# without one: fails if a look-up is lost, or waits for more than 50 ms where there is a log.
set -euo pipefail
[ $# = 1 ] || { echo "usage: benches/outage.sh COEVAL" >&2; exit 2; }
coeval=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
python=$("$here/../scripts/venv.sh" 5.2)
work=$(mktemp -d)
chmod 755 "$work"
url=$("$here/../scripts/postgres.sh" start "$work/cluster")
trap '"$here/../scripts/postgres.sh" stop "$work/cluster"; rm -rf "$work"' EXIT
"$python" "$here/outage.py" "$coeval" "$url" "$work" "${ROWS:-100000}"
"$python" "$here/outage_sqlite.py" "$coeval" "$work" "${ROWS:-100000}"
