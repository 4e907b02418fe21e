//! A repository that was damaged: what is found, what still comes back, what can be repaired.
#![expect(clippy::disallowed_methods, reason = "a test damages what it likes")]

#[path = "common/world.rs"]
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use world::{World, lines, text};

#[test]
fn partial_checks_that_are_made_often_enough_read_every_pack() {
    let world = World::new();
    for n in 0..3 {
        world.write("docs/a.txt", &format!("version {n}\n").repeat(1000));
        world.backup();
    }
    let check =
        |part: &str| world.json(&["check", "--read-data-subset", part]).pop().expect("a summary");
    let first = check("1");
    assert_eq!((&first["packs_read"], &first["all_read_since"]), (&1.into(), &().into()));
    let packs = first["packs"].as_u64().expect("a number");
    assert!(packs > 4, "{packs}");
    for _ in 2..packs {
        assert!(check("1")["all_read_since"].is_null());
    }
    let since = check("1")["all_read_since"].clone();
    assert!(since.is_string(), "after {packs} checks of one pack each");
    let parts = (1..=4).map(|part| check(&format!("{part}/4"))["packs_read"].as_u64());
    assert_eq!(parts.sum::<Option<u64>>(), Some(packs));
    let complaint = world.fails(2, &["check", "--read-data-subset", "5/4"]);
    assert!(complaint.contains("5%, 1/12 or 2G"), "{complaint}");
}

/// What may become of an object.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Deleted,
    Cut,
    Emptied,
    Swapped,
}

