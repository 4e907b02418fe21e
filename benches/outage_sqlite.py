"""What benches/outage.sh measures of SQLite: a reader that looks accounts up as fast as it can and a
writer that changes one, each with the busy timeout that Python and Django have (5 seconds)."""

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time

SCHEMA = """
CREATE TABLE role (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT UNIQUE, password TEXT, role INTEGER REFERENCES role,
  seen INTEGER);
CREATE TABLE event (id INTEGER PRIMARY KEY, account INTEGER REFERENCES account, what TEXT, detail TEXT);
CREATE INDEX event_account ON event (account);
"""
LOOK_UP = "SELECT a.id, r.name FROM account a JOIN role r ON r.id = a.role WHERE a.email = ?"


def connect(path):
    return sqlite3.connect(path, isolation_level=None, timeout=5)


def fill(db, accounts, events):
    db.executescript(SCHEMA)
    db.execute("BEGIN")
    numbers = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {events})"
    db.execute(f"{numbers} INSERT INTO role SELECT n, 'role ' || n FROM n WHERE n <= 10")
    db.execute(f"""{numbers} INSERT INTO account SELECT n, 'u' || n || '@x', hex(zeroblob(30)) || n, 1 + n % 10, 0
                   FROM n WHERE n <= {accounts}""")
    db.execute(f"""{numbers} INSERT INTO event SELECT n, 1 + n % {accounts}, 'viewed', hex(zeroblob(60)) || n
                   FROM n""")
    db.execute("COMMIT")


def wreck(db, percent):
    part = 400 // percent
    db.execute("BEGIN")
    db.execute(f"UPDATE account SET password = 'x' WHERE id % {part} < 2")
    db.execute(f"UPDATE event SET what = 'x' WHERE id % {part} < 2")
    db.execute(f"DELETE FROM event WHERE id % {part} = 2")
    db.execute(f"INSERT INTO event (account, what, detail) SELECT account, 'new', detail FROM event WHERE id % {part} = 3")
    db.execute("COMMIT")


def read(path, accounts, over, answers):
    db, lookups, missed, longest = connect(path), 0, 0, 0.0
    while not over.is_set():
        begun = time.perf_counter()
        try:
            found = db.execute(LOOK_UP, [f"u{lookups % accounts + 1}@x"]).fetchone()
        except sqlite3.OperationalError:
            found = None
        longest = max(longest, time.perf_counter() - begun)
        lookups += 1
        missed += found is None
    answers.put({"lookups": lookups, "missed": missed, "longest_read_ms": round(longest * 1000, 1)})


def write(path, over, answers):
    db, failed, longest = connect(path), 0, 0.0
    while not over.is_set():
        begun = time.perf_counter()
        try:
            db.execute("UPDATE account SET seen = seen + 1 WHERE id = 1")
        except sqlite3.OperationalError:
            failed += 1
        longest = max(longest, time.perf_counter() - begun)
        time.sleep(0.01)
    answers.put({"writer_blocked_ms": round(longest * 1000, 1), "writer_refused": failed})


def state(db):
    return [db.execute(f"SELECT count(*), total(length({c}) + id % 977) FROM {t}").fetchone()
            for t, c in (("account", "password"), ("event", "what || detail"))]


def measure(run, path, accounts):
    over, answers = multiprocessing.Event(), multiprocessing.Queue()
    users = [multiprocessing.Process(target=read, args=(path, accounts, over, answers)),
             multiprocessing.Process(target=write, args=(path, over, answers))]
    for user in users:
        user.start()
    time.sleep(0.5)
    begun = time.perf_counter()
    run("restore", "tag:good", "--in-place", "-q")
    total = time.perf_counter() - begun
    time.sleep(0.2)
    over.set()
    seen = answers.get() | answers.get()
    for user in users:
        user.join()
    return {"total_ms": round(total * 1000), **seen}


def main():
    coeval, work, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    accounts, noticed = rows // 20, False
    for mode in ("wal", "delete"):
        place = f"{work}/sqlite-{mode}"
        os.makedirs(place)
        path = f"{place}/app.sqlite3"
        environment = {**os.environ, "COEVAL_CACHE_DIR": f"{place}/cache"}

        def run(*arguments):
            done = subprocess.run([coeval, *arguments], cwd=place, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{arguments}: {done.stdout}{done.stderr}")

        with open(f"{place}/coeval.toml", "w") as out:
            out.write(f'[repository]\nurl = "repo"\nkey-file = "key"\n[database.main]\nurl = "sqlite://{path}"\n')
        db = connect(path)
        db.execute(f"PRAGMA journal_mode = {mode}")
        fill(db, accounts, rows - accounts)
        run("init", "-q")
        run("backup", "-q", "--tag", "good")
        good = state(db)
        for percent in (1, 40):
            wreck(db, percent)
            seen = {"method": f"coeval restore, SQLite, {mode}", "different_percent": percent,
                    **measure(run, path, accounts), "restored": state(db) == good}
            print(json.dumps(seen), flush=True)
            noticed |= bool(seen["missed"]) or not seen["restored"]
            # Without a log a commit has to wait for readers, and they for it.
            noticed |= mode == "wal" and seen["longest_read_ms"] > 50
    if noticed:
        sys.exit("somebody noticed a restore of SQLite")


if __name__ == "__main__":
    main()
