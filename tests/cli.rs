//! The program as its users call it: what it prints, and how it exits.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// An application with a database, uploads and a configuration, and a place for its repository.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// The application, without a repository.
    fn bare() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let world = Self { folder };
        std::fs::create_dir_all(world.path("docs/sub")).expect("a folder");
        world.write("docs/a.txt", "hello\n");
        world.write("docs/sub/b.txt", "below\n");
        world.write(".env", "DEBUG=1\n");
        world.sql(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
             INSERT INTO users VALUES (1, 'ada'), (2, 'grace'), (3, 'alan');",
        );
        world.write(
            "coeval.toml",
            r#"
            [repository]
            url = "repo"
            key-file = "app.key"
            [application]
            name = "app"
            [database.main]
            url = "sqlite://app.sqlite3"
            [storage.documents]
            path = "docs"
            [configuration]
            files = [".env"]
            "#,
        );
        world
    }

    /// The application with an empty repository.
    fn new() -> Self {
        let world = Self::bare();
        world.ok(&["init", "-q"]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a text")
    }

    fn sql(&self, statements: &str) -> String {
        let script = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); \
                      d.executescript(sys.argv[2]); print('\\n'.join(d.iterdump()))";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(self.path("app.sqlite3")).arg(statements);
        let output = python.output().expect("python3");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Everything that a restore must bring back.
    fn state(&self) -> Vec<String> {
        let file = |name: &str| {
            let path = self.path(name);
            let found = path.symlink_metadata().ok().map(|data| {
                let content = if data.is_file() { self.read(name) } else { String::new() };
                (data.permissions().mode(), data.modified().expect("a time"), content)
            });
            format!("{name} {found:?}")
        };
        let files = [".env", "docs", "docs/a.txt", "docs/sub", "docs/sub/b.txt", "docs/new.txt"];
        files.into_iter().map(file).chain([self.sql("")]).collect()
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TZ", "UTC");
        command.env("COEVAL_CACHE_DIR", self.path("cache"));
        command
    }

    fn coeval(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_coeval"))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.coeval().args(arguments).output().expect("it runs")
    }

    /// The output of a command that must do all that it should.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {complaint}");
        text(&output.stdout)
    }

    /// The JSON lines of a command that must do all that it should.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        lines(&self.ok(&[arguments, &["--json"]].concat()))
    }

    /// The complaint of a command that must fail in this way.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        failure(code, &self.run(arguments))
    }

    fn backup(&self) -> String {
        self.ok(&["backup", "-q"]).trim().to_owned()
    }
}