/// All objects of the repository, with the next one in the same folder.
fn objects(world: &World) -> Vec<(PathBuf, Option<PathBuf>)> {
    let mut files = Vec::new();
    let mut folders = vec![world.path("repo")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let is_like = |a: &PathBuf, b: &&PathBuf| {
        let kind = |path: &Path| {
            path.strip_prefix(world.path("repo")).ok()?.iter().next().map(ToOwned::to_owned)
        };
        a != *b && kind(a) == kind(b)
    };
    let neighbour = |file: &PathBuf| files.iter().rev().find(|other| is_like(file, other)).cloned();
    files.iter().map(|file| (file.clone(), neighbour(file))).collect()
}

fn damage(file: &Path, neighbour: Option<&Path>, fate: Fate) -> bool {
    let bytes = fs::read(file).expect("an object");
    let replace = |path: &Path, bytes: &[u8]| {
        fs::remove_file(path).expect("removed");
        fs::write(path, bytes).expect("written");
    };
    match fate {
        Fate::Deleted => fs::remove_file(file).expect("removed"),
        Fate::Cut if bytes.len() > 1 => replace(file, &bytes[..bytes.len() / 2]),
        Fate::Emptied if !bytes.is_empty() => replace(file, &[]),
        Fate::Swapped => {
            let Some(neighbour) = neighbour else { return false };
            // Under whichever names, the same keys open the repository.
            if file.parent().is_some_and(|folder| folder.ends_with("keys")) {
                return false;
            }
            let others = fs::read(neighbour).expect("an object");
            replace(file, &others);
            replace(neighbour, &bytes);
            return bytes != others;
        }
        _ => return false,
    }
    true
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(done.success());
}

/// `COEVAL_DAMAGES=1` for every object; else some of them.
#[test]
fn whatever_object_is_deleted_cut_emptied_or_swapped_is_found_and_hides_nothing_that_is_whole() {
    let world = World::new();
    let step = std::env::var("COEVAL_DAMAGES").map_or(4, |n| n.parse().expect("a number"));
    let mut ids = Vec::new();
    for n in 0..4 {
        world.write("docs/a.txt", &format!("version {n}\n").repeat(1000));
        ids.push(world.backup());
    }
    world.ok(&["forget", &ids[0]]);
    world.ok(&["prune", "--max-unused", "0%"]);
    world.ok(&["forget", &ids[1]]);
    world.ok(&["check", "--read-data"]);
    let (repo, cache) = (world.path("repo"), world.path("cache"));
    let (good, known) = (world.path("good"), world.path("known"));
    copy(&repo, &good);
    copy(&cache, &known);
    let all = objects(&world);
    let mut tried = 0;
    for fate in [Fate::Deleted, Fate::Cut, Fate::Emptied, Fate::Swapped] {
        for (file, neighbour) in all.iter().skip(tried % step).step_by(step) {
            copy(&good, &repo);
            copy(&known, &cache);
            if !damage(file, neighbour.as_deref(), fate) {
                continue;
            }
            tried += 1;
            let name = file.strip_prefix(&repo).expect("a name").display();
            let checked = world.run(&["check", "--read-data"]);
            let said = text(&checked.stdout) + &text(&checked.stderr);
            let warned = ["keys/", "audit/"].map(|of| said.contains(&format!("warning: {of}")));
            let is_told = !checked.status.success() || warned.contains(&true);
            assert!(is_told, "{name} {fate:?} and nobody noticed: {said}");
            // A damaged snapshot object is that of one snapshot only.
            let (folder, id) = (file.parent().expect("a folder"), file.file_name());
            let is_of =
                |snapshot: &String| id.is_some_and(|id| id.to_string_lossy().starts_with(snapshot));
            if folder.ends_with("snapshots") && fate != Fate::Swapped {
                for whole in ids[2..].iter().filter(|id| !is_of(id)) {
                    world.ok(&["cat", &format!("{whole}:/storage/documents/a.txt")]);
                }
            }
        }
    }
    assert!(tried > 10, "only {tried}");
}

#[test]
fn a_repository_that_was_rolled_back_is_told() {
    let world = World::new();
    world.backup();
    copy(&world.path("repo"), &world.path("older"));
    world.write("docs/a.txt", "newer\n");
    let newest = world.backup();
    fs::remove_dir_all(world.path("repo")).expect("removed");
    fs::rename(world.path("older"), world.path("repo")).expect("renamed");
    for command in [&["snapshots"][..], &["backup"]] {
        let output = world.run(command);
        let complaint = text(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        assert!(complaint.contains(&format!("warning: snapshots/{newest}")), "{complaint}");
    }
    let output = world.run(&["check"]);
    assert_eq!(output.status.code(), Some(13));
    assert!(text(&output.stdout).contains("no collection removed it"), "{}", text(&output.stdout));
    // Whoever did it knowingly says so.
    let said = text(&output.stdout);
    let (_, path) = said.lines().next().expect("a line").split_once("delete ").expect("a path");
    fs::remove_file(path).expect("removed");
    world.ok(&["check"]);
    // What a collection removed is no loss, and what was forgotten is not either.
    world.ok(&["forget", "--keep-last", "1", "--prune"]);
    world.ok(&["check"]);
    assert_eq!(text(&world.run(&["snapshots"]).stderr), "");
}

#[test]
fn repaired_packs_keep_what_is_good_and_the_next_backup_stores_the_rest_again() {
    let world = World::new();
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 150_000];
    for n in 0..40 {
        noise.fill(&mut bytes);
        fs::write(world.path(&format!("docs/{n}")), &bytes).expect("a file");
    }
    let id = world.backup();
    let size = |path: &PathBuf| path.metadata().expect("metadata").len();
    for is_deleted in [false, true] {
        let packs = objects(&world).into_iter().map(|(path, _)| path);
        let largest = packs.max_by_key(size).expect("a pack");
        let mut damaged = fs::read(&largest).expect("a pack");
        damaged[1000] ^= 1;
        fs::remove_file(&largest).expect("removed");
        if !is_deleted {
            fs::write(&largest, &damaged).expect("written");
        }
        let repaired = world.run(&["repair", "packs", "--json"]);
        assert_eq!(repaired.status.code(), Some(13), "{}", text(&repaired.stderr));
        let summary = lines(&text(&repaired.stdout)).pop().expect("a summary");
        assert_eq!(summary["packs"], 1, "{summary}");
        let copied = summary["copied"].as_u64().expect("a number");
        assert_eq!(copied > damaged.len() as u64 / 3, !is_deleted, "{summary}");
        // Only what was lost is missed, and nothing else is wrong.
        let checked = world.run(&["check", "--read-data"]);
        let said = text(&checked.stdout);
        assert_eq!(checked.status.code(), Some(13));
        assert!(said.contains("/storage/documents") && !said.contains("packs/"), "{said}");
        let again = world.run(&["repair", "packs"]);
        assert!(again.status.success(), "{}", text(&again.stderr));
        world.ok(&["backup", "--force"]);
        world.ok(&["check", "--read-data"]);
        world.ok(&["prune"]);
    }
    world.ok(&["restore", &id, "--target", "elsewhere"]);
}

/// Changes one byte of an object.
fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("an object");
    let at = at % bytes.len();
    bytes[at] ^= 1;
    fs::remove_file(file).expect("removed");
    fs::write(file, &bytes).expect("written");
}

