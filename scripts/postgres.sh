#!/usr/bin/env bash
# A private PostgreSQL cluster for demonstrations and tests; it leaves nothing behind.
#   scripts/postgres.sh start DIR [INITDB-OPTION…]   makes and starts a cluster in DIR, prints its URL
#   scripts/postgres.sh stop DIR                     stops it and removes DIR
# No password, but only this machine can connect: through 127.0.0.1 and a socket in DIR.
# It is made to be thrown away: fsync is off.
set -euo pipefail

usage() { echo "usage: scripts/postgres.sh start DIR [INITDB-OPTION…] | stop DIR" >&2; exit 2; }
fail() { echo "error: $*" >&2; exit 1; }
[ $# -ge 2 ] || usage
action=$1 dir=$(realpath -m -- "$2"); shift 2
mark=$dir/.coeval-postgres   # only a directory with this file is ever removed

# The newest server of the usual places.
binaries() {
  local initdb
  initdb=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb | grep -v '[*]' | sort -V | tail -1)
  initdb=${initdb:-$(command -v initdb || true)}
  [ -n "$initdb" ] || fail "no PostgreSQL server is installed; run scripts/install.sh postgres (Debian: apt-get install postgresql)"
  dirname -- "$initdb"
}

# PostgreSQL refuses to run as root.
as_owner() {
  if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

url() { echo "postgres://postgres@127.0.0.1:$(cat "$mark")/postgres"; }

start() {
  local attempt port locale=C
  if [ -s "$mark" ] && as_owner "$bin/pg_ctl" status -D "$dir/data" >/dev/null; then url; return; fi
  if [ -f "$mark" ]; then rm -rf -- "$dir"; fi   # left over from a cluster that died
  mkdir -p -- "$dir"
  [ -z "$(ls -A -- "$dir")" ] || fail "$dir is not empty"
  trap 'rm -rf -- "$dir"' EXIT   # until it runs
  : >"$mark"
  if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || fail "running as root needs the user 'postgres', which the PostgreSQL package makes"
    chown -R postgres: "$dir"
    as_owner test -x "$dir" || fail "the user 'postgres' cannot enter $dir; choose a directory below /tmp"
  fi
  locale -a 2>/dev/null | grep -qix 'c.utf-\?8' && locale=C.UTF-8
  as_owner "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --no-sync --locale=$locale "$@" \
    >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; fail "initdb failed"; }
  # A socket's path has at most 107 bytes.
  [ ${#dir} -le 85 ] || echo "note: $dir is too long for a socket; only 127.0.0.1 can be used" >&2
  cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$([ ${#dir} -gt 85 ] || echo "$dir")'
fsync = off
full_page_writes = off
wal_level = logical
CONF
  for attempt in 1 2 3 4 5; do   # somebody may take the port in between
    port=$(free_port)
    if as_owner "$bin/pg_ctl" start -w -s -D "$dir/data" -l "$dir/server.log" -o "-p $port" >/dev/null 2>&1; then
      trap - EXIT
      echo "$port" >"$mark"; url; return
    fi
  done
  tail -20 "$dir/server.log" >&2
  fail "PostgreSQL did not start (after $attempt attempts)"
}

stop() {
  [ -e "$dir" ] || return 0
  [ -f "$mark" ] || fail "$dir holds no cluster of this script"
  if [ -f "$dir/data/postmaster.pid" ]; then as_owner "$bin/pg_ctl" stop -s -m immediate -D "$dir/data" >&2 || true; fi
  rm -rf -- "$dir"
}

bin=$(binaries)
case $action in
  start) start "$@" ;;
  stop) stop ;;
  *) usage ;;
esac
