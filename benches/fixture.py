#!/usr/bin/env python3
"""Writes two versions of one audit table, as a fixture and for PostgreSQL, the same in every run.

usage: fixture.py FOLDER [ROWS]      1,500,000 rows when not given, about 742 MB a fixture

FOLDER/v1/database_backup.json    the table as `dumpdata` writes it, one record a line
FOLDER/v2/database_backup.json    the same later: of every 2000 rows, scattered over the table, 2 were updated,
                                  1 was deleted, and 2 are new
FOLDER/table.copy                 version 1 for COPY
FOLDER/changes.sql                what leads from version 1 to version 2
"""

import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

COLUMNS = "id uuid user_id action object_id timestamp description ip_address checksum metadata".split()
VOCABULARY = (
    "audit approval archive batch certificate change contract control deviation document draft effective "
    "employee invoice manual obsolete policy procedure quality record release report review revision "
    "signature supplier training version workflow"
).split()
START = datetime(2024, 1, 1, tzinfo=timezone.utc)


def row(number, revision):
    """One row: what it holds depends on its number and how often it was changed, and on nothing else."""
    rng = Random(f"{number}/{revision}")
    words = rng.choices(VOCABULARY, k=rng.randint(6, 20))
    bits = rng.getrandbits(128 + 256 + 64 + 24)
    address = bits >> 448
    return (
        number,
        f"{bits & (1 << 128) - 1:032x}",
        rng.randrange(500),
        words[0].upper(),
        rng.randrange(1_000_000),
        (START + timedelta(seconds=9 * number, microseconds=rng.randrange(1_000_000))).isoformat(),
        " ".join(words),
        f"10.{address >> 16}.{address >> 8 & 255}.{address & 255}",
        f"{bits >> 128 & (1 << 256) - 1:064x}",
        {"session": f"{bits >> 384 & (1 << 64) - 1:016x}", "ok": rng.random() < 0.97},
    )


def fixture(values):
    fields = dict(zip(COLUMNS[1:], values[1:]))
    return json.dumps({"model": "audit.entry", "pk": values[0], "fields": fields}) + "\n"


def text(value):
    return json.dumps(value) if isinstance(value, dict) else str(value)


def main(folder, rows):
    chosen = Random(1).sample(range(rows), 5 * (rows // 2000))
    updated, added, deleted = (set(chosen[n::5]) | set(chosen[m::5]) for n, m in ((0, 1), (2, 3), (4, 4)))
    for version in ("v1", "v2"):
        (folder / version).mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "v1/database_backup.json", "w") as v1,
        open(folder / "v2/database_backup.json", "w") as v2,
        open(folder / "table.copy", "w") as table,
        open(folder / "changes.sql", "w") as changes,
    ):
        changes.write("BEGIN;\n")
        for number in range(0, 2 * rows, 2):   # even numbers, so that new rows find room between
            values = row(number, 0)
            line = fixture(values)
            v1.write(line)
            table.write("\t".join(map(text, values)) + "\n")
            if number // 2 in deleted:
                changes.write(f"DELETE FROM audit_entry WHERE id = {number};\n")
                continue
            if number // 2 in updated:
                values = row(number, 1)
                line = fixture(values)
                settings = ", ".join(f"{name} = '{text(value)}'" for name, value in zip(COLUMNS, values))
                changes.write(f"UPDATE audit_entry SET {settings} WHERE id = {number};\n")
            v2.write(line)
            if number // 2 in added:
                values = row(number + 1, 0)
                v2.write(fixture(values))
                listed = ", ".join(f"'{text(value)}'" for value in values)
                changes.write(f"INSERT INTO audit_entry VALUES ({listed});\n")
        changes.write("COMMIT;\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 1_500_000)