fn failure(code: i32, output: &Output) -> String {
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complaint}");
    assert_eq!(text(&output.stdout), "", "nothing but results goes to the standard output");
    complaint
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

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
        "+  /storage/documents/new.txt",
        "-  /storage/documents/sub/b.txt",
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
    assert_eq!(summary["total_files_processed"], 5);
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
fn what_cannot_be_read_makes_the_snapshot_incomplete() {
    const NOBODY: u32 = 65534;
    let world = World::bare();
    let is_root = runs_as_root(&world);
    std::fs::set_permissions(world.path("docs/a.txt"), std::fs::Permissions::from_mode(0o000))
        .expect("set");
    if is_root {
        // Root reads everything: the program runs as someone else, to whom the rest belongs.
        for name in ["", "docs", "docs/sub", "docs/sub/b.txt", ".env", "app.sqlite3", "coeval.toml"]
        {
            chown(world.path(name), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
    }
    let program = world.path("coeval");
    std::fs::copy(env!("CARGO_BIN_EXE_coeval"), &program).expect("a copy");
    let run = |arguments: &[&str]| {
        let mut command = if is_root { world.command("setpriv") } else { world.command(&program) };
        if is_root {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        }
        command.args(arguments).output().expect("it runs")
    };
    let outputs =
        [&["init", "-q"][..], &["backup"], &["backup", "--json"], &["snapshots"]].map(run);
    let [init, backup, json, snapshots] = outputs;
    assert_eq!(init.status.code(), Some(0), "{}", text(&init.stderr));
    assert_eq!(backup.status.code(), Some(3), "{}", text(&backup.stderr));
    let shown = text(&backup.stdout);
    assert!(shown.contains("INCOMPLETE: 1 item could not be read"), "{shown}");
    assert!(shown.contains("a.txt: cannot be read: Permission denied"), "{shown}");
    assert_eq!(json.status.code(), Some(3));
    let summary = lines(&text(&json.stdout)).pop().expect("a summary");
    assert_eq!(summary["complete"], false);
    assert_eq!(summary["skipped"][0]["item"], "a.txt");
    assert!(text(&snapshots.stdout).contains("INCOMPLETE: 1 not read"));
}

fn runs_as_root(world: &World) -> bool {
    let output = world.command("id").arg("-u").output().expect("id");
    text(&output.stdout).trim() == "0"
}

/// A mounted file system, until this is dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_harms_nothing() {
    let world = World::new();
    world.backup();
    let disk = world.path("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let mut mount = world.command("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk);
    assert!(
        mount.output().is_ok_and(|output| output.status.success()),
        "this test needs the right to mount a tmpfs: run it as root"
    );
    let _mounted = Mounted(&disk);
    world.ok(&["init", "-q", "-r", "disk/repo"]);
    world.ok(&["backup", "-q", "-r", "disk/repo"]);
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 4 << 20];
    noise.fill(&mut bytes);
    std::fs::write(world.path("docs/large"), bytes).expect("a file");
    let complaint = world.fails(1, &["backup", "-r", "disk/repo"]);
    assert!(complaint.contains("No space left on device"), "{complaint}");
    assert!(complaint.contains("hint: nothing that was committed is harmed"), "{complaint}");
    assert_eq!(world.json(&["snapshots", "-r", "disk/repo"]).len(), 1);
    world.ok(&["check", "--read-data", "-r", "disk/repo"]);
}

#[test]
fn damage_is_found_and_exits_13() {
    let world = World::new();
    world.backup();
    let pack = walk(&world.path("repo/packs")).pop().expect("a pack");
    let mut bytes = std::fs::read(&pack).expect("a pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(&pack, std::fs::Permissions::from_mode(0o600)).expect("set");
    std::fs::write(&pack, bytes).expect("written");
    let output = world.run(&["check", "--read-data"]);
    assert_eq!(output.status.code(), Some(13), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("packs/"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("error: the repository is damaged"));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .collect()
}

#[test]
fn a_lost_index_is_made_anew() {
    let world = World::new();
    world.backup();
    for segment in walk(&world.path("repo/index")) {
        std::fs::remove_file(segment).expect("removed");
    }
    let output = world.run(&["check"]);
    assert_eq!(output.status.code(), Some(13));
    assert!(text(&output.stderr).contains("`coeval repair index`"));
    world.ok(&["repair", "index"]);
    world.ok(&["check", "--read-data"]);
    assert_eq!(world.ok(&["cat", "latest:/configuration/.env"]), "DEBUG=1\n");
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
fn a_signal_stops_the_work_before_anything_is_committed() {
    let world = World::new();
    let config = world.read("coeval.toml");
    world.write("coeval.toml", &format!("{config}\n[hooks]\nbefore = [\"kill -INT $PPID\"]\n"));
    let complaint = world.fails(1, &["backup"]);
    assert!(complaint.contains("interrupted; nothing was committed"), "{complaint}");
    let twice = "\n[hooks]\nbefore = [\"kill -TERM $PPID; kill -TERM $PPID\"]\n";
    world.write("coeval.toml", &format!("{config}{twice}"));
    let output = world.run(&["backup"]);
    assert_eq!(output.status.signal(), Some(15), "the second signal kills");
    assert!(world.json(&["snapshots"]).is_empty());
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
        world.ok(&["package", "inspect", "package.tar.gz"]).contains("storage/documents/a.txt")
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
