#!/usr/bin/env bash
# What an unchanged backup into an object store costs, beside restic, in one run: a tree of files in a
# bucket of a server on this host (moto, as in the tests: docs/adr/0018). Prints times and requests.
#   benches/remote.sh COEVAL TREE
set -euo pipefail
[ $# = 2 ] || { echo "usage: benches/remote.sh COEVAL TREE" >&2; exit 2; }
coeval=$(realpath "$1") tree=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
python=$("$here/../scripts/venv.sh" moto)

work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
export HOME=$work AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-1 AWS_ALLOW_HTTP=1
"$python" -c 'from moto.server import main; main(["-H", "127.0.0.1", "-p", "0"])' 2>"$work/requests" &
server=$!
for _ in $(seq 100); do
  endpoint=$(grep -o 'http://127.0.0.1:[0-9]*' "$work/requests" | head -1) && break || sleep 0.2
done
"$python" -c 'import sys, boto3; boto3.client("s3", endpoint_url=sys.argv[1]).create_bucket(Bucket="bucket")' "$endpoint"
export AWS_ENDPOINT_URL=$endpoint
export COEVAL_REPOSITORY=s3://bucket/coeval COEVAL_KEY_FILE=$work/key COEVAL_CACHE_DIR=$work/cache
export RESTIC_REPOSITORY=s3:$endpoint/bucket/restic RESTIC_PASSWORD=measured RESTIC_CACHE_DIR=$work/restic

timed() { # NAME COMMAND…: sets `seconds`
  local name=$1 before; shift
  before=$(grep -c '"[A-Z]* /' "$work/requests" || true)
  /usr/bin/time -f '%e' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  seconds=$(tail -1 "$work/time")
  printf '%-28s %8.2f s %6d requests\n' "$name" "$seconds" $(($(grep -c '"[A-Z]* /' "$work/requests") - before))
}
"$coeval" -q init >/dev/null
restic -q init
timed 'coeval, first' "$coeval" -q backup "$tree"
timed 'restic, first' restic -q backup "$tree"
for _ in 1 2 3; do
  timed 'coeval, unchanged' "$coeval" -q backup "$tree"
  ours=$(printf '%s\n' "$seconds" "${ours:-$seconds}" | sort -n | head -1)
  timed 'restic, unchanged' restic -q backup "$tree"
  theirs=$(printf '%s\n' "$seconds" "${theirs:-$seconds}" | sort -n | head -1)
done
awk -v ours="$ours" -v theirs="$theirs" 'BEGIN {
  printf "coeval / restic %.3f (goal: at most 0.6) %s\n", ours / theirs, ours / theirs <= 0.6 ? "met" : "NOT MET" }'
