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

/// Held by tests that count the scratch databases of the server that they share.
static COUNTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

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
    let _alone = COUNTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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

#[test]
fn what_a_killed_drill_leaves_the_next_one_removes() {
    let _alone = COUNTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let database = Database::with("CREATE TABLE users (id int PRIMARY KEY)");
    let world = World::new();
    let configuration = world.read("coeval.toml");
    world.write("coeval.toml", &configuration.replace("sqlite://app.sqlite3", &database.url));
    world.backup();
    let plain = world.read("coeval.toml");
    let temporary = tempfile::Builder::new().prefix("drills-").tempdir_in("/tmp").unwrap();
    // The server runs as another user, if the test is root.
    std::fs::set_permissions(temporary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let folders = |parent: &std::path::Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_string_lossy().contains("drill-")).collect()
    };
    let start = |arguments: &[&str]| {
        let mut drill = world.coeval();
        drill.arg("drill").args(arguments).env("TMPDIR", temporary.path());
        drill.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        drill
    };
    let kill_in_the_middle = |arguments: &[&str], is_there: &dyn Fn() -> bool| {
        configure(&world, "[[drill.assert]]\nsql = \"SELECT pg_sleep(100)\"");
        let mut child = start(arguments).spawn().unwrap();
        while !is_there() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        world.write("coeval.toml", &plain);
    };
    let databases =
        || database.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'coeval_drill_%'");

    kill_in_the_middle(&[], &|| {
        let pids = folders(temporary.path()).into_iter().map(|f| f.join("data/postmaster.pid"));
        pids.into_iter().any(|pid| std::fs::read_to_string(pid).is_ok_and(|t| t.contains("ready")))
    });
    let left = folders(temporary.path());
    assert_eq!((left.len(), folders(&world.path("cache")).len()), (1, 1));
    // One on another server leaves a database there, and removes the server.
    kill_in_the_middle(&["--server", &database.url], &|| databases() == "1");
    assert_eq!(folders(temporary.path()), Vec::<std::path::PathBuf>::new());
    assert!(!left[0].exists());
    // One that does not know the server leaves the note for one that does.
    assert!(start(&[]).status().unwrap().success());
    assert_eq!((databases().as_str(), folders(&world.path("cache")).len()), ("1", 1));
    let mut last = start(&["--server", &database.url]);
    assert!(last.status().unwrap().success());
    assert_eq!((databases().as_str(), folders(&world.path("cache")).len()), ("0", 0));
}
