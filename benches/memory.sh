#!/usr/bin/env bash
# The memory that a backup and a restore take: of one large file that does not compress, and of one
# large table. Fails above 400 MiB.
#   benches/memory.sh COEVAL [GIB] [ROWS]        4 GiB and 2,000,000 rows when not given
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 3 ] || { echo "usage: benches/memory.sh COEVAL [GIB] [ROWS]" >&2; exit 2; }
coeval=$(realpath "$1") gib=${2:-4} rows=${3:-2000000}
limit=400

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export COEVAL_REPOSITORY=$work/repository COEVAL_KEY_FILE=$work/key COEVAL_CACHE_DIR=$work/cache
measured() { # NAME COMMAND…
  local name=$1 seconds memory; shift
  /usr/bin/time -f '%e %M' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  read -r seconds memory < <(tail -1 "$work/time")
  printf '%-28s %8.1f s %6d MiB\n' "$name" "$seconds" $((memory / 1024))
  [ $((memory / 1024)) -le $limit ] || { echo "more than $limit MiB" >&2; exit 1; }
}

"$coeval" --quiet init >/dev/null
mkdir "$work/files"
openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c $((gib << 30)) >"$work/files/large" || true
sqlite3 "$work/rows.sqlite3" "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT, c REAL);
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $rows)
  INSERT INTO t SELECT i, hex(randomblob(60)), 'some words in row ' || i, i / 3.0 FROM n;"
measured "backup, a file of $gib GiB" "$coeval" backup "$work/files"
measured "restore" "$coeval" restore latest --target "$work/out"
cmp "$work/files/large" "$work/out/storage/files/large"
measured "backup, $rows rows" "$coeval" backup --database "sqlite://$work/rows.sqlite3"
measured "restore" "$coeval" restore latest --database "sqlite://$work/restored.sqlite3"
