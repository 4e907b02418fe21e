#!/usr/bin/env bash
# How much a repository grows when 0.1 % of a table changes: coeval with the table in PostgreSQL,
# restic with the same data as a fixture, in one run. Fails if coeval adds more than 15 % of what
# restic adds.
#   benches/growth.sh COEVAL [ROWS]      1,500,000 rows when not given; needs 4 GB of scratch space
set -euo pipefail
[ $# = 1 ] || [ $# = 2 ] || { echo "usage: benches/growth.sh COEVAL [ROWS]" >&2; exit 2; }
coeval=$(realpath "$1") rows=${2:-1500000}
here=$(cd "$(dirname "$0")" && pwd)
limit=15

work=$(mktemp -d)
chmod 755 "$work"
trap '"$here/../scripts/postgres.sh" stop "$work/cluster"; rm -rf "$work"' EXIT
export COEVAL_REPOSITORY=$work/coeval COEVAL_KEY_FILE=$work/key COEVAL_CACHE_DIR=$work/cache
export RESTIC_REPOSITORY=$work/restic RESTIC_PASSWORD=measured RESTIC_CACHE_DIR=$work/restic-cache

bytes() { find "$1" -type f -printf '%s\n' | awk '{n += $1} END {print n + 0}'; }
measured() { # FOLDER NAME COMMAND…: prints what it took and how much the folder grew; sets `grown`
  local folder=$1 name=$2 before seconds memory; shift 2
  before=$(bytes "$folder")
  /usr/bin/time -f '%e %M' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  read -r seconds memory < <(tail -1 "$work/time")
  grown=$(($(bytes "$folder") - before))
  printf '%-22s %8.1f s %6d MiB of memory %12d bytes added\n' "$name" "$seconds" $((memory / 1024)) "$grown"
}

echo "making $rows rows in two versions …"
"$here/fixture.py" "$work/data" "$rows"
server=$("$here/../scripts/postgres.sh" start "$work/cluster")
psql -q "$server" -v ON_ERROR_STOP=1 <<SQL
CREATE TABLE audit_entry (
  id bigint PRIMARY KEY, uuid uuid, user_id integer, action varchar(40), object_id integer,
  timestamp timestamptz, description text, ip_address inet, checksum char(64), metadata jsonb);
\copy audit_entry FROM '$work/data/table.copy'
SQL

"$coeval" --quiet init >/dev/null
restic --quiet init
mkdir "$work/live"
cp "$work/data/v1/database_backup.json" "$work/live/"
measured "$work/coeval" "coeval, first" "$coeval" --quiet backup --database "$server"
measured "$work/restic" "restic, first" restic --quiet backup "$work/live"
psql -q "$server" -v ON_ERROR_STOP=1 -f "$work/data/changes.sql"
cp "$work/data/v2/database_backup.json" "$work/live/"
measured "$work/coeval" "coeval, 0.1 % changed" "$coeval" --quiet backup --database "$server"
ours=$grown
measured "$work/restic" "restic, 0.1 % changed" restic --quiet backup "$work/live"
theirs=$grown

awk -v ours="$ours" -v theirs="$theirs" -v limit=$limit 'BEGIN {
  ratio = 100 * ours / theirs
  printf "coeval adds %.1f %% of what restic adds (at most %d %%)\n", ratio, limit
  exit ratio > limit
}'
