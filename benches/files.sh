#!/usr/bin/env bash
# Takes coeval and the peers that are installed through the same life of a repository, in one run:
# a first backup of a tree of files, an unchanged one, the next version, a restore, a full check.
#   benches/files.sh COEVAL TREE_V1 TREE_V2        peers looked for: restic borg bupstash rustic
# Every tool as it is by default, syncing as it does; the page cache is warm for all. The restored
# tree is compared with the original. Prints wall seconds, CPU seconds, peak memory, repository size.
set -euo pipefail
[ $# = 3 ] || { echo "usage: benches/files.sh COEVAL TREE_V1 TREE_V2" >&2; exit 2; }
coeval=$(realpath "$1") v1=$(realpath "$2") v2=$(realpath "$3")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/home" "$work/live"
export HOME=$work/home XDG_CACHE_HOME=$work/home/cache
export RESTIC_PASSWORD=measured RUSTIC_PASSWORD=measured BORG_PASSPHRASE=measured
export BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BUPSTASH_KEY=$work/bupstash.key
export COEVAL_KEY_FILE=$work/coeval.key COEVAL_CACHE_DIR=$work/home/cache/coeval

lay() { rsync -a --delete "$1/" "$work/live/"; find "$work/live" -type f -print0 | xargs -0 cat >/dev/null; }
timed() { # TOOL STEP COMMAND…
  local tool=$1 step=$2 wall user system memory size; shift 2
  sync
  /usr/bin/time -f '%e %U %S %M' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  read -r wall user system memory < <(tail -1 "$work/time")
  size=$(du -s --apparent-size --block-size=1M "$work/$tool" | cut -f1)
  printf '%-9s %-10s %8.2f %8.2f %6d %7d\n' "$tool" "$step" "$wall" "$(echo "$user + $system" | bc)" $((memory / 1024)) "$size"
}
# What each tool is called, and how it does a step.
step() { # TOOL STEP
  local repo=$work/$1 out=$work/out
  case $1-$2 in
    coeval-init) "$coeval" -q -r "$repo" init >/dev/null ;;
    coeval-restore) timed "$@" "$coeval" -q -r "$repo" restore latest --target "$out" ;;
    coeval-check) timed "$@" "$coeval" -q -r "$repo" check --read-data ;;
    coeval-*) timed "$@" "$coeval" -q -r "$repo" backup "$work/live" ;;
    restic-init) restic -q -r "$repo" init ;;
    restic-restore) timed "$@" restic -q -r "$repo" restore latest --target "$out" ;;
    restic-check) timed "$@" restic -q -r "$repo" check --read-data ;;
    restic-*) timed "$@" restic -q -r "$repo" backup "$work/live" ;;
    borg-init) borg init -e repokey-blake2 "$repo" ;;
    borg-restore) mkdir "$out" && cd "$out" && timed "$@" borg extract "$repo::next" && cd / ;;
    borg-check) timed "$@" borg check --verify-data "$repo" ;;
    borg-*) timed "$@" borg create -C zstd,3 "$repo::$2" "$work/live" ;;
    bupstash-init) bupstash new-key -o "$BUPSTASH_KEY" && bupstash init -r "$repo" ;;
    bupstash-restore) mkdir "$out" && timed "$@" bupstash restore -r "$repo" --into "$out" name=next ;;
    bupstash-check) ;;
    bupstash-*) timed "$@" bupstash put -r "$repo" name="$2" "$work/live" ;;
    rustic-init) rustic -r "$repo" --log-level error --no-progress init ;;
    rustic-restore) mkdir "$out" && timed "$@" rustic -r "$repo" --log-level error --no-progress restore latest "$out" ;;
    rustic-check) timed "$@" rustic -r "$repo" --log-level error --no-progress check --read-data ;;
    rustic-*) timed "$@" rustic -r "$repo" --log-level error --no-progress backup "$work/live" ;;
  esac
}

printf '%-9s %-10s %8s %8s %6s %7s\n' tool step wall_s cpu_s MiB repo_MiB
for tool in coeval restic borg bupstash rustic; do
  [ "$tool" = coeval ] || command -v "$tool" >/dev/null || continue
  lay "$v1"
  for step in init first unchanged; do step "$tool" "$step"; done
  lay "$v2"
  for step in next restore check; do step "$tool" "$step"; done
  # Each tool puts the tree somewhere else below its output.
  restored=$(find "$work/out" -type d -exec test -e {}/"$(ls -A "$v2" | head -1)" \; -print -quit)
  diff -r --no-dereference "$restored" "$v2" >/dev/null || { echo "$tool restored something else" >&2; exit 1; }
  chmod -R u+rwX "$work/out" && rm -rf "$work/out"
done
