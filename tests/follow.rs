//! Snapshots that cost what changed, through the program as it is called: an unchanged database is
//! known by its transactions, a changed one by its log, and any transaction between two snapshots
//! can be gone back to.
//!
//! Needs the server's programs (`scripts/install.sh postgres`); without them the tests fail.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::disallowed_methods, reason = "an application writes while it is captured")]

#[expect(dead_code, reason = "each file of tests needs a part of it")]
#[path = "common/postgres.rs"]
mod private;
#[path = "common/world.rs"]
mod world;

use std::sync::atomic::{AtomicBool, Ordering};

use private::Database;
use serde_json::Value;
use world::World;

const ACCOUNTS: &str = "
    CREATE TABLE accounts (id integer PRIMARY KEY, balance integer NOT NULL, note text);
    INSERT INTO accounts SELECT n, 100, 'a' || n FROM generate_series(1, 500) n;
    CREATE TABLE \"Odd one\" (a text, b smallint, c boolean, big text, PRIMARY KEY (a, b));
    INSERT INTO \"Odd one\" SELECT 'it''s ' || n, n, n % 2 = 0, repeat(md5(n::text), 400)
        FROM generate_series(1, 20) n;
    ALTER TABLE \"Odd one\" ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE keyless (a integer, b text);
    INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, 'y');
    CREATE UNLOGGED TABLE scratch (id integer PRIMARY KEY);
    CREATE SEQUENCE tickets;";

struct Application {
    world: World,
    database: Database,
}

impl Application {
    fn new() -> Self {
        let database = Database::with(ACCOUNTS);
        let world = World::with_database(&database.url, "");
        Self { world, database }
    }

    /// One whose changes are followed.
    fn followed() -> Self {
        let application = Self::new();
        application.backup();
        application.world.ok(&["database", "setup", "main"]);
        application.backup();
        application
    }

    /// The summary of a backup.
    fn backup(&self) -> Value {
        self.world.json(&["backup"]).pop().unwrap()
    }

