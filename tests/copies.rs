//! A second place: snapshots copied into another repository, and the whole repository brought to
//! another folder, as users do it.
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use world::World;

/// Bytes that no compressor makes smaller, in which a chunk boundary lies here and there.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// An application with three snapshots, and an empty repository with other keys.
fn with_second() -> World {
    let world = World::new();
    fs::write(world.path("docs/large.bin"), noise(1, 3 << 20)).expect("a file");
    world.ok(&["backup", "-q", "--tag", "first"]);
    world.write("docs/a.txt", "changed\n");
    world.sql("UPDATE users SET name = 'hopper' WHERE id = 2; INSERT INTO users VALUES (9, 'x');");
    world.backup();
    fs::remove_file(world.path("docs/a.txt")).expect("a file");
    world.write("docs/new.txt", &"new\n".repeat(500));
    world.backup();
    world.write("second.toml", "");
    second(&world, &["init", "-q"]);
    world
}

/// Arguments that speak of the second repository.
const SECOND: [&str; 6] = ["-c", "second.toml", "-r", "second", "--key-file", "second.key"];
const TO: [&str; 4] = ["--to", "second", "--to-key-file", "second.key"];

fn second(world: &World, arguments: &[&str]) -> String {
    world.ok(&[arguments, &SECOND].concat())
}

fn copy(world: &World, arguments: &[&str]) -> Value {
    let lines = world.json(&[&["copy"], &TO[..], arguments].concat());
    lines.last().expect("a summary").clone()
}

fn snapshots(world: &World, arguments: &[&str]) -> Vec<Value> {
    world.json(&[&["snapshots"], arguments].concat())
}

