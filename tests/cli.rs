//! The program as its users call it: what it prints, and how it exits.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::time::{Duration, SystemTime};

use serde_json::Value;

use world::{World, lines, text};

#[test]
fn an_application_is_backed_up_wrecked_restored_and_undone() {
    let world = World::new();
    let first = world.backup();
    let before = world.state();
    std::thread::sleep(Duration::from_millis(1100));
    let between = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(20));
    world.sql("UPDATE users SET name = 'Ada' WHERE id = 1; DELETE FROM users WHERE id = 3;");
    world.write("docs/a.txt", "overwritten\n");
    world.write("docs/new.txt", "new\n");
    std::fs::remove_file(world.path("docs/sub/b.txt")).expect("removed");
    std::fs::remove_file(world.path(".env")).expect("removed");
    world.write(".env", "DEBUG=0\n");
    let second = world.backup();
    let wrecked = world.state();

    let diff = world.ok(&["diff", &first, &second]);
    for line in [
        r#"M  /database/main/users/1  name: "ada" → "Ada""#,
        "-  /database/main/users/3",
        "+  /storage/documents/new.txt  4 B",
        "-  /storage/documents/sub/b.txt  6 B",
        "/database/main/users: 0 added, 1 removed, 1 changed",
    ] {
        assert!(diff.lines().any(|found| found == line), "{line} is not in\n{diff}");
    }

    let restored = world.ok(&["restore", &format!("@{between}"), "--in-place"]);
    assert!(restored.contains(&format!("snapshot {first} of ")), "{restored}");
    assert!(restored.contains("verified /database/main: 1 table, 3 records"), "{restored}");
    assert!(restored.contains("go back to it with `coeval undo`"), "{restored}");
    assert_eq!(world.state(), before);
    // `latest` is what somebody asked for, not what the restore saved by itself.
    assert!(world.ok(&["diff", "latest", &second]).starts_with("no difference"));

    world.ok(&["undo"]);
    assert_eq!(world.state(), wrecked);
    world.ok(&["undo"]);
    assert_eq!(world.state(), before);
    assert!(world.ok(&["check", "--read-data"]).contains("no errors were found"));
}

#[test]
fn what_was_deleted_altogether_comes_back() {
    let world = World::new();
    world.backup();
    let before = world.state();
    std::fs::remove_dir_all(world.path("docs")).expect("removed");
    std::fs::remove_file(world.path(".env")).expect("removed");
    world.sql("DROP TABLE users;");
    world.ok(&["restore", "latest", "--in-place"]);
    assert_eq!(world.state(), before);
}

#[test]
fn one_record_or_file_comes_back_alone() {
    let world = World::new();
    world.backup();
    world.sql("UPDATE users SET name = 'x'");
    world.write("docs/a.txt", "x");
    world.write("docs/sub/b.txt", "x");
    world.ok(&["restore", "latest:/database/main/users/2", "--in-place"]);
    world.ok(&["restore", "latest:/storage/documents/a.txt", "--in-place"]);
    let dump = world.sql("");
    assert!(dump.contains("(1,'x')") && dump.contains("(2,'grace')"), "{dump}");
    assert_eq!(world.read("docs/a.txt"), "hello\n");
    assert_eq!(world.read("docs/sub/b.txt"), "x");
}

