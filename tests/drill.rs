//! A drill restores a snapshot aside, tells whether it works, and leaves nothing behind.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/postgres.rs"]
#[expect(dead_code, reason = "each file of tests needs a part of it")]
mod postgres;
#[path = "common/world.rs"]
mod world;

use serde_json::Value;

use self::postgres::Database;
use self::world::World;

/// Made with Python's hashlib: the password is `sesame`.
const HASH: &str = "pbkdf2_sha256$1000$salt$C6cm3E2hP+SBSmboRpwbM6BvvCJJ3v7PTxBde0Nr9TA=";

fn application() -> World {
    let world = World::new();
    world.sql(&format!(
        "CREATE TABLE auth_user (id INTEGER PRIMARY KEY, username TEXT, password TEXT);
         INSERT INTO auth_user VALUES (1, 'ada', '{HASH}'), (2, 'grace', '!');
         CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('a b');"
    ));
    world.backup();
    world
}

fn configure(world: &World, more: &str) {
    world.write("coeval.toml", &format!("{}\n{more}", world.read("coeval.toml")));
}

fn drill(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = world
        .coeval()
        .args([&["drill", "--json"], arguments].concat())
        .env("DRILL_PASSWORD", "sesame")
        .output()
        .unwrap();
    let text = world::text(&output.stdout);
    let report = world::lines(&text).into_iter().find(|line| line["message_type"] == "drill");
    (output.status.code(), report.unwrap_or_else(|| panic!("{}", world::text(&output.stderr))))
}

#[test]
fn what_was_backed_up_works() {
    let world = application();
    configure(
        &world,
        "[[drill.assert]]\nsql = \"SELECT count(*) FROM users\"\nequals = 3
         [[drill.assert]]\nsql = \"SELECT name FROM users WHERE id = 1;\"\nequals = \"ada\"
         [[drill.assert]]\nsql = \"SELECT max(id) FROM users\"\nat-least = 2.5\n",
    );
    let before = world.state();
    let (code, report) = drill(&world, &["--login", "auth_user.username=ada"]);
    assert_eq!((code, &report["passed"]), (Some(0), &Value::Bool(true)), "{report}");
    assert_eq!(report["assertions"].as_array().unwrap().len(), 9);
    assert!(report["seconds"]["restore"].as_f64().unwrap() > 0.0);
    assert_eq!(world.state(), before);
    let snapshots = world.json(&["snapshots"]);
    assert_eq!(snapshots.len(), 1, "a drill takes no snapshot: {snapshots:?}");
}

#[test]
fn an_assertion_that_fails_fails_the_drill() {
    let world = application();
    for (more, arguments, named) in [
        ("[[drill.assert]]\nsql = \"SELECT 1\"\nequals = 2", &[][..], "SELECT 1"),
        ("[[drill.assert]]\nsql = \"SELECT 1\"\nat-least = 2", &[], "SELECT 1"),
        ("[[drill.assert]]\nsql = \"SELECT x FROM gone\"\nequals = 2", &[], "SELECT x FROM gone"),
        ("", &["--login", "auth_user.username=grace"], "login of grace"),
        ("", &["--login", "auth_user.username=nobody'--"], "login of nobody'--"),
    ] {
        let configuration = world.read("coeval.toml");
        configure(&world, more);
        let (code, report) = drill(&world, arguments);
        assert_eq!((code, &report["passed"]), (Some(13), &Value::Bool(false)), "{report}");
        let failed: Vec<_> = report["assertions"].as_array().unwrap().iter().collect();
        let failed = failed.iter().filter(|assertion| assertion["passed"] == false);
        let failed: Vec<_> = failed.map(|assertion| assertion["name"].as_str().unwrap()).collect();
        assert_eq!(failed, [named]);
        assert!(!report.to_string().contains("sesame") && !report.to_string().contains("pbkdf2"));
        world.write("coeval.toml", &configuration);
    }
    let mut wrong = world.coeval();
    wrong.args(["drill", "--login", "auth_user.username=ada"]).env("DRILL_PASSWORD", "Sesame");
    assert_eq!(wrong.output().unwrap().status.code(), Some(13));
}

#[test]
fn references_that_lead_nowhere_fail_it() {
    let world = World::new();
    world.sql(
        "CREATE TABLE c(id INTEGER PRIMARY KEY, u REFERENCES users); INSERT INTO c VALUES(1, 9);",
    );
    world.backup();
    let (code, report) = drill(&world, &[]);
    assert_eq!(code, Some(13), "{report}");
}

#[test]
fn a_database_of_postgresql_goes_into_a_scratch_one() {
    let database = Database::with(
        "CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'ada');
         CREATE TABLE \"Odd name\" (id int REFERENCES users); INSERT INTO \"Odd name\" VALUES (1);",
    );
    let world = World::new();
    let configuration = world.read("coeval.toml");
    world.write("coeval.toml", &configuration.replace("sqlite://app.sqlite3", &database.url));
    world.backup();
    configure(&world, "[[drill.assert]]\nsql = \"SELECT name FROM users\"\nequals = \"ada\"");
    let databases =
        || database.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'coeval_%'");
    let before = database.dump();

    let (code, report) = drill(&world, &["--server", &database.url]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(databases(), "0");
    assert_eq!(database.dump(), before);

    let (code, report) = drill(&world, &[]);
    assert_eq!(code, Some(0), "in a server of its own: {report}");

    configure(&world, "[[drill.assert]]\nsql = \"SELECT 1\"\ndatabase = \"other\"");
    world.fails(2, &["drill", "--server", &database.url]);
    assert_eq!(databases(), "0", "also after an error");
}
