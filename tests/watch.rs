//! Snapshots again and again, and how well what they hold agrees, through the program as it is
//! called.
//!
//! Needs the server's programs (`scripts/install.sh postgres`); without them the tests fail.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::disallowed_methods, reason = "an application writes while it is captured")]

#[expect(dead_code, reason = "each file of tests needs a part of it")]
#[path = "common/postgres.rs"]
mod private;
#[path = "common/world.rs"]
mod world;

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use private::Database;
use world::World;

/// A database and uploads, as `coeval.toml` names them.
fn application() -> (World, Database) {
    let database = Database::with(
        "CREATE TABLE notes (id integer PRIMARY KEY, text text);
         INSERT INTO notes SELECT n, 'x' FROM generate_series(1, 100) n;",
    );
    let world = World::with_database(&database.url, "[storage.uploads]\npath = \"uploads\"\n");
    std::fs::create_dir(world.path("uploads")).unwrap();
    world.write("uploads/a.txt", "a");
    (world, database)
}

fn snapshots(world: &World) -> usize {
    world.json(&["snapshots"]).len()
}

/// Waits until the watch has saved so many snapshots.
fn wait_for(world: &World, count: usize) {
    for _ in 0..400 {
        if snapshots(world) >= count {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{} of {count} snapshots were saved", snapshots(world));
}

#[test]
fn something_is_saved_when_something_changed() {
    let (world, database) = application();
    let watch = ["watch", "--every", "1s", "--count", "60"];
    let mut child =
        world.coeval().args(watch).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&world, 1);
    database.sql("UPDATE notes SET text = 'y' WHERE id = 1");
    wait_for(&world, 2);
    // Connections that the server ended are made again.
    let ended = database.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'coeval'",
    );
    assert_ne!(ended, "0");
    world.write("uploads/b.txt", "b");
    wait_for(&world, 3);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(snapshots(&world), 3, "nothing changed any more");
    let pid = child.id().to_string();
    assert!(world.command("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_retention_does_not_keep_is_forgotten() {
    let (world, database) = application();
    let config = world.read("coeval.toml");
    world.write("coeval.toml", &format!("{config}[retention]\nkeep-last = 2\n"));
    for n in 0..4 {
        database.sql(&format!("UPDATE notes SET text = 'n{n}' WHERE id = 1"));
        world.ok(&["watch", "-q", "--every", "1s", "--count", "1"]);
    }
    assert_eq!(snapshots(&world), 2);
    let row = world.ok(&["cat", "latest:/database/main/notes/1"]);
    assert!(row.contains("n3"), "{row}");
    world.ok(&["check", "--read-data"]);
}

#[test]
fn a_snapshot_says_how_well_it_agrees() {
    let (world, database) = application();
    let instant = || {
        world.ok(&["backup", "-q"]);
        let last = world.json(&["snapshots"]).pop().unwrap();
        last["instant"].as_str().unwrap().to_owned()
    };
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(instant(), "exact");
    // The database may change: it is read as of one instant.
    database.sql("UPDATE notes SET text = 'z'");
    assert_eq!(instant(), "exact");
    // Files that change all the time are of no one instant; how far apart is said.
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 0_u64.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                // Not one that changes while it is read: a backup lists such a file.
                world.write(&format!("uploads/{}.txt", n % 100), &n.to_string());
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(instant));
        over.store(true, Ordering::Relaxed);
        let found = found.unwrap();
        assert!(found.starts_with("bounded: "), "{found}");
    });
}

#[test]
fn hooks_run_while_the_transaction_is_open() {
    let (world, database) = application();
    let config = world.read("coeval.toml");
    let open = "psql -XAtq -c \\\"SELECT count(*) FROM pg_stat_activity WHERE datname = \
                current_database() AND state = 'idle in transaction'\\\"";
    let hook = |name: &str| format!("{open} '{}' > {name}", database.url);
    world.write(
        "coeval.toml",
        &format!(
            "{config}[hooks]\nbefore = [\"{}; echo held > uploads/held\"]\nafter = [\"{}\"]\n",
            hook("before.txt"),
            hook("after.txt")
        ),
    );
    world.ok(&["backup", "-q"]);
    assert_eq!((world.read("before.txt").trim(), world.read("after.txt").trim()), ("1", "1"));
    // What the hook made was captured.
    assert_eq!(world.ok(&["cat", "latest:/storage/uploads/held"]), "held\n");
}