    /// Takes a snapshot, and says why every table was read, if every one was.
    fn reason(&self) -> String {
        let output = self.world.run(&["backup"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stderr).unwrap();
        let reason = said.lines().find_map(|line| line.split_once("is read, because "));
        reason.map_or("", |(_, reason)| reason).to_owned()
    }

    /// Takes a snapshot that must not read every table, and another that does: they are equal.
    fn assert_followed(&self) {
        assert_eq!(self.reason(), "");
        self.world.ok(&["backup", "-q", "--force"]);
        let difference = self.world.ok(&["diff", "latest~1", "latest"]);
        assert!(difference.contains("no difference"), "{difference}");
    }

    fn records(&self, place: &str) -> Vec<Value> {
        world::lines(&self.world.ok(&["cat", place]))
    }

    /// What the accounts of a snapshot hold together.
    fn total(&self, snapshot: &str) -> i64 {
        let accounts = self.records(&format!("{snapshot}:/database/main/accounts"));
        accounts.iter().map(|account| account["balance"].as_i64().unwrap()).sum()
    }
}

#[test]
fn an_unchanged_database_is_not_read() {
    let app = Application::new();
    let first = app.backup();
    let second = app.backup();
    assert_eq!(second["root"], first["root"]);
    // Transactions of other databases of the server count, too, and other tests have some.
    assert!((0..50).any(|_| app.backup()["data_added"] == 0));
    // Numbers are handed out without a transaction that is seen.
    app.database.sql("BEGIN; SELECT nextval('tickets'); ROLLBACK;");
    let third = app.backup();
    assert_ne!(third["root"], second["root"]);
    app.database.sql("UPDATE accounts SET balance = 99 WHERE id = 1");
    let fourth = app.backup();
    assert_ne!(fourth["root"], third["root"]);
    // Another choice of tables is another snapshot of the same state.
    let config = app.world.read("coeval.toml");
    app.world.write("coeval.toml", &format!("{config}exclude-tables = [\"keyless\"]\n"));
    assert_ne!(app.backup()["root"], fourth["root"]);
}

#[test]
fn setup_shows_its_sql_first_and_remove_takes_it_away() {
    let app = Application::new();
    let shown = app.world.ok(&["database", "setup", "main", "--dry-run"]);
    assert!(shown.contains("SELECT pg_create_logical_replication_slot('coeval_t"), "{shown}");
    assert!(shown.contains("keyless") && shown.contains("scratch"), "{shown}");
    let slots = || {
        app.database
            .sql("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()")
    };
    assert_eq!(slots(), "0");
    app.world.ok(&["database", "setup", "main"]);
    assert_eq!(slots(), "1");
    // Twice is once.
    app.world.ok(&["database", "setup", "main"]);
    assert_eq!(slots(), "1");
    let removed = app.world.ok(&["database", "remove", "main"]);
    assert!(removed.contains("pg_drop_replication_slot"), "{removed}");
    assert_eq!(slots(), "0");
}

#[test]
fn every_kind_of_change_is_followed() {
    let app = Application::followed();
    let statements = [
        "UPDATE accounts SET balance = balance + 1 WHERE id % 50 = 0",
        "DELETE FROM accounts WHERE id = 7; INSERT INTO accounts VALUES (1000, 7, E'tab\\there')",
        "UPDATE accounts SET id = id + 5000 WHERE id < 5",
        "INSERT INTO accounts VALUES (7, 1, 'again'); DELETE FROM accounts WHERE id = 7",
        "UPDATE \"Odd one\" SET b = b + 100 WHERE b < 5",
        "UPDATE \"Odd one\" SET big = 'small' WHERE b = 9; DELETE FROM \"Odd one\" WHERE b = 10",
        "INSERT INTO keyless VALUES (3, 'z')",
        "UPDATE keyless SET b = 'w' WHERE a = 1",
        "DELETE FROM keyless WHERE a = 2",
        "INSERT INTO scratch VALUES (1)",
        "TRUNCATE accounts; INSERT INTO accounts SELECT n, n, NULL FROM generate_series(1, 300) n",
        "ALTER TABLE accounts ADD extra text DEFAULT 'e'; UPDATE accounts SET extra = 'f' WHERE id = 1",
        // The same columns, and other values in every row.
        "ALTER TABLE accounts ALTER balance TYPE bigint USING balance * 2;
         ALTER TABLE accounts ALTER balance TYPE integer USING balance::integer",
        "CREATE TABLE late (id serial PRIMARY KEY, what text); INSERT INTO late (what) VALUES ('x')",
        "DROP TABLE late; CREATE TABLE late (id serial PRIMARY KEY, what text);
         INSERT INTO late (what) VALUES ('y')",
        "ALTER TABLE late REPLICA IDENTITY NOTHING; UPDATE late SET id = 9",
        "ALTER TABLE accounts REPLICA IDENTITY FULL; UPDATE accounts SET balance = 0 WHERE id = 2",
        "COMMENT ON TABLE accounts IS 'all of them'",
        "CREATE VIEW rich AS SELECT id FROM accounts WHERE balance > 9",
        "VACUUM FULL accounts",
    ];
    for statement in statements {
        app.database.sql(statement);
        app.assert_followed();
    }
}

#[test]
fn what_was_committed_late_is_not_missed() {
    let app = Application::followed();
    let mut late = app.database.psql().stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = late.stdin.take().unwrap();
    let mut say = |text: &str| {
        std::io::Write::write_all(&mut input, text.as_bytes()).unwrap();
        std::io::Write::flush(&mut input).unwrap();
    };
    say("BEGIN; UPDATE accounts SET note = 'late' WHERE id = 42;\n");
    let waiting = "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock'
                   AND relation = 'accounts'::regclass";
    while app.database.sql(waiting) == "0" {}
    // Commits after it, and is seen before it.
    app.database.sql("UPDATE accounts SET note = 'soon' WHERE id = 43");
    app.assert_followed();
    app.database.sql("UPDATE accounts SET note = 'then' WHERE id = 44");
    app.assert_followed();
    say("COMMIT;\n");
    drop(input);
    assert!(late.wait().unwrap().success());
    app.assert_followed();
    assert_eq!(app.records("latest:/database/main/accounts/42")[0]["note"], "late");
}

#[test]
fn a_log_that_does_not_go_on_is_noticed() {
    let app = Application::followed();
    let slot = app
        .database
        .sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()");
    let change = || {
        app.database.sql("UPDATE accounts SET balance = balance + 1 WHERE id = 3");
    };
    change();
    assert_eq!(app.reason(), "");
    // Somebody else reads the slot.
    change();
    app.database.sql(&format!("SELECT pg_logical_slot_get_changes('{slot}', NULL, NULL)"));
    let reason = app.reason();
    assert!(reason.contains("was read by somebody else"), "{reason}");
    change();
    app.assert_followed();
    // It is dropped and made again.
    change();
    app.world.ok(&["database", "remove", "main"]);
    app.world.ok(&["database", "setup", "main"]);
    assert_ne!(app.reason(), "");
    change();
    app.assert_followed();
    // The parent is an older snapshot than the one that moved the slot on.
    change();
    app.world.ok(&["backup", "-q", "--parent", "latest~3"]);
    app.world.ok(&["backup", "-q", "--force"]);
    let difference = app.world.ok(&["diff", "latest~1", "latest"]);
    assert!(difference.contains("no difference"), "{difference}");
}

#[test]
fn snapshots_under_load_hold_the_invariant_of_every_transaction() {
    // `COEVAL_ROUNDS=70` for more; each takes three snapshots.
    let rounds = std::env::var("COEVAL_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap());
    let app = Application::followed();
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for seed in 0..3_u32 {
            let (database, over) = (&app.database, &over);
            threads.spawn(move || {
                let mut round = seed;
                while !over.load(Ordering::Relaxed) {
                    let transfers = (0..50_u32).map(|n| {
                        let from = round.wrapping_mul(7919).wrapping_add(n * 13) % 500 + 1;
                        let to = (from + n) % 500 + 1;
                        let (low, high) = (from.min(to), from.max(to));
                        let (there, back) = if n % 2 == 0 { ('-', '+') } else { ('+', '-') };
                        format!(
                            "BEGIN; UPDATE accounts SET balance = balance {there} 1 WHERE id = {low};
                             UPDATE accounts SET balance = balance {back} 1 WHERE id = {high}; COMMIT;"
                        )
                    });
                    let transfers = transfers.collect::<Vec<_>>().join("\n");
                    database.sql(&transfers);
                    round = round.wrapping_add(3);
                }
            });
        }
        for _ in 0..rounds {
            assert_eq!(app.reason(), "");
            assert_eq!(app.total("latest"), 50_000);
            // The same transaction by its log and read as a whole.
            app.world.ok(&["backup", "-q", "--compare"]);
            assert_eq!(app.total("latest"), 50_000);
            app.world.ok(&["backup", "-q", "--force"]);
            assert_eq!(app.total("latest"), 50_000);
        }
        over.store(true, Ordering::Relaxed);
    });
    app.assert_followed();
}

