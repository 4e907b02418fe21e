#!/usr/bin/env bash
# What packages cost against what Django and tar do, in one run: a fixture of a million records
# against dumpdata, loaddata; uploads against tar | pigz; a small application as a whole. Prints one
# line per figure, and says which goals are met.
#   benches/package.sh COEVAL [ROWS [MEBIBYTES]]   1,000,000 rows, 2,048 MiB of uploads
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 3 ] || { echo "usage: benches/package.sh COEVAL [ROWS [MEBIBYTES]]" >&2; exit 2; }
coeval=$(realpath "$1") rows=${2:-1000000} uploads=${3:-2048}
here=$(cd "$(dirname "$0")" && pwd)
python=$("$here/../scripts/venv.sh" 5.2)

work=$(mktemp -d)
chmod 755 "$work"
trap '"$here/../scripts/postgres.sh" stop "$work/cluster"; rm -rf "$work"' EXIT
export COEVAL_REPOSITORY=$work/coeval COEVAL_KEY_FILE=$work/key COEVAL_CACHE_DIR=$work/cache
export EDMS_HOME=$work/home PYTHONDONTWRITEBYTECODE=1
mkdir "$EDMS_HOME"

timed() { # NAME COMMAND…: prints wall time and memory; sets `seconds`
  local name=$1 memory; shift
  /usr/bin/time -f '%e %M' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  read -r seconds memory < <(tail -1 "$work/time")
  printf '%-40s %8.2f s %6d MiB\n' "$name" "$seconds" $((memory / 1024))
}
goal() { # TEXT VALUE RELATION LIMIT
  awk -v text="$1" -v value="$2" -v relation="$3" -v limit="$4" 'BEGIN {
    met = relation == "least" ? value >= limit : value <= limit
    printf "  %-48s %8.3f  (goal: at %s %s) %s\n", text, value, relation, limit, met ? "met" : "NOT MET"
  }'
}
ratio() { awk "BEGIN {print $1 / $2}"; }
sum() { awk "BEGIN {print $1 + $2}"; }
manage() { "$python" "$here/../tests/every/manage.py" "$@"; }
export -f manage; export python here

