#!/usr/bin/env bash
# Takes coeval and the peers that are installed through the same life of a repository, in one run:
# a first backup, an unchanged one, the next version, a restore, a check of structure and one of all
# data, and forgetting and collecting all but the last. Once with a tree of files in two versions, if
# given, and once with a table's fixture as a plain file.
#   benches/peers.sh COEVAL [TREE_V1 TREE_V2]      peers looked for: restic rustic borg bupstash
# ROWS=1500000 says how large the fixture is (742 MB), TMPDIR where 10 GB are free for all of it.
# Every tool as it is by default, syncing as it does; the page cache is warm for all. What is restored
# is compared with the original. Prints what was measured, then tables with ratios beside the goals.
set -euo pipefail
[ $# = 1 ] || [ $# = 3 ] || { echo "usage: benches/peers.sh COEVAL [TREE_V1 TREE_V2]" >&2; exit 2; }
coeval=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
tools=(coeval)
for tool in restic rustic borg bupstash; do ! command -v $tool >/dev/null || tools+=($tool); done

work=$(mktemp -d)
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
mkdir "$work/home" "$work/live"
export HOME=$work/home XDG_CACHE_HOME=$work/home/cache
export RESTIC_PASSWORD=measured RUSTIC_PASSWORD=measured BORG_PASSPHRASE=measured
export BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BUPSTASH_KEY=$work/bupstash.key
export COEVAL_KEY_FILE=$work/coeval.key COEVAL_CACHE_DIR=$work/home/cache/coeval

# coeval reads files of the last two seconds twice; that of a file at rest is measured.
lay() { rsync -a --delete "$1/" "$work/live/"; find "$work/live" -type f -print0 | xargs -0 cat >/dev/null; sleep 2; }
timed() { # TOOL STEP COMMAND…
  local tool=$1 step=$2 wall user system memory size=0; shift 2
  sync
  /usr/bin/time -f '%e %U %S %M' -o "$work/time" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  read -r wall user system memory < <(tail -1 "$work/time")
  [ ! -d "$work/$tool" ] || size=$(du -s --apparent-size --block-size=1 "$work/$tool" | cut -f1)
  awk -v workload="$workload" -v tool="$tool" -v step="${step%[0-9]}" -v wall="$wall" -v cpu="$user $system" \
    -v memory="$memory" -v size="$size" 'BEGIN { split(cpu, part)
      printf "%-8s %-9s %-10s %8.2f %8.2f %6d %12d\n", workload, tool, step, wall, part[1] + part[2], memory / 1024, size
    }' | tee -a "$work/measured"
}
# What each tool is called, and how it does a step.
step() { # TOOL STEP
  local repo=$work/$1 out=$work/out
  local quiet=(rustic -r "$repo" --log-level error --no-progress)
  case $1-$2 in
    coeval-init) rm -f "$COEVAL_KEY_FILE" && "$coeval" -q -r "$repo" init >/dev/null ;;
    coeval-restore) timed "$@" "$coeval" -q -r "$repo" restore latest --target "$out" ;;
    coeval-structure) timed "$@" "$coeval" -q -r "$repo" check ;;
    coeval-collect) timed "$@" bash -c "'$coeval' -q -r '$repo' forget --keep-last 1 --group-by '' && '$coeval' -q -r '$repo' prune --immediate" ;;
    coeval-check) timed "$@" "$coeval" -q -r "$repo" check --read-data ;;
    coeval-*) timed "$@" "$coeval" -q -r "$repo" backup "$work/live" ;;
    restic-init) restic -q -r "$repo" init ;;
    restic-restore) timed "$@" restic -q -r "$repo" restore latest --target "$out" ;;
    restic-structure) timed "$@" restic -q -r "$repo" check ;;
    restic-collect) timed "$@" restic -q -r "$repo" forget --keep-last 1 --group-by '' --prune ;;
    restic-check) timed "$@" restic -q -r "$repo" check --read-data ;;
    restic-*) timed "$@" restic -q -r "$repo" backup "$work/live" ;;
    rustic-init) "${quiet[@]}" init ;;
    rustic-restore) mkdir "$out" && timed "$@" "${quiet[@]}" restore latest "$out" ;;
    rustic-structure) timed "$@" "${quiet[@]}" check ;;
    rustic-collect) timed "$@" "${quiet[@]}" forget --keep-last 1 --group-by '' --prune --instant-delete ;;
    rustic-check) timed "$@" "${quiet[@]}" check --read-data ;;
    rustic-*) timed "$@" "${quiet[@]}" backup "$work/live" ;;
    borg-init) borg init -e repokey-blake2 "$repo" 2>/dev/null ;;
    borg-restore) mkdir "$out" && cd "$out" && timed "$@" borg extract "$repo::next" && cd / ;;
    borg-structure) timed "$@" borg check "$repo" ;;
    borg-collect) timed "$@" bash -c "borg prune --keep-last 1 '$repo' && borg compact '$repo'" ;;
    borg-check) timed "$@" borg check --verify-data "$repo" ;;
    borg-*) timed "$@" borg create -C zstd,3 "$repo::$2" "$work/live" ;;
    bupstash-init) rm -f "$BUPSTASH_KEY" && bupstash new-key -o "$BUPSTASH_KEY" && bupstash init -r "$repo" ;;
    bupstash-restore) mkdir "$out" && timed "$@" bupstash restore -r "$repo" --into "$out" name=next ;;
    bupstash-check | bupstash-structure) ;; # it has none
    bupstash-collect) timed "$@" bash -c "bupstash rm -r '$repo' --allow-many name=first or name='unchanged*' && bupstash gc -r '$repo'" ;;
    bupstash-*) timed "$@" bupstash put -r "$repo" name="$2" "$work/live" ;;
    # No backup can do with less than to look at every file, and no restore than to write them.
    limit-unchanged?) timed "$@" find "$work/live" -printf %s ;;
    limit-restore) timed "$@" cp -a "$work/live" "$out" ;;
    limit-*) ;;
  esac
}
life() { # WORKLOAD V1 V2
  local tool step restored
  workload=$1
  for tool in limit "${tools[@]}"; do
    lay "$2"
    # An unchanged backup is so short that the least of three says what it takes.
    for step in init first unchanged1 unchanged2 unchanged3; do step "$tool" $step; done
    lay "$3"
    for step in next restore structure check collect; do step "$tool" $step; done
    # Each tool puts the files somewhere else below its output.
    restored=$(find "$work/out" -type d -exec test -e {}/"$(ls -A "$3" | head -1)" \; -print -quit)
    diff -r --no-dereference "$restored" "$3" >/dev/null || { echo "$tool restored something else" >&2; exit 1; }
    chmod -R u+rwX "$work/out" && rm -rf "$work/out" "${work:?}/$tool" "$work/home" && mkdir "$work/home"
  done
}

printf '%-8s %-9s %-10s %8s %8s %6s %12s\n' workload tool step wall_s cpu_s MiB repository
[ $# = 1 ] || life tree "$(realpath "$2")" "$(realpath "$3")"
"$here/fixture.py" "$work/data" "${ROWS:-1500000}"
rm "$work/data/table.copy" "$work/data/changes.sql"
life fixture "$work/data/v1" "$work/data/v2"
"$here/peers.py" "$work/measured"