#[test]
fn what_is_lost_is_named_and_what_is_left_takes_the_snapshots_place() {
    let world = World::new();
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 150_000];
    for n in 0..20 {
        noise.fill(&mut bytes);
        fs::write(world.path(&format!("docs/{n}")), &bytes).expect("a file");
    }
    let id = world.backup();
    world.ok(&["tag", "--add", "good", "--protect", &id]);
    world.write("docs/a.txt", "second\n");
    world.backup();
    let before = world.json(&["snapshots"]);
    let size = |path: &PathBuf| path.metadata().expect("metadata").len();
    let largest = objects(&world).into_iter().map(|(path, _)| path).max_by_key(size);
    flip(&largest.expect("a pack"), 1000);
    assert_eq!(world.run(&["repair", "packs"]).status.code(), Some(13));
    let complaint = world.fails(13, &["prune"]);
    assert!(complaint.contains("coeval repair snapshots"), "{complaint}");
    // Said, and not done.
    let planned = world.run(&["repair", "snapshots", "--dry-run", "--json"]);
    assert_eq!(planned.status.code(), Some(13), "{}", text(&planned.stderr));
    let planned = lines(&text(&planned.stdout));
    let lost: Vec<&str> = planned.iter().filter_map(|line| line["path"].as_str()).collect();
    assert!(!lost.is_empty() && lost.len().is_multiple_of(2), "the same of both: {lost:?}");
    assert!(lost.iter().all(|path| path.starts_with("/storage/documents/")), "{lost:?}");
    assert_eq!(world.json(&["snapshots"]), before);
    // Done.
    let repaired = world.run(&["repair", "snapshots"]);
    assert_eq!(repaired.status.code(), Some(3), "{}", text(&repaired.stderr));
    assert!(text(&repaired.stdout).contains(lost[0]), "{}", text(&repaired.stdout));
    world.ok(&["check", "--read-data"]);
    world.ok(&["repair", "snapshots"]);
    world.ok(&["prune"]);
    let after = world.json(&["snapshots"]);
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((&old["time"], &old["tags"]), (&new["time"], &new["tags"]));
    }
    assert_eq!(world.run(&["restore", "latest", "--target", "elsewhere"]).status.code(), Some(0));
    for path in fs::read_dir(world.path("docs")).expect("a folder") {
        let name = path.expect("an entry").file_name().into_string().expect("a name");
        let is_lost = lost.contains(&&*format!("/storage/documents/{name}"));
        let restored = world.path("elsewhere").join("storage/documents").join(&name);
        assert_eq!(restored.exists(), !is_lost, "{name}");
    }
}

#[test]
fn a_lost_part_of_a_table_is_named_by_its_keys_and_the_other_records_stay() {
    let world = World::new();
    world.sql(
        "WITH RECURSIVE n(i) AS (SELECT 4 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
         INSERT INTO users SELECT i, hex(randomblob(20)) FROM n;",
    );
    world.backup();
    let size = |path: &PathBuf| path.metadata().expect("metadata").len();
    let largest = objects(&world).into_iter().map(|(path, _)| path).max_by_key(size);
    flip(&largest.expect("a pack"), 200_000);
    assert_eq!(world.run(&["repair", "packs"]).status.code(), Some(13));
    let repaired = world.run(&["repair", "snapshots", "--json"]);
    assert_eq!(repaired.status.code(), Some(3), "{}", text(&repaired.stderr));
    let said = lines(&text(&repaired.stdout));
    let lost: Vec<_> = said.iter().filter(|line| line["message_type"] == "lost").collect();
    assert!(lost.iter().all(|line| line["path"] == "/database/main/users"), "{lost:?}");
    assert!(lost[0]["problem"].as_str().expect("a text").contains(" up to /database/main/users/"));
    let count: u64 = lost.iter().map(|line| line["entries"].as_u64().expect("a number")).sum();
    assert!((1..29_000).contains(&count), "{count}");
    world.ok(&["check", "--read-data"]);
    let rows = world.ok(&["cat", "--csv", "latest:/database/main/users"]);
    assert_eq!(rows.lines().count() as u64, 30_001 - count);
}