server=$("$here/../scripts/postgres.sh" start "$work/cluster")
psql -q -X "$server" -c 'CREATE DATABASE source' -c 'CREATE DATABASE target' -c 'CREATE DATABASE empty'
source=${server%/*}/source target=${server%/*}/target empty=${server%/*}/empty
for url in "$source" "$target" "$empty"; do DATABASE_URL=$url manage prepare; done
echo "making $rows records …"
psql -q -X -v ON_ERROR_STOP=1 "$source" <<SQL
INSERT INTO every_author (id, name) SELECT g, 'author ' || g FROM generate_series(1, 5000) g;
INSERT INTO every_book (id, author_id) SELECT md5(g::text)::uuid, g % 5000 + 1
  FROM generate_series(1, $rows / 2) g;
INSERT INTO "Kinds of Fields" (big, "An Integer", boolean, "char", date, moment, decimal, email, file, float, ip,
    json, positive_big, positive, positive_small, slug, small, text, url, uuid, updated)
  SELECT g, g % 5000, g % 2 = 0, 'action' || g % 20, date '2020-01-01' + g % 2000,
    '2024-01-01'::timestamptz + g * interval '1.000001 s', g / 100.0, 'user' || g % 5000 || '@example.org',
    'files/' || g || '.pdf', g / 7.0, ('10.0.' || g % 255 || '.' || g % 250)::inet,
    jsonb_build_object('ip', '10.0.' || g % 255, 'n', g), g, g, g % 30000, 'slug-' || g % 100, g % 30000,
    'User did ' || md5((g * 7)::text) || ' on ' || g, 'https://example.org/' || g, md5(g::text)::uuid, now()
  FROM generate_series(1, $rows / 2) g;
VACUUM ANALYZE;
SQL
cat >"$work/coeval.toml" <<TOML
[database.main]
url = "$source"
django = { manage = "$work/manage.py", python = "$work/python" }
TOML
printf '#!/bin/sh\nshift\nDATABASE_URL=%s exec %s %s "$@"\n' \
  "'$source'" "$python" "$here/../tests/every/manage.py" >"$work/python"
chmod +x "$work/python"; touch "$work/manage.py"
export COEVAL_CONFIG=$work/coeval.toml
"$coeval" -q init >/dev/null
"$coeval" -q backup >/dev/null

echo "— records"
timed 'dumpdata | gzip' bash -c "DATABASE_URL=$source manage dumpdata | gzip >'$work/dump.json.gz'"
dumped=$seconds
timed 'coeval export' "$coeval" -q export latest -o "$work/package.tar.gz"
exported=$seconds
timed 'coeval export --only database' "$coeval" -q export latest --only database -o "$work/bare.json.gz"
goal 'export, as fast as dumpdata' "$(ratio "$dumped" "$exported")" least 20
timed 'loaddata' bash -c "DATABASE_URL=$empty manage loaddata '$work/bare.json.gz'"
loaded=$seconds
timed 'coeval import' "$coeval" -q import "$work/package.tar.gz"
imported=$seconds
timed 'coeval restore into a migrated database' "$coeval" -q restore latest --database "$target"
goal 'import and restore, as fast as loaddata' "$(ratio "$loaded" "$(sum "$imported" "$seconds")")" least 20

echo "— uploads"
mkdir "$work/uploads"
# A third of it text, as applications have it; the rest does not compress.
for n in $(seq $((uploads / 3))); do
  head -c 2097152 /dev/urandom >"$work/uploads/$n.jpg"
  head -c 700000 /dev/urandom | base64 -w 100 | head -c 1048576 | tr '0-9A-M' 'e' >"$work/uploads/$n.txt"
done
unset COEVAL_CONFIG
"$coeval" -q backup "$work/uploads" >/dev/null
timed 'tar | pigz -6' bash -c "tar -C '$work' -cf - uploads | pigz -6 >'$work/uploads.tar.gz'"
packed=$seconds
timed 'coeval export' "$coeval" -q export latest -o "$work/package.tar.gz"
goal 'export, as fast as tar | pigz' "$(ratio "$packed" "$seconds")" least 0.9
stat -c '%-60n %s bytes' "$work/uploads.tar.gz" "$work/package.tar.gz" | sed "s|$work/||"

echo "— a small application: 515 records, 12 files, 5 MB, for which EDMS documents 30, 10 and 45 s"
edms() { DATABASE_URL='' "$python" "$here/../examples/edms/manage.py" "$@" >/dev/null; }
edms migrate --verbosity 0
cp "$EDMS_HOME/db.sqlite3" "$work/empty.sqlite3"
edms seed --documents 2 --audit-rows 260
largest=$(find "$EDMS_HOME/storage" -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
head -c 5000000 /dev/urandom >"$largest"
database=sqlite://$EDMS_HOME/db.sqlite3
printf '#!/bin/sh\nDATABASE_URL= exec "%s" "$@"\n' "$python" >"$work/python"
cat >"$work/small.toml" <<TOML
[database.main]
url = "$database"
django = { manage = "$here/../examples/edms/manage.py", python = "$work/python" }
[storage.storage]
path = "$EDMS_HOME/storage"
TOML
export COEVAL_CONFIG=$work/small.toml
"$coeval" -q backup >/dev/null
documented() { # SECONDS
  goal 'seconds' "$seconds" most 0.5
  goal 'as fast as EDMS documents of itself' "$(ratio "$1" "$seconds")" least 20
}
timed 'coeval export' "$coeval" -q export latest -o "$work/small.tar.gz"
documented 30
"$coeval" package inspect "$work/small.tar.gz" | grep -E '^(records|files|contents):'
timed 'coeval package verify' "$coeval" -q package verify "$work/small.tar.gz"
documented 10
timed 'coeval import' "$coeval" -q import "$work/small.tar.gz"
imported=$seconds
timed 'coeval restore, the database' "$coeval" -q restore latest --database "sqlite://$work/empty.sqlite3"
imported=$(sum "$imported" "$seconds")
timed 'coeval restore, the files' "$coeval" -q restore latest:/storage --target "$work/restored"
seconds=$(sum "$imported" "$seconds")
documented 45
