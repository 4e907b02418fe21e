#!/usr/bin/env bash
# What snapshots and restores of a PostgreSQL database cost, against the server's own tools and
# restic, in one run. Prints one line per figure, and says which goals are met.
#   benches/databases.sh COEVAL [ROWS]      1,000,000 rows when not given; needs 4 GB of scratch space
set -euo pipefail
[ $# = 1 ] || [ $# = 2 ] || { echo "usage: benches/databases.sh COEVAL [ROWS]" >&2; exit 2; }
coeval=$(realpath "$1") rows=${2:-1000000}
here=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d)
chmod 755 "$work"
trap '"$here/../scripts/postgres.sh" stop "$work/cluster"; rm -rf "$work"' EXIT
export COEVAL_REPOSITORY=$work/coeval COEVAL_KEY_FILE=$work/key COEVAL_CACHE_DIR=$work/cache
export RESTIC_REPOSITORY=$work/restic RESTIC_PASSWORD=measured RESTIC_CACHE_DIR=$work/restic-cache

bytes() { find "$1" -type f -printf '%s\n' | awk '{n += $1} END {print n + 0}'; }
timed() { # NAME COMMAND…: prints wall time and memory; sets `seconds` and `memory` (KiB)
  local name=$1; shift
  /usr/bin/time -f '%e %M' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  read -r seconds memory < <(tail -1 "$work/time")
  printf '%-34s %8.2f s %6d MiB\n' "$name" "$seconds" $((memory / 1024))
}
best() { # NAME COMMAND…: the best of three
  local name=$1 least= most=0 n; shift
  for n in 1 2 3; do
    /usr/bin/time -f '%e %M' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
    read -r seconds memory < <(tail -1 "$work/time")
    if [ -z "$least" ] || awk "BEGIN {exit !($seconds < $least)}"; then least=$seconds; fi
    if [ "$memory" -gt "$most" ]; then most=$memory; fi
  done
  seconds=$least memory=$most
  printf '%-34s %8.2f s %6d MiB\n' "$name" "$seconds" $((memory / 1024))
}
goal() { # TEXT VALUE LIMIT
  awk -v text="$1" -v value="$2" -v limit="$3" 'BEGIN {
    printf "  %-50s %8.3f  (goal: at most %s) %s\n", text, value, limit, value <= limit ? "met" : "NOT MET"
  }'
}
ratio() { awk "BEGIN {print $1 / $2}"; }

server=$("$here/../scripts/postgres.sh" start "$work/cluster")
sql() { psql -q -X -v ON_ERROR_STOP=1 "$server" "$@"; }
echo "making $rows rows …"
sql <<SQL
CREATE TABLE entry (id bigint PRIMARY KEY, uuid uuid, user_id integer, action varchar(40),
  object_id integer, at timestamptz, description text, checksum char(64), metadata jsonb);
INSERT INTO entry SELECT g, md5(g::text)::uuid, g % 5000, 'action' || g % 20, g,
  '2024-01-01'::timestamptz + g * interval '1 s', 'User did ' || md5((g * 7)::text) || ' on ' || g,
  md5(g::text) || md5((g + 1)::text), jsonb_build_object('ip', '10.0.' || g % 255, 'n', g)
  FROM generate_series(1, $rows) g;
CREATE INDEX ON entry (user_id);
VACUUM ANALYZE entry;
SQL
"$coeval" -q init >/dev/null
restic -q init

half=$((rows / 2))
copy() { psql -q -X "$server" -c "COPY (SELECT * FROM entry WHERE id > $1 AND id <= $2 ORDER BY id) TO STDOUT" >/dev/null; }
both() { copy 0 $half & copy $half "$rows"; wait; }
export -f copy both; export server half rows
best 'COPY TO STDOUT, two connections' bash -c both
copied=$seconds
timed 'coeval backup, first' "$coeval" -q backup --database "$server"
full=$seconds
best 'coeval backup --force' "$coeval" -q backup --force --database "$server"
again=$seconds
goal 'COPY over the first backup (rows a second, inverse)' "$(ratio "$full" "$copied")" 1.25
"$coeval" -q database setup "$server" >/dev/null
timed 'coeval backup, the slot is new' "$coeval" -q backup --database "$server"

best 'coeval version' "$coeval" version
start=$seconds
best 'coeval backup, unchanged' "$coeval" -q backup --database "$server"
goal 'unchanged, seconds above process start' "$(awk "BEGIN {print $seconds - $start}")" 0.050

pg_dump "$server" >"$work/dump.sql"
mkdir "$work/live"; mv "$work/dump.sql" "$work/live/"
timed 'restic backup of pg_dump, first' restic -q backup "$work/live"
sleep 20   # a server notes every 15 s from where on its log must be read
"$coeval" -q backup --force --database "$server" >/dev/null
sql -c "UPDATE entry SET user_id = user_id + 1, description = 'changed' WHERE id % 1000 = 7"
before=$(bytes "$work/coeval")
timed 'coeval backup, 0.1 % changed' "$coeval" -q backup --database "$server"
ours=$(($(bytes "$work/coeval") - before))
goal 'of the time of a full capture' "$(ratio "$seconds" "$full")" 0.05
before=$(bytes "$work/restic")
timed 'pg_dump | restic, 0.1 % changed' bash -c "pg_dump '$server' >'$work/live/dump.sql' && restic -q backup '$work/live'"
theirs=$(($(bytes "$work/restic") - before))
printf '%-34s %8d bytes, restic %d\n' 'growth' "$ours" "$theirs"
goal 'growth over that of restic' "$(ratio "$ours" "$theirs")" 0.15

sleep 20   # a server notes every 15 s from where on its log must be read
"$coeval" -q backup --tag good --database "$server" >/dev/null
pg_dump -Fc -f "$work/custom" "$server"
sql -c "UPDATE entry SET description = 'wrecked' WHERE id % 100 = 3"
"$coeval" -q backup --database "$server" >/dev/null
timed 'coeval restore, 1 % differs' "$coeval" -q restore tag:good --database "$server"
restored=$seconds
sql -c "UPDATE entry SET description = 'wrecked' WHERE id % 100 = 3"
timed 'pg_restore --clean' pg_restore --clean -d "$server" "$work/custom"
goal 'of the time of pg_restore --clean' "$(ratio "$restored" "$seconds")" 0.2
