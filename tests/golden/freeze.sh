#!/usr/bin/env bash
# Made tests/golden/repo-v1, once. A repository that is there is never made anew: it stands for all
# those that people have. A new version of the format gets a folder of its own.
#   tests/golden/freeze.sh COEVAL FOLDER
set -euo pipefail
[ $# = 2 ] || { echo "usage: tests/golden/freeze.sh COEVAL FOLDER" >&2; exit 2; }
[ ! -e "$2" ] || { echo "$2 is there already" >&2; exit 1; }
coeval=$(realpath "$1") home=$(realpath -m "$2")
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir -p "$home" "$work/files/deep/er"
export COEVAL_REPOSITORY=$home/repository COEVAL_KEY_FILE=$home/key COEVAL_CACHE_DIR=$work/cache
backup() { "$coeval" --quiet backup "$work/files" --database "sqlite://$work/db.sqlite3" --configuration "$work/.env" --host golden --tag "$1" >/dev/null; }

cd "$work"
printf 'KEY=value\n' >.env
printf 'one\n' >files/one.txt
printf 'naïve\n' >'files/deep/naïve name.txt'
: >files/deep/er/empty
seq 1 120000 >files/large.txt   # longer than one chunk
ln -s ../one.txt files/deep/link
sqlite3 db.sqlite3 "
  CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL, born REAL, photo BLOB);
  CREATE TABLE code (code TEXT PRIMARY KEY, meaning TEXT) WITHOUT ROWID;
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
    INSERT INTO person SELECT i, 'person ' || i, i / 7.0, CAST(i AS BLOB) FROM n;
  INSERT INTO code VALUES ('a', NULL), ('b', ''), ('c', 'ü');"
sums() { # of what a restore gives; the text of a database's header and schema is no format
  "$coeval" --quiet restore latest --target "$work/$1"
  (cd "$work/$1" && find . -type f ! -name header.json ! -name schema.sql -exec sha256sum {} + | sed 's: \./: :' | LC_ALL=C sort -k2) >"$home/$1.sha256"
}
"$coeval" --quiet init >/dev/null
backup first
sums first
printf 'two\n' >files/one.txt
rm files/deep/er/empty
sqlite3 db.sqlite3 "UPDATE person SET name = 'x' WHERE id = 500; DELETE FROM code WHERE code = 'b'"
sleep 1.1
backup second
sums second
"$coeval" --json snapshots |
  python3 -c 'import json, sys; [print(json.loads(line)["root"]) for line in sys.stdin]' >"$home/roots"
chmod -R u+w "$home"
