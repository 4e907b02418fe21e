#!/usr/bin/env bash
# The life of an application, without any server: snapshots, a disaster, the way back, a package for
# somebody else. Everything happens in a scratch folder; every claim is compared, not looked at.
#   scripts/demo.sh sqlite|postgres COEVAL      COEVAL is the program; `make demo` builds it
set -euo pipefail
[ $# = 2 ] || { echo "usage: scripts/demo.sh sqlite|postgres COEVAL" >&2; exit 2; }
database=$1 coeval=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
edms=$(realpath "$here/../examples/edms")

work=$(mktemp -d)
chmod 755 "$work"   # PostgreSQL runs as another user when this is run by root
leave() { [ ! -e "$work/cluster" ] || "$here/postgres.sh" stop "$work/cluster"; rm -rf "$work"; }
trap leave EXIT
trap 'echo "the demonstration failed in line $LINENO" >&2' ERR

# How it looks: what is going on in words, then the command, then what it really said.
step=0
say() { step=$((step + 1)); printf '\n\033[1m%d. %s\033[0m\n' $step "$*"; }
tell() { printf '%s\n' "$*"; }
indented() { sed 's/^/    /'; }
brief() { grep -vE '^ +[0-9a-f]{64} '; }   # without the root hash of every table
run() { printf '  $ %s\n' "$*"; "$@" 2>&1 | indented; }
same() { # DESCRIPTION A B
  diff -u "$2" "$3" >&2 || { echo "these should be the same: $1" >&2; exit 1; }
  printf '  ✓ %s\n' "$1"
}
differ() { ! cmp -s "$2" "$3" || { echo "these should differ: $1" >&2; exit 1; }; }

mkdir -p "$work/bin" "$work/app"
ln -s "$coeval" "$work/bin/coeval"
export PATH="$work/bin:$PATH" COEVAL_CACHE_DIR=$work/cache EDMS_HOME=$work/app NO_COLOR=1
python=$("$here/venv.sh" 5.2)
manage.py() { "$python" "$edms/manage.py" "$@"; }

# What a database and what files are, as seen by programs that know nothing of coeval.
rows() { manage.py fingerprint --exact >"$1"; }
files() { (cd "$work/app" && find storage .env -printf '%p %y %m %T@ ' \( -type f -exec sha256sum {} \; -o -printf '\n' \) | sed 's/  .*//' | LC_ALL=C sort) >"$1"; }
look() { rows "$work/$1.rows"; files "$work/$1.files"; }
root_of() { coeval snapshots --json | "$python" -c '
import json, sys
for line in sys.stdin:
    snapshot = json.loads(line)
    if sys.argv[1] in snapshot["tags"]: print(snapshot["root"])' "$1"; }

cd "$work"
url=sqlite://$work/app/db.sqlite3
export DATABASE_URL=sqlite:///db.sqlite3
fresh=sqlite:///fresh.sqlite3
if [ "$database" = postgres ]; then
  tell "A private PostgreSQL is started; it will be gone afterwards."
  server=$("$here/postgres.sh" start "$work/cluster")
  psql -q "$server" -c 'CREATE DATABASE edms' -c 'CREATE DATABASE fresh'
  url=${server%/*}/edms DATABASE_URL=${server%/*}/edms fresh=${server%/*}/fresh
fi
SECONDS=0

say "An application: documents with uploads, users with roles, an audit trail, on $database"
run manage.py migrate --verbosity 0
run manage.py seed
cat >coeval.toml <<TOML
[repository]
url = "repository"
key-file = "edms.key"

[application]
name = "edms"

[database.main]
url = "$url"
django = { manage = "$edms/manage.py", python = "$python" }

[storage.documents]
path = "app/storage/documents"
[storage.media]
path = "app/storage/media"

[configuration]
files = ["app/.env"]
TOML
tell "It is described in coeval.toml:"
grep -v '^$' coeval.toml | indented

say "A repository, and the first snapshot"
run coeval init
run coeval backup --tag seeded

say "A day of work, and the second snapshot: it costs what changed"
run manage.py happen 1
run coeval backup --tag evening
look evening
sleep 1.1
before=$(date -u +%Y-%m-%dT%H:%M:%SZ)
sleep 1.1

say "A disaster, noticed only after the next snapshot"
run manage.py happen 2
run coeval backup --tag disaster
look disaster
differ "the disaster" evening.rows disaster.rows
differ "the disaster" evening.files disaster.files

say "The timeline, and what happened between the last two snapshots"
run coeval snapshots
run coeval diff latest~1 latest >diff.txt
head -12 diff.txt
tell "    … $(wc -l <diff.txt) lines in all; of the uploads and the configuration:"
grep -E 'storage|configuration' diff.txt | head -12

say "Back to $before, before the disaster: only what differs is changed"
run coeval restore "@$before" --in-place --dry-run
run coeval restore "@$before" --in-place
look restored
same "every row is as it was that evening (SHA-256 of every table)" evening.rows restored.rows
same "every file is as it was: content, mode, time (SHA-256 of every file)" evening.files restored.files
run coeval backup --tag restored
root_of evening >evening.root; root_of restored >restored.root
same "the root hash of the new snapshot is that of the evening's" evening.root restored.root

say "Was it the wrong time? Undo, and the disaster is back; undo again, and it is gone"
run coeval undo | brief
look undone
same "every row is as the disaster left it" disaster.rows undone.rows
same "every file is as the disaster left it" disaster.files undone.files
run coeval undo | brief
look again
same "every row is as it was that evening" evening.rows again.rows
same "every file is as it was that evening" evening.files again.files

say "A package for another environment, which needs no coeval to be read"
tell "Secrets and sessions stay here unless --plaintext is given; what is left out is listed."
run coeval export tag:evening -o migration_package.tar.gz
run coeval package verify migration_package.tar.gz
tar -tzf migration_package.tar.gz >members.txt
printf '  $ %s\n' "tar -tzf migration_package.tar.gz"
{ grep -v '^storage/d' members.txt | head -16; echo "… $(wc -l <members.txt) members in all"; } | indented
mkdir unpacked
run tar -xzf migration_package.tar.gz -C unpacked
(cd unpacked/database && run sha256sum --check --quiet checksum.txt)

say "Stock Django loads it into a fresh database"
export DATABASE_URL=$fresh
run manage.py migrate --verbosity 0
run manage.py loaddata unpacked/database/database_backup.json
ours=(--exclude django_session --exclude django_migrations)   # they hold the time of the run
manage.py fingerprint "${ours[@]}" >loaded.rows
DATABASE_URL=$([ "$database" = sqlite ] && echo sqlite:///db.sqlite3 || echo "$url") \
  manage.py fingerprint "${ours[@]}" >source.rows
same "every row of every table is the snapshot's ($(awk '{n += $2} END {print n}' loaded.rows) rows in $(wc -l <loaded.rows) tables)" source.rows loaded.rows

say "And the repository is sound, to the last byte"
run coeval check --read-data
printf '\nDone in %d seconds.\n' $SECONDS
