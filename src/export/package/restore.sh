#!/bin/sh
# Brings the package that this script lies in into a Django application, without coeval: checks
# it, loads the records, copies the uploads, sets the sequences. Run it where the package was
# unpacked:
#   sh scripts/restore.sh --manage "python /app/manage.py" --storage /app/storage [--force]
# The database must be migrated and empty; --force loads into one that is not, where records with
# the same keys are overwritten and others stay.
set -eu

manage='' storage='' force=''
while [ $# -gt 0 ]; do
    case $1 in
    --manage) manage=$2; shift 2 ;;
    --storage) storage=$2; shift 2 ;;
    --force) force=yes; shift ;;
    *) echo "usage: restore.sh --manage 'python manage.py' [--storage DIR] [--force]" >&2; exit 2 ;;
    esac
done
if [ -z "$manage" ]; then
    echo "error: say how manage.py is run: --manage 'python /app/manage.py'" >&2
    exit 2
fi
package=$(cd "$(dirname "$0")/.." && pwd)

echo "== checking the package"
sh "$package/scripts/verify.sh"

if [ -f "$package/database/database_backup.json" ]; then
    echo "== looking at the database"
    # Migrations fill content types, permissions and sites; anything else is data.
    probe='
from django.apps import apps
kept = {"contenttypes.contenttype", "auth.permission", "sites.site"}
full = [m._meta.label for m in apps.get_models() if m._meta.managed and not m._meta.proxy
        and m._meta.label_lower not in kept and m._base_manager.exists()]
print("COEVAL-FULL " + " ".join(full) if full else "COEVAL-EMPTY")'
    # The command may be several words.
    # shellcheck disable=SC2086
    state=$($manage shell -c "$probe" | grep '^COEVAL-' || true)
    case $state in
    COEVAL-EMPTY) ;;
    COEVAL-FULL*)
        if [ -z "$force" ]; then
            echo "error: the database has records of:${state#COEVAL-FULL}" >&2
            echo "       empty it with 'manage.py flush', or add --force to load over it" >&2
            exit 1
        fi ;;
    *) echo "error: '$manage shell' did not say whether the database is empty" >&2; exit 1 ;;
    esac

    echo "== loading the records"
    # shellcheck disable=SC2086
    $manage loaddata "$package/database/database_backup.json"

    # shellcheck disable=SC2086
    vendor=$($manage shell -c 'from django.db import connection; print("COEVAL-VENDOR", connection.vendor)' |
        sed -n 's/^COEVAL-VENDOR //p')
    if [ "$vendor" = postgresql ]; then
        echo "== setting the sequences"
        # shellcheck disable=SC2086
        $manage dbshell <"$package/database/restore_instructions.sql"
    fi
fi

if [ -n "$storage" ] && [ -d "$package/storage" ]; then
    echo "== copying the uploads to $storage"
    mkdir -p "$storage"
    for folder in "$package"/storage/*/; do
        [ -d "$folder" ] && cp -Rp "${folder%/}" "$storage/"
    done
fi

if [ -z "$storage" ] && [ -d "$package/storage" ]; then
    echo "The uploads were not copied: say where they belong with --storage DIR"
fi
if [ -d "$package/database/raw" ]; then
    echo "Tables that belong to no model, as they are in $package/database/raw, were not loaded"
fi
if [ -f "$package/configuration/config_manifest.json" ]; then
    echo "The configuration was not touched: read $package/configuration/RESTORE_INSTRUCTIONS.md"
fi
echo "done"
