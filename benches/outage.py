"""What benches/outage.sh measures."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

MODELS = """
from django.db import models
class Role(models.Model):
    name = models.CharField(max_length=50, unique=True)
class Account(models.Model):
    email = models.CharField(max_length=100, unique=True)
    password = models.CharField(max_length=128)
    role = models.ForeignKey(Role, models.CASCADE)
    seen = models.DateTimeField(null=True)
class Team(models.Model):
    name = models.CharField(max_length=50)
class Member(models.Model):
    account = models.ForeignKey(Account, models.CASCADE)
    team = models.ForeignKey(Team, models.CASCADE)
class Document(models.Model):
    owner = models.ForeignKey(Account, models.CASCADE)
    title = models.CharField(max_length=200)
    state = models.CharField(max_length=20)
class Event(models.Model):
    document = models.ForeignKey(Document, models.CASCADE)
    what = models.CharField(max_length=50)
    detail = models.TextField()
class Setting(models.Model):
    account = models.ForeignKey(Account, models.CASCADE)
    value = models.JSONField()
"""
SETTINGS = """
import os
SECRET_KEY = "measured"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"],
    "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"], "USER": os.environ["PGUSER"]}}
"""
TABLES = ["role", "account", "team", "member", "document", "event", "setting"]
# Parts of all rows, the rest are events.
ACCOUNTS, MEMBERS, DOCUMENTS, SETTINGS_OF = 0.05, 0.05, 0.2, 0.05
LOOK_UP = """SELECT a.id, a.password, r.name FROM shop_account a
             JOIN shop_role r ON r.id = a.role_id WHERE a.email = %s"""


def connect(url):
    import psycopg

    return psycopg.connect(url, autocommit=True)


def fill(db, rows):
    accounts, documents = int(rows * ACCOUNTS), int(rows * DOCUMENTS)
    events = rows - accounts - documents - int(rows * (MEMBERS + SETTINGS_OF)) - 60
    for statement in [
        "INSERT INTO shop_role (id, name) SELECT n, 'role ' || n FROM generate_series(1, 10) n",
        f"""INSERT INTO shop_account (id, email, password, role_id) SELECT n, 'u' || n || '@x',
            'pbkdf2_sha256$1000000$' || md5(n::text) || md5('x' || n), 1 + n % 10
            FROM generate_series(1, {accounts}) n""",
        "INSERT INTO shop_team (id, name) SELECT n, 'team ' || n FROM generate_series(1, 50) n",
        f"""INSERT INTO shop_member (id, account_id, team_id) SELECT n, 1 + n % {accounts}, 1 + n % 50
            FROM generate_series(1, {int(rows * MEMBERS)}) n""",
        f"""INSERT INTO shop_document (id, owner_id, title, state) SELECT n, 1 + n % {accounts},
            'Document ' || md5(n::text), 'draft' FROM generate_series(1, {documents}) n""",
        f"""INSERT INTO shop_event (id, document_id, what, detail) SELECT n, 1 + n % {documents},
            'viewed', repeat(md5(n::text), 4) FROM generate_series(1, {events}) n""",
        f"""INSERT INTO shop_setting (id, account_id, value) SELECT n, 1 + n % {accounts},
            json_build_object('theme', n % 7) FROM generate_series(1, {int(rows * SETTINGS_OF)}) n""",
        *(f"SELECT setval(pg_get_serial_sequence('shop_{t}', 'id'), 10000000)" for t in TABLES),
        "ANALYZE",
    ]:
        db.execute(statement)


def wreck(db, percent):
    """Half of the rows that differ are changed, a quarter is gone, a quarter is new."""
    part = 400 // percent
    for statement in [
        f"UPDATE shop_account SET password = 'x' WHERE id % {part} < 2",
        f"UPDATE shop_document SET state = 'x' WHERE id % {part} < 2",
        f"UPDATE shop_event SET what = 'x' WHERE id % {part} < 2",
        f"UPDATE shop_setting SET value = '1' WHERE id % {part} < 2",
        f"DELETE FROM shop_member WHERE id % {part} = 2",
        f"DELETE FROM shop_event WHERE id % {part} = 2",
        f"""INSERT INTO shop_event (document_id, what, detail) SELECT document_id, 'new', detail
            FROM shop_event WHERE id % {part} = 3""",
        "VACUUM ANALYZE",
    ]:
        db.execute(statement)


def read(url, accounts, over, answers):
    db, lookups, missed, longest, number = connect(url), 0, 0, 0.0, 0
    while not over.is_set():
        number = number % accounts + 1
        begun = time.perf_counter()
        try:
            found = db.execute(LOOK_UP, [f"u{number}@x"], prepare=True).fetchone()
        except Exception as error:
            # Whoever is refused because of a deadlock has not been found, either.
            if "deadlock" not in str(error):
                raise
            found = None
        longest = max(longest, time.perf_counter() - begun)
        lookups += 1
        missed += found is None
    answers.put({"lookups": lookups, "missed": missed, "longest_read_ms": round(longest * 1000, 1)})


def write(url, over, answers):
    db, longest = connect(url), 0.0
    while not over.is_set():
        begun = time.perf_counter()
        db.execute("UPDATE shop_account SET seen = now() WHERE id = 1", prepare=True)
        longest = max(longest, time.perf_counter() - begun)
        time.sleep(0.002)
    answers.put({"writer_blocked_ms": round(longest * 1000, 1)})


def state(db):
    """A hash of each table, without what the writer writes."""
    columns = {"account": "id, email, password, role_id"}
    hashed = "SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM (SELECT {} FROM shop_{}) t"
    return [db.execute(hashed.format(columns.get(t, "*"), t)).fetchone()[0] for t in TABLES]


class Methods:
    def __init__(self, coeval, url, work):
        self.coeval, self.url, self.work = coeval, url, work

    def run(self, *command):
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def manage(self, *arguments):
        return self.run(sys.executable, "manage.py", *arguments)

    def prepare(self, db):
        self.run(self.coeval, "init", "-q")
        self.run(self.coeval, "backup", "-q", "--tag", "good")
        self.manage("dumpdata", "shop", "-o", "fixture.json")
        for table in TABLES:
            with open(f"{self.work}/{table}.copy", "wb") as out:
                with db.cursor().copy(f"COPY shop_{table} TO STDOUT") as copy:
                    out.writelines(copy)

    def by_coeval(self):
        self.run(self.coeval, "restore", "tag:good", "--in-place", "-q")

    def by_copy(self):
        """Takes its locks one after the other, so that a reader of two tables can deadlock it."""
        while True:
            try:
                return self.copy_once()
            except Exception as error:
                if "deadlock" not in str(error):
                    raise

    def copy_once(self):
        db = connect(self.url)
        with db.transaction():
            db.execute("TRUNCATE " + ", ".join(f"shop_{table}" for table in TABLES))
            for table in TABLES:
                with open(f"{self.work}/{table}.copy", "rb") as rows:
                    with db.cursor().copy(f"COPY shop_{table} FROM STDIN") as copy:
                        while part := rows.read(1 << 16):
                            copy.write(part)

    def by_loaddata(self):
        self.manage("flush", "--no-input")
        self.manage("loaddata", "fixture.json")


def measure(name, method, url, accounts):
    over, answers = multiprocessing.Event(), multiprocessing.Queue()
    users = [
        multiprocessing.Process(target=read, args=(url, accounts, over, answers)),
        multiprocessing.Process(target=write, args=(url, over, answers)),
    ]
    for user in users:
        user.start()
    time.sleep(0.5)
    begun = time.perf_counter()
    method()
    total = time.perf_counter() - begun
    time.sleep(0.2)
    over.set()
    seen = answers.get() | answers.get()
    for user in users:
        user.join()
    return {"method": name, "total_ms": round(total * 1000), **seen}


def main():
    coeval, url, work, rows = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    db = connect(url)
    info = db.info
    os.environ.update(
        PGHOST=info.host, PGPORT=str(info.port), PGUSER=info.user, PGDATABASE=info.dbname,
        DJANGO_SETTINGS_MODULE="settings", COEVAL_CACHE_DIR=f"{work}/cache",
    )
    os.mkdir(f"{work}/shop")
    for name, text in {
        "shop/__init__.py": "", "shop/models.py": MODELS, "settings.py": SETTINGS,
        "manage.py": "from django.core.management import execute_from_command_line as run\n"
                     "import sys\nrun(sys.argv)\n",
        "coeval.toml": f'[repository]\nurl = "repo"\nkey-file = "key"\n[database.main]\nurl = "{url}"\n',
    }.items():
        with open(f"{work}/{name}", "w") as out:
            out.write(text)
    methods = Methods(coeval, url, work)
    methods.manage("migrate", "--run-syncdb", "--verbosity", "0")
    fill(db, rows)
    methods.prepare(db)
    good, measured = state(db), []
    for percent in (1, 40):
        for name, method in [
            ("coeval restore", methods.by_coeval),
            ("TRUNCATE and COPY", methods.by_copy),
            ("flush and loaddata", methods.by_loaddata),
        ]:
            wreck(db, percent)
            seen = {"different_percent": percent, **measure(name, method, url, int(rows * ACCOUNTS))}
            seen["restored"] = state(db) == good
            print(json.dumps(seen), flush=True)
            measured.append(seen)
    print(f"\n{'':20} {'differs':>8} {'total ms':>9} {'missed':>7} {'of':>8} {'longest read ms':>16} {'writer ms':>10}")
    for seen in measured:
        print(f"{seen['method']:20} {seen['different_percent']:>6} % {seen['total_ms']:>9} {seen['missed']:>7} "
              f"{seen['lookups']:>8} {seen['longest_read_ms']:>16} {seen['writer_blocked_ms']:>10}")
    ours = [seen for seen in measured if seen["method"] == "coeval restore"]
    if not all(seen["restored"] for seen in ours):
        sys.exit("coeval did not bring everything back")
    if any(seen["missed"] or seen["longest_read_ms"] > 20 for seen in ours):
        sys.exit("somebody noticed the restore")


if __name__ == "__main__":
    main()
