//! Connections that are cut, a server that falls over, a program that is killed, at any moment of
//! a backup or a restore: the database is as before or as asked, what was committed is whole, and
//! the next run works. `COEVAL_FAULTS=500` makes more of them.
//!
//! Needs the server's programs (`scripts/install.sh postgres`); without them the test fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test writes what it needs, and is told how often"
)]

#[expect(dead_code, reason = "each file of tests needs a part of it")]
#[path = "common/postgres.rs"]
mod private;
#[path = "common/world.rs"]
mod world;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use private::Database;
use world::World;

const FAULTS: u64 = 24;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The server ends the program's connections.
    Cut,
    /// The server ends without saving anything, and starts again.
    Crash,
    /// The program is killed.
    Kill,
}

/// `pg_ctl` as the user who owns the server.
fn restart(data: &str) {
    let binaries = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let installed = binaries.map(|entry| entry.path().join("bin/pg_ctl")).max();
    let program = installed.unwrap_or_else(|| PathBuf::from("pg_ctl"));
    let arguments = ["restart", "-m", "immediate", "-w", "-s", "-D", data];
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    let status = command.args(arguments).current_dir("/").stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "the server starts again");
}

impl Fault {
    fn strike(self, child: &mut Child, database: &Database, data: &str) {
        match self {
            Self::Cut => {
                database.sql(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'coeval'",
                );
            }
            Self::Crash => restart(data),
            Self::Kill => child.kill().unwrap(),
        }
        child.wait().unwrap();
    }
}

/// All rows of all tables, as a digest that the server makes.
fn state(database: &Database) -> String {
    database.sql(
        "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM accounts t;
         SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM entries t;
         SELECT count(*) FROM entries;",
    )
}

#[test]
fn whatever_fails_the_database_is_as_before_or_as_asked() {
    let database = Database::with(
        "CREATE TABLE accounts (id integer PRIMARY KEY, balance integer UNIQUE, note text);
         INSERT INTO accounts SELECT n, n, repeat('n', n % 50) FROM generate_series(1, 4000) n;
         CREATE TABLE entries (id integer PRIMARY KEY, account integer REFERENCES accounts, what text);
         INSERT INTO entries SELECT n, n % 4000 + 1, md5(n::text) FROM generate_series(1, 20000) n;",
    );
    let world = World::with_database(&database.url, "");
    let data = database.sql("SHOW data_directory");
    world.ok(&["backup", "-q"]);
    world.ok(&["database", "setup", "main"]);
    world.ok(&["backup", "-q", "--tag", "good"]);
    let good = state(&database);
    let faults = std::env::var("COEVAL_FAULTS").ok().map_or(FAULTS, |n| n.parse().unwrap());
    for number in 0..faults {
        let fault = [Fault::Cut, Fault::Kill, Fault::Crash][usize::try_from(number % 3).unwrap()];
        database.sql(&format!(
            "UPDATE accounts SET balance = -balance - {number} WHERE id % 3 = {};
             DELETE FROM entries WHERE id % 7 = {}; UPDATE entries SET what = 'wrecked {number}' WHERE id % 5 = 0;",
            number % 3,
            number % 7
        ));
        let wrecked = state(&database);
        let restoring = number % 2 == 0;
        let arguments: &[&str] = if restoring {
            &["restore", "-q", "tag:good", "--in-place"]
        } else {
            &["backup", "-q"]
        };
        let child =
            world.coeval().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        // Anywhere in the second that it takes.
        std::thread::sleep(Duration::from_millis(number * 7919 % 900));
        fault.strike(&mut child.unwrap(), &database, &data);
        let found = state(&database);
        assert!(found == wrecked || restoring && found == good, "{fault:?} number {number}");
        // What was cut off may still hold its locks for a moment; then the next run goes well.
        world.ok(&["backup", "-q"]);
        world.ok(&["restore", "-q", "tag:good", "--in-place"]);
        assert_eq!(state(&database), good, "after {fault:?} number {number}");
    }
    world.ok(&["check", "--read-data"]);
    world.ok(&["backup", "-q"]);
    world.ok(&["backup", "-q", "--force"]);
    let difference = world.ok(&["diff", "latest~1", "latest"]);
    assert!(difference.contains("no difference"), "{difference}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(database.sql(slots), "1");
}
