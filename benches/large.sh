#!/usr/bin/env bash
# The time and memory that a backup and a restore of one large thing take. Fails above 256 MiB.
#   benches/large.sh COEVAL noise GIB      a file that does not compress: takes 3 times its size of disk
#   benches/large.sh COEVAL text GIB       a file of lines, each another: compresses to about a fifth
#   benches/large.sh COEVAL sparse GIB     a file of holes, with 64 KiB of data in each 256 MiB
#   benches/large.sh COEVAL rows NUMBER    a SQLite table
# A file is restored, compared, and restored again over itself; TMPDIR says where all of it is.
set -euo pipefail
usage() { echo "usage: benches/large.sh COEVAL noise|text|sparse GIB | rows NUMBER" >&2; exit 2; }
[ $# = 3 ] || usage
coeval=$(realpath "$1") kind=$2 size=$3
limit=256

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export COEVAL_REPOSITORY=$work/repository COEVAL_KEY_FILE=$work/key COEVAL_CACHE_DIR=$work/cache
allocated() { du -s --block-size=1M "$1" | cut -f1; }
measured() { # NAME COMMAND…
  local name=$1 wall user system memory; shift
  sync
  /usr/bin/time -f '%e %U %S %M' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  read -r wall user system memory < <(tail -1 "$work/time")
  printf '%-32s %8.1f s wall %8.1f s user %8.1f s system %6d MiB of memory\n' "$name" "$wall" "$user" "$system" $((memory / 1024))
  [ $((memory / 1024)) -le $limit ] || { echo "more than $limit MiB" >&2; exit 1; }
}
noise() { openssl enc -aes-128-ctr -K "$1" -iv 00 -in /dev/zero 2>/dev/null || true; }
lines() { seq -f '%.0f 2026-01-04 12:00:00 APPROVE document revision effective' "$1" 2>/dev/null || true; }

"$coeval" --quiet init >/dev/null
mkdir "$work/files"
file=$work/files/large
case $kind in
  noise) noise 00 | head -c $((size << 30)) >"$file" ;;
  text) lines $((size << 25)) | head -c $((size << 30)) >"$file" ;;
  sparse)
    truncate -s "${size}G" "$file"
    for ((at = 0; at < size * 4; at++)); do
      noise "$at" | head -c 65536 | dd of="$file" bs=64K seek=$((at * 4096 + at % 4096)) conv=notrunc status=none
    done ;;
  rows)
    sqlite3 "$work/rows.sqlite3" "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT, c REAL);
      WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $size)
      INSERT INTO t SELECT i, hex(randomblob(60)), 'some words in row ' || i, i / 3.0 FROM n;"
    measured "backup, $size rows" "$coeval" backup --database "sqlite://$work/rows.sqlite3"
    measured "restore" "$coeval" restore latest --database "sqlite://$work/restored.sqlite3"
    exit ;;
  *) usage ;;
esac

sync && sleep 2 # a file of the last two seconds is read twice, in case it is being written to
echo "a file of $size GiB, $(allocated "$file") MiB on disk"
measured "backup" "$coeval" backup "$work/files"
echo "the repository takes $(allocated "$COEVAL_REPOSITORY") MiB, the cache $(allocated "$COEVAL_CACHE_DIR") MiB"
measured "unchanged" "$coeval" backup "$work/files"
measured "read again" "$coeval" backup --force "$work/files"
measured "restore" "$coeval" restore latest --target "$work/out"
restored=$work/out/storage/files/large
cmp "$file" "$restored"
echo "restored: $(allocated "$restored") MiB on disk"
measured "restore again, nothing differs" "$coeval" restore latest --target "$work/out"