/// All objects of a repository.
fn objects(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // Folders come into being with their first object.
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below").to_owned();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

fn restored(world: &World, arguments: &[&str], target: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    world.ok(&[&["restore", "-q", "--target", target], arguments].concat());
    objects(&world.path(target))
}

#[test]
fn a_copy_shows_the_same_under_other_keys() {
    let world = with_second();
    let done = copy(&world, &["--dry-run"]);
    assert_eq!((done["copied"].as_u64(), done["present"].as_u64()), (Some(3), Some(0)));
    assert_eq!(snapshots(&world, &SECOND).len(), 0);
    copy(&world, &[]);
    let (from, to) = (snapshots(&world, &[]), snapshots(&world, &SECOND));
    for (number, (from, to)) in from.iter().zip(&to).enumerate() {
        for field in ["time", "hostname", "application", "tags", "reason", "instant", "complete"] {
            assert_eq!(from[field], to[field], "{field} of {number}");
        }
        assert!(!from["hostname"].as_str().expect("a name").is_empty());
        assert_eq!(to["copied_from"]["snapshot"], from["id"]);
        assert_ne!(from["root"], to["root"], "ids are keyed");
        let (from, to) = (from["id"].as_str().expect("an id"), to["id"].as_str().expect("an id"));
        let there = restored(&world, &[&[to], &SECOND[..]].concat(), &format!("there{number}"));
        assert!(there == restored(&world, &[from], &format!("here{number}")), "snapshot {number}");
    }
    let parents: Vec<_> = to.iter().map(|to| to["parent"].clone()).collect();
    assert_eq!(parents, [Value::Null, to[0]["id"].clone(), to[1]["id"].clone()]);
    second(&world, &["check", "--read-data"]);
    // A copy is what a backup would have been: one made there now finds nothing to store.
    let there = ["-r", "second", "--key-file", "second.key"];
    let taken = world.json(&[&["backup"], &there[..]].concat());
    let taken = taken.last().expect("a summary");
    let difference = world.ok(&[&["diff", "latest~1", "latest"], &there[..]].concat());
    assert!(difference.contains("no difference"), "{difference} {taken}");
}

#[test]
fn a_second_copy_copies_what_is_new() {
    let world = with_second();
    let done = copy(&world, &["--tag", "first"]);
    assert_eq!(done["copied"], 1);
    let size = |world: &World| -> usize {
        objects(&world.path("second/packs")).values().map(Vec::len).sum()
    };
    let before = size(&world);
    let done = copy(&world, &["latest~1", "latest"]);
    assert_eq!((done["copied"].as_u64(), done["present"].as_u64()), (Some(2), Some(0)));
    let grown = size(&world) - before;
    assert!(grown < before / 50, "{grown} after {before}");
    // Under other tags it is the same snapshot, here and there.
    world.ok(&["tag", "latest", "--add", "kept"]);
    second(&world, &["tag", "latest", "--add", "other"]);
    let done = copy(&world, &[]);
    assert_eq!((done["copied"].as_u64(), done["present"].as_u64()), (Some(0), Some(3)));
    // It has not gone further when it comes back.
    let back = ["copy", "--to", "repo", "--to-key-file", "app.key", "--json"];
    let lines = world::lines(&second(&world, &back));
    assert_eq!(lines.last().expect("a summary")["present"], 3);
}

#[test]
fn a_copy_builds_on_what_is_left_of_earlier_ones() {
    let world = with_second();
    copy(&world, &["latest~2", "latest~1"]);
    second(&world, &["forget", "--keep-last", "1"]);
    copy(&world, &["latest"]);
    let there = restored(&world, &[&["latest"], &SECOND[..]].concat(), "there");
    assert!(there == restored(&world, &["latest"], "here"));
    second(&world, &["prune", "--immediate", "--max-unused", "0"]);
    second(&world, &["check", "--read-data"]);
}

#[test]
fn copies_into_the_same_repository_or_with_wrong_keys_are_refused() {
    let world = with_second();
    let complaint = world.fails(2, &["copy", "--to", "repo"]);
    assert!(complaint.contains("is the same repository") && complaint.contains("coeval sync"));
    // What opens the first does not open the second.
    world.fails(12, &["copy", "--to", "second"]);
    world.fails(10, &["copy", "--to", "nowhere"]);
    world.fails(2, &[&["copy", "ffffffff"], &TO[..]].concat());
}

fn sync(world: &World, arguments: &[&str]) -> Value {
    let lines = world.json(&[&["sync", "mirror"], arguments].concat());
    lines.last().expect("a summary").clone()
}

#[test]
fn a_sync_makes_a_second_place_and_brings_it_up_to_date() {
    let world = with_second();
    let planned = sync(&world, &["--dry-run"]);
    assert!(!world.path("mirror").join("config").exists());
    let done = sync(&world, &[]);
    // Between the two, the audit log grew: one has ended, the other begun.
    let copied = |done: &Value| done["copied"].as_u64().expect("a number");
    assert_eq!(copied(&planned) + 2, copied(&done));
    assert_eq!(snapshots(&world, &[]), snapshots(&world, &["-r", "mirror"]));
    world.ok(&["check", "--read-data", "-r", "mirror"]);
    assert_eq!(copied(&sync(&world, &["--verify"])), 2);
    // What is collected stays there, unless it is told to go.
    world.write("docs/new.txt", "newer\n");
    world.backup();
    world.ok(&["forget", "--keep-last", "1", "-q"]);
    world.ok(&["prune", "--immediate", "--max-unused", "0", "-q"]);
    sync(&world, &[]);
    world.ok(&["check", "--read-data", "-r", "mirror"]);
    let packs = objects(&world.path("mirror/packs")).len();
    assert!(packs > objects(&world.path("repo/packs")).len());
    sync(&world, &["--delete"]);
    for folder in ["packs", "index", "snapshots", "gc", "keys", "tombstones"] {
        let folder = Path::new(folder);
        let (here, there) = (world.path("repo").join(folder), world.path("mirror").join(folder));
        assert!(objects(&here) == objects(&there), "{folder:?}");
    }
    world.ok(&["check", "--read-data", "-r", "mirror"]);
    assert_eq!(snapshots(&world, &["-r", "mirror"]).len(), 1);
}

#[test]
fn a_sync_follows_no_loss_and_overwrites_nothing() {
    let world = with_second();
    sync(&world, &[]);
    // Somebody deletes a snapshot and a pack of the first place.
    let lost = objects(&world.path("repo/snapshots")).into_keys().next().expect("a snapshot");
    let kept = fs::read(world.path("repo/snapshots").join(&lost)).expect("a snapshot");
    fs::remove_file(world.path("repo/snapshots").join(&lost)).expect("deleted");
    let complaint = world.fails(1, &["sync", "mirror", "--delete"]);
    let name = &lost.to_str().expect("UTF-8")[..8];
    assert!(complaint.contains(&format!("mirror has snapshot {name}")), "{complaint}");
    sync(&world, &[]);
    assert!(world.path("mirror/snapshots").join(&lost).exists());
    fs::write(world.path("repo/snapshots").join(&lost), kept).expect("put back");
    // An object that is another one is named, and stays.
    let object = objects(&world.path("mirror/packs")).into_keys().next().expect("a pack");
    let pack = world.path("mirror/packs").join(&object);
    let mut bytes = fs::read(&pack).expect("a pack");
    bytes[60] ^= 1;
    fs::remove_file(&pack).expect("deleted");
    fs::write(&pack, &bytes).expect("a pack");
    sync(&world, &[]);
    let complaint = world.fails(1, &["sync", "mirror", "--verify"]);
    assert!(complaint.contains("has another object under the name packs/"), "{complaint}");
    assert!(fs::read(&pack).expect("a pack") == bytes, "it is left as it is");
    fs::write(&pack, &bytes[1..]).expect("a pack");
    world.fails(1, &["sync", "mirror"]);
    // Damage of the first place does not spread.
    let pack = world.path("repo/packs").join(&object);
    bytes = fs::read(&pack).expect("a pack");
    bytes[60] ^= 1;
    fs::remove_file(&pack).expect("deleted");
    fs::write(&pack, &bytes).expect("a pack");
    let complaint = world.fails(13, &["sync", "third"]);
    assert!(complaint.contains("is damaged: its checksum is wrong"), "{complaint}");
    // And another repository is no second place.
    let complaint = world.fails(1, &["sync", "second"]);
    assert!(complaint.contains("has another object under the name config"), "{complaint}");
}
