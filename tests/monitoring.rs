//! What tells whether backups happen, and who did what: `status` and the audit log.
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use world::{World, lines, text};

fn entries(world: &World) -> Vec<Value> {
    world.json(&["audit"])
}

/// The files of the log, by chain and number.
fn objects(world: &World) -> Vec<PathBuf> {
    let folder = fs::read_dir(world.path("repo/audit")).expect("a log");
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort_by_key(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let (chain, number) = name.rsplit_once('-').expect("a number");
        (chain.to_owned(), number.parse::<u64>().expect("a number"))
    });
    paths
}

/// What verification says, as long as something is wrong.
fn complaint(world: &World) -> String {
    let output = world.run(&["audit", "verify"]);
    assert_eq!(output.status.code(), Some(13), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn every_command_that_reads_or_changes_is_in_the_log_with_its_result() {
    let world = World::new();
    world.ok(&["backup", "-q", "--tag", "first"]);
    world.ok(&["ls", "latest:/storage"]);
    world.ok(&["snapshots"]);
    world.fails(2, &["cat", "latest:/storage/documents/nothing"]);
    world.ok(&["restore", "latest", "--target", "out", "-q"]);
    let found = entries(&world);
    let said: Vec<_> = found
        .iter()
        .map(|entry| (entry["command"].as_str(), entry["exit_code"].as_u64()))
        .collect();
    assert_eq!(
        said,
        [
            (Some("backup -q --tag first"), Some(0)),
            (Some("ls latest:/storage"), Some(0)),
            (Some("cat latest:/storage/documents/nothing"), Some(2)),
            (Some("restore latest --target out -q"), Some(0)),
        ]
    );
    assert!(found[2]["message"].as_str().expect("a reason").contains("nothing"), "{}", found[2]);
    for entry in &found {
        assert!(!entry["user"].as_str().expect("a user").is_empty());
        assert!(!entry["host"].as_str().expect("a host").is_empty());
    }
    let shown = world.ok(&["audit", "--latest", "1"]);
    assert!(shown.contains("restore latest") && !shown.contains("ls latest"), "{shown}");
    let verified = world.ok(&["audit", "verify"]);
    assert!(verified.contains("of 1 host"), "{verified}");
}

#[test]
fn what_is_removed_moved_or_altered_is_found() {
    let world = World::new();
    world.backup();
    for _ in 0..3 {
        world.ok(&["ls", "latest:/"]);
    }
    world.ok(&["audit", "verify"]);
    let all = objects(&world);
    assert!(all.len() > 8);
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    let kept = |path: &PathBuf| fs::read(path).expect("an entry");
    let put = |path: &PathBuf, bytes: &[u8]| {
        if path.exists() {
            fs::remove_file(path).expect("removed");
        }
        fs::write(path, bytes).expect("written");
    };
    // Removed, wherever it was.
    for at in [0, 3, all.len() - 1] {
        let bytes = kept(&all[at]);
        fs::remove_file(&all[at]).expect("removed");
        let told = complaint_without_entry(&world);
        // It is the one after it that tells; here that may be the verification's own.
        let (chain, _) = name(&all[at])
            .rsplit_once('-')
            .map(|(c, n)| (c.to_owned(), n.to_owned()))
            .expect("a number");
        let next = format!("{chain}-{}: the entry before it is missing", at + 1);
        assert!(told.contains(&next), "{at}: {told}");
        put(&all[at], &bytes);
    }
    // Moved.
    let (one, other) = (kept(&all[2]), kept(&all[4]));
    put(&all[2], &other);
    put(&all[4], &one);
    let told = complaint(&world);
    assert!(told.contains(&name(&all[2])) && told.contains(&name(&all[4])), "{told}");
    put(&all[2], &one);
    put(&all[4], &other);
    // Altered.
    let bytes = kept(&all[5]);
    for at in [0, 8, 50, bytes.len() - 1] {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        put(&all[5], &altered);
        assert!(complaint(&world).contains(&name(&all[5])), "byte {at}");
    }
    put(&all[5], &bytes);
    world.ok(&["audit", "verify"]);
}

/// The same from a copy of the cache, so that the entry of the verification is not remembered.
fn complaint_without_entry(world: &World) -> String {
    let folder = world.path("repo/audit");
    let before: Vec<PathBuf> = objects(world);
    let cache = world.path("cache");
    let saved = world.path("saved-cache");
    let copy = |from: &PathBuf, to: &PathBuf| {
        let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(done.expect("cp").success());
    };
    copy(&cache, &saved);
    let told = complaint(world);
    fs::remove_dir_all(&cache).expect("removed");
    fs::rename(&saved, &cache).expect("renamed");
    for path in objects(world).into_iter().filter(|path| !before.contains(path)) {
        fs::remove_file(folder.join(path)).expect("removed");
    }
    told
}

#[test]
fn an_end_that_is_cut_off_is_found_where_it_was_seen() {
    let world = World::new();
    world.backup();
    world.ok(&["ls", "latest:/"]);
    let mine = objects(&world);
    // Another host sees this one's end when it writes its first entry.
    let other = ["--cache-dir", "other-cache"];
    world.ok(&[&["ls", "latest:/"], &other[..]].concat());
    world.ok(&[&["audit", "verify"], &other[..]].concat());
    fs::remove_dir_all(world.path("cache")).expect("a cache");
    for path in &mine[mine.len() - 2..] {
        fs::remove_file(path).expect("removed");
    }
    // The first host has lost its memory, and begins a new chain: the other's entry tells.
    let told = complaint(&world);
    let last = mine.last().expect("an entry").file_name().expect("a name").to_string_lossy();
    assert!(told.contains(&*last) && told.contains("when audit/"), "{told}");
    assert_eq!(entries_of_chains(&world), 3);
    let output = world.run(&[&["audit", "verify"], &other[..]].concat());
    let told = text(&output.stdout);
    assert!(told.contains(&*last) && told.contains("when this host last looked"), "{told}");
}

fn entries_of_chains(world: &World) -> usize {
    let output = world.run(&["audit", "verify", "--json"]);
    let lines = lines(&text(&output.stdout));
    usize::try_from(lines.last().expect("a summary")["chains"].as_u64().expect("a number"))
        .expect("few")
}

#[test]
fn a_log_that_cannot_be_written_is_told_and_stops_no_restore() {
    let world = World::new();
    world.backup();
    // A file where the folder of the log should be.
    fs::remove_dir_all(world.path("repo/audit")).expect("removed");
    world.write("repo/audit", "");
    let output = world.run(&["restore", "latest", "--target", "out", "-q"]);
    assert_eq!(output.status.code(), Some(0));
    let told = text(&output.stderr);
    assert!(told.contains("not in the audit log"), "{told}");
    assert!(world.path("out/storage/documents/a.txt").exists());
}

#[test]
fn status_tells_how_old_the_newest_good_snapshot_is() {
    let world = World::new();
    let none = world.fails(1, &["status", "--max-age", "26h"]);
    assert!(none.contains("there is no snapshot"), "{none}");
    world.ok(&["backup", "-q", "--host", "one"]);
    world.ok(&["backup", "-q", "--host", "two"]);
    let shown = world.ok(&["status", "--max-age", "26h"]);
    assert!(shown.contains("one") && shown.contains("two") && shown.contains("ok"), "{shown}");
    let found = world.json(&["status", "--host", "two"]);
    assert_eq!((found.len(), found[0]["ok"].as_bool()), (1, Some(true)));
    assert!(found[0]["age_seconds"].as_u64().expect("an age") < 600);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let output = world.run(&["status", "--max-age", "1s", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&text(&output.stdout))[0]["ok"].as_bool(), Some(false));
    assert!(text(&output.stderr).contains("the newest good snapshot of app on one is 0 min old"));
    // One that is not whole is no good one: the age stays that of the one before.
    std::os::unix::fs::symlink("nowhere", world.path("lost")).expect("a link");
    fs::remove_file(world.path(".env")).expect("removed");
    let output = world.run(&["backup", "-q", "--host", "two"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let after = world.json(&["status", "--host", "two"]);
    assert_eq!(after[0]["newest"], found[0]["newest"]);
    assert_eq!(after[0]["bad_since"], 1);
    // A snapshot that is gone is history that went missing.
    let gone = found[0]["newest"].as_str().expect("an id");
    fs::remove_file(world.path("repo/snapshots").join(gone)).expect("removed");
    let output = world.run(&["status"]);
    assert_eq!(output.status.code(), Some(13));
}