#[test]
fn several_paths_come_back_together() {
    let world = World::new();
    world.sql(
        "CREATE TABLE teams (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO teams VALUES (1, 'a');
         CREATE TABLE notes (id INTEGER PRIMARY KEY); INSERT INTO notes VALUES (1);",
    );
    world.backup();
    world.sql("UPDATE users SET name = 'x'; DELETE FROM teams; DELETE FROM notes;");
    world.write("docs/a.txt", "x");
    world.write(".env", "x");
    let tables = ["latest:/database/main/users", "/database/main/teams"];
    let paths = [&["restore"], &tables[..], &["/storage", "--in-place"]].concat();
    world.ok(&paths);
    let dump = world.sql("");
    assert!(dump.contains("(2,'grace')") && dump.contains("(1,'a')"), "{dump}");
    assert!(!dump.contains(r#"INSERT INTO "notes""#), "{dump}");
    assert_eq!((world.read("docs/a.txt").as_str(), world.read(".env").as_str()), ("hello\n", "x"));
    // Only what is named, also where the first place names none.
    world.ok(&["restore", "latest", "/configuration", "/database/main/notes", "--in-place"]);
    assert_eq!(world.read(".env"), "DEBUG=1\n");
    for wrong in ["database/main/users", "latest"] {
        world.fails(2, &["restore", "latest:/storage", wrong, "--in-place"]);
    }
    let records = ["latest:/database/main/users/1", "/database/main/users/2", "--in-place"];
    world.fails(2, &[&["restore"], &records[..]].concat());
    world.fails(2, &["restore", tables[0], tables[1], "--where", "id=1", "--in-place"]);
}

#[test]
fn a_restore_into_a_directory_touches_nothing_else() {
    let world = World::new();
    world.backup();
    let before = world.state();
    world.ok(&["restore", "latest", "--target", "out"]);
    assert_eq!(world.read("out/storage/documents/sub/b.txt"), "below\n");
    assert_eq!(world.read("out/configuration/.env"), "DEBUG=1\n");
    assert_eq!(world.read("out/database/main/users.jsonl").lines().count(), 3);
    assert!(world.read("out/database/main/schema.sql").contains("CREATE TABLE users"));
    assert_eq!(world.state(), before);
    world.write("out/storage/documents/extra.txt", "extra");
    world.ok(&["restore", "latest:/storage", "--target", "out"]);
    assert_eq!(world.read("out/storage/documents/extra.txt"), "extra");
    world.ok(&["restore", "latest:/storage", "--target", "out", "--delete"]);
    assert!(!world.path("out/storage/documents/extra.txt").exists());
    // Undoing a restore into a directory changes that directory, not the application.
    world.ok(&["undo"]);
    assert_eq!(world.read("out/storage/documents/extra.txt"), "extra");
    assert_eq!(world.state(), before);
}

#[test]
fn a_dry_run_changes_nothing() {
    let world = World::new();
    let dry = world.json(&["backup", "--dry-run"]);
    assert_eq!(dry[0]["snapshot_id"], Value::Null);
    assert!(world.json(&["snapshots"]).is_empty());
    world.backup();
    world.write("docs/a.txt", "changed");
    let state = world.state();
    let plan = world.json(&["restore", "latest", "--in-place", "--dry-run"]);
    assert!(plan.iter().any(|line| line["path"] == "/storage/documents" && line["updated"] == 1));
    assert_eq!(world.state(), state);
    assert_eq!(world.json(&["snapshots"]).len(), 1);
    assert_eq!(world.fails(1, &["undo"]).lines().count(), 2);
}

#[test]
fn a_database_is_restored_into_another_one() {
    let world = World::new();
    world.backup();
    world.ok(&["restore", "latest", "--database", "sqlite://copy.sqlite3"]);
    let before = world.sql("");
    std::fs::rename(world.path("copy.sqlite3"), world.path("app.sqlite3")).expect("renamed");
    assert_eq!(world.sql(""), before);
    let complaint = world.fails(2, &["restore", "latest:/storage", "--database", "copy.sqlite3"]);
    assert!(complaint.contains("no database among what is to be restored"), "{complaint}");
}

#[test]
fn sources_can_be_named_without_a_configuration_file() {
    let world = World::new();
    std::fs::rename(world.path("coeval.toml"), world.path("other.toml")).expect("renamed");
    let base = ["-r", "repo", "--key-file", "app.key"];
    let named = ["backup", "docs", "--database", "app.sqlite3", "--configuration", ".env"];
    let excluded = ["--exclude", "*.txt", "--tag", "first", "--host", "elsewhere", "-q"];
    let id = world.ok(&[&base[..], &named, &excluded].concat());
    let list = world.ok(&[&base[..], &["ls", "-R", id.trim()]].concat());
    let wanted = [
        "/database/app",
        "/database/app/users",
        "/database/app/users/1",
        "/database/app/users/2",
        "/database/app/users/3",
        "/storage/docs",
        "/storage/docs/sub",
        "/configuration",
        "/configuration/.env",
    ];
    assert_eq!(list.lines().collect::<Vec<_>>(), wanted);
    let shown = world.json(&[&base[..], &["snapshots", "--tag", "first"]].concat());
    assert_eq!(shown[0]["hostname"], "elsewhere");
    assert!(world.json(&[&base[..], &["snapshots", "--tag", "second"]].concat()).is_empty());
    let complaint = world.fails(2, &[&base[..], &["backup"]].concat());
    assert!(complaint.contains("nothing to back up"), "{complaint}");
    let complaint = world.fails(2, &[&base[..], &["restore", "latest", "--in-place"]].concat());
    assert!(complaint.contains("does not say where the database `app` is"), "{complaint}");
}

#[test]
fn cat_prints_bytes_and_json() {
    let world = World::new();
    world.backup();
    assert_eq!(world.ok(&["cat", "latest:/configuration/.env"]), "DEBUG=1\n");
    assert_eq!(
        world.ok(&["cat", "latest:/database/main/users/2"]),
        "{\"id\":2,\"name\":\"grace\"}\n"
    );
    assert_eq!(lines(&world.ok(&["cat", "latest:/database/main/users"])).len(), 3);
    for (place, why) in [
        ("latest:/storage/documents/none", "has no /storage/documents/none"),
        ("latest:/database/main/users/9", "has no /database/main/users/9"),
        ("latest:/database/other", "has no /database/other"),
        ("latest:/storage", "neither a file nor a record nor a table"),
        ("latest~5", "only 1 snapshots"),
        ("@2001", "no snapshot at or before"),
        ("zzz", "is no snapshot"),
    ] {
        let complaint = world.fails(2, &["cat", place]);
        assert!(complaint.contains(why), "{place}: {complaint}");
        assert!(complaint.contains("\nhint: "), "{place}: {complaint}");
    }
}

#[test]
fn json_has_the_names_that_scripts_for_restic_know() {
    let world = World::new();
    let summary = world.json(&["backup"]).pop().expect("a summary");
    assert_eq!(summary["message_type"], "summary");
    let counted = ["files_new", "dirs_new", "files_unmodified", "total_files_processed"];
    assert_eq!(counted.map(|name| summary[name].as_u64()), [3, 2, 0, 3].map(Some), "{summary}");
    assert_eq!(summary["complete"], true);
    for name in ["data_added", "data_added_packed", "total_bytes_processed"] {
        assert!(summary[name].as_u64().is_some_and(|number| number > 0), "{name}: {summary}");
    }
    let snapshot = world.json(&["snapshots"]).remove(0);
    assert_eq!(snapshot["id"], summary["snapshot_id"]);
    assert_eq!(snapshot["sources"].as_array().map(Vec::len), Some(3));
    let nodes = world.json(&["ls", "latest:/storage/documents"]);
    assert_eq!(nodes[0]["path"], "/storage/documents/a.txt");
    assert_eq!((&nodes[0]["type"], &nodes[0]["size"]), (&Value::from("file"), &Value::from(6)));
    let check = world.json(&["check"]).pop().expect("a summary");
    assert_eq!(check["num_errors"], 0);
    let complaint = world.fails(10, &["snapshots", "-r", "nowhere", "--json"]);
    let error = &lines(&complaint)[0];
    assert_eq!((&error["message_type"], &error["code"]), (&"exit_error".into(), &10.into()));
}

#[test]
fn sizes_count_unchanged_files_too() {
    let world = World::bare();
    let hour_ago = SystemTime::now() - Duration::from_hours(1);
    for name in ["docs/a.txt", "docs/sub/b.txt"] {
        let file = std::fs::File::open(world.path(name)).expect("a file");
        file.set_modified(hour_ago).expect("set");
    }
    world.ok(&["init", "-q"]);
    // A change time cannot be set back, and a young one is not trusted.
    std::thread::sleep(Duration::from_millis(3100));
    let bytes =
        || world.json(&["backup"]).pop().expect("a summary")["total_bytes_processed"].clone();
    assert_eq!(bytes(), bytes());
}

#[test]
fn a_missing_repository_is_told_with_the_command_that_makes_it() {
    let world = World::bare();
    let complaint = world.fails(10, &["snapshots"]);
    assert!(complaint.contains("there is no repository at"), "{complaint}");
    assert!(complaint.contains("hint: make one with `coeval"), "{complaint}");
    assert!(complaint.contains(" init`"), "{complaint}");
    assert!(!world.path("repo").exists() && !world.path("app.key").exists());
}

#[test]
fn an_unknown_key_of_the_configuration_is_refused() {
    let world = World::new();
    world.write("coeval.toml", "[repository]\nurl = \"repo\"\nkey-fil = \"app.key\"\n");
    let complaint = world.fails(2, &["backup"]);
    assert!(complaint.contains("line 3: unknown key `key-fil`"), "{complaint}");
    assert!(complaint.contains("did you mean `key-file`?"), "{complaint}");
    world.write("coeval.toml", "[database.main]\nurl = \"env:NOT_SET\"\n");
    let complaint = world.fails(2, &["backup", "-r", "repo", "--key-file", "app.key"]);
    assert!(complaint.contains("variable NOT_SET, which is not set"), "{complaint}");
}

#[test]
fn hooks_run_around_the_backup() {
    let world = World::new();
    let config = world.read("coeval.toml");
    let hooks = "\n[hooks]\nbefore = [\"echo said; echo before >> log\"]\nafter = [\"echo after >> log\"]\n";
    world.write("coeval.toml", &format!("{config}{hooks}"));
    let id = world.backup();
    assert_eq!((id.len(), world.read("log").as_str()), (8, "before\nafter\n"));
    world.ok(&["backup", "--dry-run"]);
    assert_eq!(world.read("log"), "before\nafter\n");
    let hooks = "\n[hooks]\nbefore = [\"exit 7\"]\nafter = [\"echo after >> log\"]\n";
    world.write("coeval.toml", &format!("{config}{hooks}"));
    let complaint = world.fails(1, &["backup"]);
    assert!(complaint.contains("the hook `exit 7` failed: exit status: 7"), "{complaint}");
    assert_eq!(world.json(&["snapshots"]).len(), 1);
    assert_eq!(world.read("log"), "before\nafter\nafter\n");
}

#[test]
fn a_package_goes_out_and_comes_in() {
    let world = World::new();
    world.backup();
    let shown = world.ok(&["export", "latest", "-o", "package.tar.gz", "--plaintext"]);
    assert!(shown.contains("package.tar.gz"), "{shown}");
    let listed = world.command("tar").args(["-tzf", "package.tar.gz"]).output().expect("tar");
    assert!(text(&listed.stdout).starts_with("metadata.json\n"), "{}", text(&listed.stdout));
    assert!(
        world
            .ok(&["package", "inspect", "-v", "package.tar.gz"])
            .contains("storage/documents/a.txt")
    );
    assert!(!world.ok(&["package", "verify", "package.tar.gz"]).contains("DAMAGED"));
    let imported = world.ok(&["import", "package.tar.gz", "-q", "--tag", "in"]);
    let shown = world.json(&["snapshots"]);
    assert_eq!(shown[1]["short_id"], imported.trim());
    assert_eq!(shown[1]["reason"]["kind"], "import");
    assert!(world.ok(&["diff", "latest~1", "tag:in"]).starts_with("no difference"));
    // What came from elsewhere does not decide where files are written.
    let complaint = world.fails(2, &["restore", "tag:in:/configuration", "--in-place"]);
    assert!(complaint.contains("came from a package"), "{complaint}");
    let bytes = std::fs::read(world.path("package.tar.gz")).expect("a package");
    std::fs::write(world.path("cut.tar.gz"), &bytes[..bytes.len() / 2]).expect("written");
    world
        .run(&["package", "verify", "cut.tar.gz"])
        .status
        .code()
        .filter(|code| *code == 13)
        .expect("13");
    assert_eq!(world.json(&["snapshots"]).len(), 2);
    world.fails(2, &["import", "none.tar.gz"]);
}

#[test]
fn help_version_and_completions_need_nothing() {
    let world = World::bare();
    world.write("coeval.toml", "nonsense");
    assert!(world.ok(&["--help"]).contains("COEVAL_REPOSITORY"));
    assert!(world.ok(&["version"]).starts_with("coeval "));
    assert!(world.ok(&["completions", "bash"]).contains("_coeval"));
    let complaint = world.fails(2, &["backup", "--databse", "x"]);
    assert!(complaint.contains("'--database'"), "{complaint}");
    assert_eq!(world.run(&["completions", "none"]).status.code(), Some(2));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new();
    world.sql(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO users SELECT i, 'user' FROM n;",
    );
    world.backup();
    let program = env!("CARGO_BIN_EXE_coeval");
    let script = format!("'{program}' completions zsh | true; '{program}' ls -R latest | head -1");
    let output = world.command("sh").args(["-c", &script]).output().expect("sh");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), "/database/main\n");
}
