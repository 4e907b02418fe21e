//! Restores of files as users ask for them: by whoever they are, as far as they want, and again
//! after a kill.
#![allow(missing_docs, clippy::missing_panics_doc, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use world::{World, lines, text};

/// Someone who is not root and owns nothing.
const NOBODY: u32 = 65_534;

fn set_time(path: &Path, seconds: u64) {
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(path).expect("a file").set_modified(time).expect("a time");
}

/// Gives everything to somebody.
fn give(path: &Path, to: u32) {
    let status = Command::new("chown").args(["-R", &to.to_string()]).arg(path).status();
    assert!(status.expect("chown").success());
}

#[test]
fn what_another_than_root_cannot_restore_is_listed_and_the_rest_is_verified() {
    let world = World::new();
    if !rustix::process::getuid().is_root() {
        // Whoever is not root has no files of others to capture.
        assert!(chown(world.path("docs/a.txt"), Some(0), None).is_err());
        return;
    }
    fs::set_permissions(world.path("docs/a.txt"), fs::Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.path("docs/null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    fs::hard_link(world.path("docs/sub/b.txt"), world.path("docs/linked")).unwrap();
    world.backup();
    give(&world.path("."), NOBODY);
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    for again in [false, true] {
        let mut restore = world.command("setpriv");
        restore.args(nobody).arg(env!("CARGO_BIN_EXE_coeval"));
        restore.args(["restore", "latest:/storage", "--target", "out"]);
        let output = restore.output().expect("setpriv");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("null") && said.contains("device"), "{said}");
        assert!(said.contains("only root may give files to others"), "{said}");
        let out = world.path("out/storage/documents");
        let meta = |name: &str| fs::symlink_metadata(out.join(name)).expect("a file");
        assert_eq!(fs::read(out.join("a.txt")).expect("a file"), b"hello\n");
        // Set-user-id would give the rights of another owner than the snapshot's.
        assert_eq!((meta("a.txt").uid(), meta("a.txt").mode() & 0o7777), (NOBODY, 0o755));
        assert_eq!(meta("linked").ino(), meta("sub/b.txt").ino());
        assert!(!out.join("null").exists(), "again: {again}");
    }
}

#[test]
fn owners_with_the_same_name_here_are_found_by_name() {
    let world = World::new();
    world.backup();
    world.ok(&["restore", "latest:/storage", "--target", "out", "--owner-by-name"]);
    let owner = |name: &str| fs::metadata(world.path(name)).expect("a file").uid();
    assert_eq!(owner("out/storage/documents/a.txt"), owner("docs/a.txt"));
    // A package knows no names.
    world.ok(&["export", "latest", "--output", "package.tar.gz", "--plaintext"]);
    world.ok(&["import", "package.tar.gz"]);
    let output = world.run(&["restore", "latest:/storage", "--target", "other", "--owner-by-name"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the snapshot has no names of owners"), "{said}");
}

#[test]
fn only_what_is_asked_for_is_overwritten() {
    let world = World::new();
    for (name, time) in [("docs/a.txt", 2_000), ("docs/sub/b.txt", 2_000)] {
        set_time(&world.path(name), time);
    }
    world.backup();
    let change = || {
        world.write("docs/a.txt", "newer here");
        set_time(&world.path("docs/a.txt"), 3_000);
        world.write("docs/sub/b.txt", "older here");
        set_time(&world.path("docs/sub/b.txt"), 1_000);
        world.write("docs/same", "as it is\n");
        drop(fs::remove_file(world.path("docs/gone")));
    };
    let restore = |arguments: &[&str]| {
        change();
        let all = [&["restore", "latest:/storage", "--in-place", "-q"][..], arguments].concat();
        world.ok(&all);
        (world.read("docs/a.txt"), world.read("docs/sub/b.txt"), world.path("docs/same").exists())
    };
    let (a, b) = ("hello\n".to_owned(), "below\n".to_owned());
    let (newer, older) = ("newer here".to_owned(), "older here".to_owned());
    assert_eq!(restore(&["--overwrite", "never"]), (newer.clone(), older.clone(), false));
    assert_eq!(restore(&["--overwrite", "if-newer"]), (newer.clone(), b.clone(), false));
    assert_eq!(restore(&["--overwrite", "if-changed"]), (a.clone(), b.clone(), false));
    assert_eq!(restore(&["--include", "b.txt"]), (newer.clone(), b.clone(), true));
    assert_eq!(restore(&["--exclude", "sub", "--exclude", "same"]), (a.clone(), older, true));
    assert_eq!(restore(&[]), (a, b, false));
}

#[test]
fn a_dry_run_names_what_it_would_change() {
    let world = World::new();
    world.backup();
    world.write("docs/a.txt", "another");
    world.write("docs/extra", "extra");
    fs::remove_file(world.path("docs/sub/b.txt")).unwrap();
    let plan = world.ok(&["restore", "latest:/storage", "--in-place", "--dry-run", "-v"]);
    for line in [
        "M  /storage/documents/a.txt  6 B",
        "-  /storage/documents/extra",
        "+  /storage/documents/sub/b.txt  6 B",
    ] {
        assert!(plan.contains(line), "{plan}");
    }
    let json = ["restore", "latest:/storage", "--in-place", "--dry-run", "--json"];
    let said = lines(&world.ok(&json));
    let summary = said.last().expect("a summary");
    assert_eq!((&summary["bytes"], &summary["applied"]["deleted"]), (&12.into(), &1.into()));
    assert_eq!(world.read("docs/a.txt"), "another");
}

#[test]
fn a_restore_that_was_killed_goes_on_where_it_was() {
    let world = World::new();
    let mut random = blake3::Hasher::new_keyed(&[7; 32]).finalize_xof();
    for index in 0..1500 {
        let mut bytes = vec![0; 40_000];
        random.fill(&mut bytes);
        let folder = world.path(&format!("docs/{}/{}", index % 7, index % 11));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(index.to_string()), bytes).unwrap();
    }
    world.backup();
    let restore = ["restore", "latest:/storage", "--target", "out"];
    let start = Instant::now();
    world.ok(&restore);
    let mut window = start.elapsed();
    let mut taken_over = 0;
    for round in 0..12 {
        fs::remove_dir_all(world.path("out")).unwrap();
        let mut child = world.coeval().args(restore).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(window * (round % 6 + 2) / 8);
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        if finished {
            window = window * 4 / 5;
        }
        let output = world.run(&restore);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        taken_over += usize::from(said.contains("ready from a restore that was cut short"));
        let mut diff = Command::new("diff");
        diff.arg("-r").args([world.path("docs"), world.path("out/storage/documents")]);
        assert!(diff.status().expect("diff").success());
        let hidden = fs::read_dir(world.path("out/storage/documents"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
        assert_eq!(hidden.count(), 0, "nothing is left behind");
    }
    assert!(taken_over > 0, "no kill came while files were staged");
}
