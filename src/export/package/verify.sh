#!/bin/sh
# Checks the package that this script lies in, without coeval: every member's checksum and the
# record counts. Run it where the package was unpacked:  sh scripts/verify.sh
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    echo "error: this script needs Python 3; say where it is: PYTHON=/path/to/python3" >&2
    exit 2
fi

if [ -f database/checksum.txt ]; then
    (cd database && sha256sum --quiet -c checksum.txt)
    echo "ok: database/checksum.txt"
fi

"$python" - <<'PYTHON'
import hashlib, json, os, sys

def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

faults = []
with open("metadata.json", encoding="utf-8") as file:
    members = json.load(file)["coeval"]["members"]
for name, listed in members.items():
    if not os.path.isfile(name):
        faults.append(f"{name} is missing")
    elif os.path.getsize(name) != listed["size"]:
        faults.append(f"{name} has {os.path.getsize(name)} bytes, not {listed['size']}")
    elif sha256(name) != listed["sha256"]:
        faults.append(f"{name} has another checksum")
for folder, _, files in os.walk("."):
    for file in files:
        name = os.path.relpath(os.path.join(folder, file), ".")
        if os.path.islink(name):
            continue
        if name != "metadata.json" and name not in members:
            faults.append(f"{name} is not part of the package")
print(f"ok: {len(members)} members" if not faults else f"{len(members)} members checked")

if os.path.exists("database/database_backup.json"):
    counts = {}
    with open("database/database_backup.json", encoding="utf-8") as file:
        for record in json.load(file):
            counts[record["model"]] = counts.get(record["model"], 0) + 1
    with open("database/backup_metadata.json", encoding="utf-8") as file:
        expected = {model: n for model, n in json.load(file)["model_counts"].items() if n}
    for model in sorted(counts.keys() | expected.keys()):
        if counts.get(model, 0) != expected.get(model, 0):
            faults.append(f"{model}: {counts.get(model, 0)} records, not {expected.get(model, 0)}")
    print(f"{sum(counts.values())} records of {len(counts)} models")

for fault in faults:
    print("FAULT:", fault)
sys.exit(1 if faults else 0)
PYTHON
