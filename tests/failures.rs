//! Failures of the systems that coeval does the work of, by the numbers of docs/FAILURES.md: those
//! that no other test proves impossible.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::path::{Path, PathBuf};

use world::{World, text};

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// The clean-up ran before the upload was saved or checked.
#[test]
fn failure_1_a_backup_that_fails_deletes_nothing() {
    let world = World::new();
    let config = world.read("coeval.toml");
    world.write("coeval.toml", &format!("{config}\n[retention]\nkeep-last = 1\n"));
    world.backup();
    world.write("docs/a.txt", "changed\n");
    let before = files_below(&world.path("repo"));
    world.write("app.sqlite3", "no database");
    let failed = world.run(&["backup"]);
    assert_ne!(failed.status.code(), Some(0), "{}", text(&failed.stdout));
    let after = files_below(&world.path("repo"));
    assert!(before.iter().all(|file| after.contains(file)), "{before:?} {after:?}");
    world.ok(&["restore", "latest:/storage", "--target", "out"]);
}

/// The clean-up of the application deleted the backups, which lay in one of its folders.
#[test]
fn failure_2_a_restore_in_place_keeps_a_repository_that_lies_in_what_it_restores() {
    let world = World::bare();
    let config = world.read("coeval.toml").replace("url = \"repo\"", "url = \"docs/repo\"");
    world.write("coeval.toml", &config);
    world.ok(&["init", "-q"]);
    let first = world.backup();
    world.write("docs/a.txt", "changed\n");
    world.backup();
    let restored = world.run(&["restore", &format!("{first}:/storage/documents"), "--in-place"]);
    assert_eq!(restored.status.code(), Some(0), "{}", text(&restored.stderr));
    assert_eq!(world.read("docs/a.txt"), "hello\n");
    assert_eq!(world.json(&["snapshots"]).len(), 3);
    world.ok(&["check", "--read-data"]);
    // A snapshot from before the repository came to lie there does not leave it out.
    let moved = world.read("coeval.toml").replace("docs/repo", "docs/sub/repo");
    std::fs::rename(world.path("docs/repo"), world.path("docs/sub/repo")).expect("moved");
    world.write("coeval.toml", &moved);
    let place = format!("{first}:/storage/documents");
    let complaint = world.fails(2, &["restore", &place, "--in-place"]);
    assert!(complaint.contains("the repository itself lies in"), "{complaint}");
    world.ok(&["check", "--read-data"]);
}

/// The wrong database was the target, since a default named it.
#[test]
fn failure_41_nothing_is_restored_that_was_not_named() {
    let world = World::new();
    world.backup();
    world.sql("DELETE FROM users");
    let state = world.state();
    let complaint = world.fails(2, &["restore", "latest"]);
    assert!(complaint.contains("--target") && complaint.contains("--in-place"), "{complaint}");
    let plan = world.ok(&["restore", "latest:/database", "--in-place", "--dry-run"]);
    assert!(plan.contains("app.sqlite3"), "{plan}");
    assert_eq!(world.state(), state);
}

/// Two backups in one second shared a folder.
#[test]
fn failure_42_backups_in_one_second_are_two() {
    let world = World::new();
    let taken: Vec<String> = (0..4)
        .map(|number| {
            world.write("docs/a.txt", &format!("{number}\n"));
            world.backup()
        })
        .collect();
    for (number, id) in taken.iter().enumerate() {
        let place = format!("{id}:/storage/documents/a.txt");
        assert_eq!(world.ok(&["cat", &place]), format!("{number}\n"));
    }
    let export = |id: &String| world.ok(&["export", id, "-o", "package.tar.gz", "-q"]);
    for id in &taken {
        export(id);
    }
    world.ok(&["package", "verify", "package.tar.gz"]);
}

/// An upload was started while the file was still being written, and then the file was deleted.
#[test]
fn failure_43_a_package_has_its_name_only_when_it_is_whole() {
    let world = World::new();
    world.write("docs/large.bin", &"x".repeat(300_000));
    world.backup();
    world.ok(&["export", "latest", "-o", "package.tar.gz"]);
    let before = std::fs::read(world.path("package.tar.gz")).expect("a package");
    let listing = || {
        let mut files = files_below(&world.path(""));
        // The index of this host is RocksDB's, which keeps its own house; and the audit log tells of
        // what failed, too.
        let besides = ["index", "audit"].map(std::ffi::OsStr::new);
        files.retain(|file| !file.components().any(|part| besides.contains(&part.as_os_str())));
        files
    };
    let before_that = listing();
    let packs = files_below(&world.path("repo/packs"));
    let largest = packs.iter().max_by_key(|pack| pack.metadata().expect("a size").len());
    let pack = largest.expect("a pack");
    let mut bytes = std::fs::read(pack).expect("a pack");
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(pack, mode).expect("writable");
    std::fs::write(pack, &bytes).expect("written");
    let failed = world.run(&["export", "latest", "-o", "package.tar.gz"]);
    assert_eq!(failed.status.code(), Some(13), "{}", text(&failed.stderr));
    assert_eq!(std::fs::read(world.path("package.tar.gz")).expect("a package"), before);
    assert_eq!(listing(), before_that, "nothing half-written lies about");
}