#[test]
fn any_transaction_between_two_snapshots_can_be_gone_back_to() {
    let app = Application::followed();
    // Each transaction writes its number into one row, and into the history.
    app.database
        .sql("CREATE TABLE history (n integer PRIMARY KEY, xid xid8, lsn pg_lsn, at timestamptz)");
    app.backup();
    // `COEVAL_POINTS=50` for all of so many.
    let points = std::env::var("COEVAL_POINTS")
        .map_or(vec![1, 2, 14, 15, 16, 29, 33, 39], |n| (1..=n.parse().unwrap()).collect());
    for n in 1..=points[points.len() - 1] + 1 {
        app.database.sql(&format!(
            "BEGIN; UPDATE accounts SET balance = {n}, note = note || '.' WHERE id = {};
             DELETE FROM accounts WHERE id = {}; UPDATE \"Odd one\" SET c = NOT c WHERE b = 3;
             INSERT INTO history VALUES ({n}, pg_current_xact_id(), NULL, NULL); COMMIT;
             UPDATE history SET lsn = pg_current_wal_lsn(), at = clock_timestamp() WHERE n = {n};",
            n % 10 + 1,
            n + 100,
        ));
        if n % 15 == 0 {
            assert_eq!(app.reason(), "");
        }
    }
    app.backup();
    let scratch = Database::empty();
    let state = |database: &Database| {
        database.sql("SELECT max(n) FROM history; SELECT string_agg(id || '=' || balance, ',' ORDER BY id)
                      FROM accounts; SELECT 0;
                      SELECT string_agg(a || b || c, ',' ORDER BY a), sum(length(big)) FROM \"Odd one\"")
    };
    let expected = |n: i32| {
        let balances = (1..=500).filter(|id| !(101..=100 + n).contains(id)).map(|id| {
            let last = (1..=n).rev().find(|n| n % 10 + 1 == id).unwrap_or(100);
            format!("{id}={last}")
        });
        balances.collect::<Vec<_>>().join(",")
    };
    for n in points {
        let of = |column: &str, n: i32| {
            app.database.sql(&format!("SELECT {column} FROM history WHERE n = {n}"))
        };
        let places = [
            ["--at".to_owned(), format!("{}Z", of("at AT TIME ZONE 'UTC'", n).replace(' ', "T"))],
            ["--at-lsn".to_owned(), of("lsn", n)],
            ["--before-xid".to_owned(), of("xid::text", n + 1)],
        ];
        for [flag, value] in places {
            app.world.ok(&["restore", "-q", &flag, &value, "--database", &scratch.url]);
            let found = state(&scratch);
            let found: Vec<&str> = found.lines().collect();
            assert_eq!(found[0], n.to_string(), "{flag} {value}");
            assert_eq!(found[1], expected(n), "{flag} {value}");
            // Large values that a change left alone are not in the log.
            assert!(found[3].ends_with("|256000"), "{}", found[3]);
        }
    }
}

#[test]
fn a_large_table_is_the_same_through_any_number_of_connections() {
    let app = Application::new();
    app.database.sql(
        "CREATE TABLE large (code text, n integer, at timestamptz, PRIMARY KEY (code, n));
         INSERT INTO large SELECT chr(65 + n % 50) || md5((n / 3)::text), n, now()
             FROM generate_series(1, 150000) n;
         INSERT INTO large SELECT 'same', n, now() FROM generate_series(1, 40000) n;
         CREATE TABLE numbered (id bigint PRIMARY KEY, t text);
         INSERT INTO numbered SELECT n * n - 5, 'it''s ' || n FROM generate_series(-70000::bigint, 80000) n
             ON CONFLICT DO NOTHING;
         CREATE TABLE scattered (id uuid PRIMARY KEY);
         INSERT INTO scattered SELECT md5(n::text)::uuid FROM generate_series(1, 140000) n;
         ANALYZE;",
    );
    let root = |jobs: &str| {
        let summary = app.world.json(&["backup", "--force", "--jobs", jobs]).pop().unwrap();
        (summary["root"].clone(), summary["total_records_processed"].clone())
    };
    let one = root("1");
    assert_eq!([root("2"), root("5")], [one.clone(), one]);
}
