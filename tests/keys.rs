//! The keys and passwords that open a repository.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::os::unix::fs::PermissionsExt as _;

use world::{World, failure, text};

#[test]
fn init_makes_a_key_file_for_its_owner_alone() {
    let world = World::bare();
    let made = world.ok(&["init"]);
    let recovery = made.lines().find(|line| line.len() == 69).expect("a recovery key").to_owned();
    let mode = std::fs::metadata(world.path("app.key")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world.backup();
    // It can be lost.
    std::fs::remove_file(world.path("app.key")).expect("removed");
    let complaint = world.fails(12, &["snapshots"]);
    assert!(complaint.contains("cannot read the key file"), "{complaint}");
    let mut command = world.coeval();
    command.args(["snapshots", "-q"]).env("COEVAL_PASSWORD", recovery);
    assert_eq!(command.output().expect("it runs").status.code(), Some(0));
    // An init that fails leaves no useless key behind.
    let complaint = world.fails(1, &["init"]);
    assert!(complaint.contains("there is a repository at"), "{complaint}");
    assert!(!world.path("app.key").exists());
}

#[test]
fn passwords_come_from_many_places() {
    let world = World::bare();
    world.write("password", "correct horse\n");
    let place = ["-r", "repo"];
    let with = |variable: &str, value: &str, arguments: &[&str]| {
        let mut command = world.coeval();
        command.args(place).args(["-c", "empty.toml"]).args(arguments).env(variable, value);
        command.output().expect("it runs")
    };
    world.write("empty.toml", "");
    let made = with("COEVAL_PASSWORD_FILE", "password", &["init"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    for (variable, value) in
        [("COEVAL_PASSWORD", "correct horse"), ("COEVAL_PASSWORD_COMMAND", "cat password")]
    {
        let output = with(variable, value, &["snapshots"]);
        assert_eq!(output.status.code(), Some(0), "{variable}: {}", text(&output.stderr));
    }
    let wrong = failure(12, &with("COEVAL_PASSWORD", "wrong", &["snapshots"]));
    assert!(wrong.contains("the password does not open this repository"), "{wrong}");
    assert!(!wrong.contains("wrong\n") && !wrong.contains("correct horse"), "{wrong}");
    let empty = failure(2, &with("COEVAL_PASSWORD", "", &["snapshots"]));
    assert!(empty.contains("COEVAL_PASSWORD is set, but empty"), "{empty}");
    let none = failure(12, &with("UNRELATED", "x", &["snapshots"]));
    assert!(none.contains("neither a key nor a password was given"), "{none}");
}

#[test]
fn an_unencrypted_repository_is_no_secret() {
    let world = World::bare();
    world.write("coeval.toml", "[storage.docs]\npath = \"docs\"\n");
    let made = world.ok(&["init", "--no-encryption", "-r", "repo"]);
    assert!(made.contains("is not encrypted"), "{made}");
    assert!(made.contains("can read every snapshot"), "{made}");
    world.ok(&["backup", "-q", "-r", "repo"]);
    assert!(world.ok(&["key", "list", "-r", "repo"]).contains("not encrypted"));
    // Whoever expects it to be encrypted is warned.
    world.write("some.key", &format!("coeval-key-1:{}\n", "ab".repeat(32)));
    let complaint = world.fails(12, &["snapshots", "-r", "repo", "--key-file", "some.key"]);
    assert!(complaint.contains("not encrypted"), "{complaint}");
    let both = ["init", "--no-encryption", "-r", "other", "--key-file", "some.key"];
    world.fails(2, &both);
}

#[test]
fn keys_are_added_and_removed() {
    let world = World::new();
    let config = world.json(&["config"]).remove(0);
    assert_eq!(
        (&config["encryption"], &config["chunking"]["avg"]),
        (&"AES-256-GCM".into(), &(256 << 10).into())
    );
    assert!(world.ok(&["config"]).contains("zstd 3 with tables of its own"));
    world.write("password", "correct horse\n");
    let added = world.json(&["key", "add", "--new-password-file", "password", "--label", "night"]);
    let id = added[0]["id"].as_str().expect("an id").to_owned();
    let listed = world.ok(&["key", "list"]);
    assert!(listed.contains("night") && listed.contains("password"), "{listed}");
    world.ok(&["snapshots", "-p", "password"]);
    world.ok(&["key", "remove", &id]);
    world.fails(12, &["snapshots", "-p", "password"]);
    let complaint = world.fails(2, &["key", "remove", "ffff"]);
    assert!(complaint.contains("hint: list them with `coeval key list`"), "{complaint}");
}