#[test]
fn a_snapshot_that_cannot_be_read_stops_prune_until_it_is_given_up() {
    let world = World::new();
    let bad = world.backup();
    world.write("docs/a.txt", "second\n");
    let good = world.backup();
    let object = world.path("repo/snapshots");
    let name =
        fs::read_dir(&object).expect("a folder").map(|entry| entry.expect("an entry").path());
    let is_bad = |path: &PathBuf| path.to_string_lossy().contains(&format!("snapshots/{bad}"));
    flip(&name.into_iter().find(is_bad).expect("the object"), 50);
    let complaint = world.fails(13, &["prune"]);
    assert!(complaint.contains(&bad), "{complaint}");
    let told = world.run(&["repair", "snapshots"]);
    assert_eq!(told.status.code(), Some(13));
    assert!(text(&told.stderr).contains("--forget-unreadable"), "{}", text(&told.stderr));
    let wrong = world.fails(2, &["repair", "snapshots", "--forget-unreadable", &good]);
    assert!(wrong.contains("does not name"), "{wrong}");
    world.ok(&["repair", "snapshots", "--forget-unreadable", &bad]);
    // What is forgotten and unreadable is in nobody's way.
    world.run(&["snapshots", "--forgotten"]);
    world.ok(&["prune"]);
    world.ok(&["check", "--read-data"]);
    world.ok(&["restore", &good, "--target", "elsewhere"]);
}

#[test]
fn what_a_lost_snapshot_held_is_recovered_until_it_is_pruned() {
    let world = World::new();
    let lost = world.backup();
    world.write("docs/a.txt", "second\n");
    world.sql("INSERT INTO users VALUES (4, 'edsger')");
    world.backup();
    let nothing = world.json(&["recover"]);
    assert_eq!(nothing.len(), 1, "nothing was lost: {nothing:?}");
    for (object, _) in objects(&world) {
        let name = object.to_string_lossy().into_owned();
        if name.contains(&format!("/snapshots/{lost}")) {
            fs::remove_file(&object).expect("removed");
        }
    }
    let planned = world.json(&["recover", "--dry-run"]);
    assert_eq!(planned.len(), 2, "{planned:?}");
    assert!(planned[0]["snapshot_id"].is_null() && planned[0]["session"].as_str() > Some(&lost));
    let recovered = world.json(&["recover"]);
    let id = recovered[0]["snapshot_id"].as_str().expect("an id").to_owned();
    let paths: Vec<_> =
        recovered[0]["sources"].as_array().expect("a list").iter().map(|s| &s["path"]).collect();
    // The configuration did not change: the second snapshot has it.
    assert_eq!(paths, ["/database/main", "/storage/docs"]);
    assert_eq!(world.ok(&["cat", &format!("{id}:/storage/docs/a.txt")]), "hello\n");
    let tagged = world.json(&["snapshots", "--tag", "recovered"]);
    assert_eq!(tagged.len(), 1, "{tagged:?}");
    world.ok(&["restore", &id, "--target", "elsewhere"]);
    assert_eq!(world.json(&["recover"]).len(), 1, "it is found once");
}

#[test]
fn what_cannot_be_read_of_collections_is_replaced_and_nobody_relies_on_what_was_removed() {
    let world = World::new();
    let mut ids = Vec::new();
    for n in 0..4 {
        world.write("docs/a.txt", &format!("version {}\n", n % 2).repeat(50_000));
        ids.push(world.backup());
    }
    // A host that has not looked since.
    copy(&world.path("cache"), &world.path("elsewhere-cache"));
    world.ok(&["forget", &ids[0], &ids[2]]);
    world.ok(&["prune", "--max-unused", "0%"]);
    world.write("docs/b.txt", "another\n");
    ids.push(world.backup());
    world.ok(&["prune", "--max-unused", "0%"]);
    flip(&world.path("repo/gc/1"), 60);
    for command in ["backup", "prune"] {
        assert!(!world.run(&[command]).status.success(), "{command} knows what was removed");
    }
    assert_eq!(world.run(&["check"]).status.code(), Some(13));
    let complaint = world.fails(2, &["repair", "collections"]);
    assert!(complaint.contains("--no-prune-runs"), "{complaint}");
    copy(&world.path("elsewhere-cache"), &world.path("cache"));
    let said = world.ok(&["repair", "collections", "--no-prune-runs"]);
    assert!(said.contains("gc/1"), "{said}");
    // What only the removed snapshots had is stored again, by that host too.
    copy(&world.path("elsewhere-cache"), &world.path("cache"));
    world.write("docs/a.txt", &"version 0\n".repeat(50_000));
    let id = world.backup();
    world.ok(&["restore", &id, "--target", "restored"]);
    fs::remove_dir_all(world.path("cache")).expect("removed");
    world.ok(&["check", "--read-data"]);
    world.ok(&["forget", "--keep-last", "1", "--prune"]);
    world.ok(&["check", "--read-data"]);
    let again = world.ok(&["repair", "collections", "--no-prune-runs"]);
    assert!(!again.contains("gc/"), "{again}");
}
