//! Forgetting, protecting, bringing back and pruning, as users call them; and `prune` killed at
//! every system call that changes something.
#![expect(clippy::disallowed_methods, reason = "a test that runs for longer when it is told to")]

#[path = "common/world.rs"]
mod world;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use world::World;

/// An application with as many snapshots, each of which shares some with the one before.
fn with_snapshots(count: u32) -> (World, Vec<String>) {
    let world = World::new();
    let ids = (0..count).map(|n| {
        world.write("docs/a.txt", &format!("version {n}\n").repeat(1000));
        world.write(&format!("docs/sub/{}.txt", n % 3), &format!("{n} below\n").repeat(3000));
        world.backup()
    });
    let ids = ids.collect();
    (world, ids)
}

fn shown(world: &World) -> Vec<String> {
    let ids = |line: serde_json::Value| line["short_id"].as_str().expect("an id").to_owned();
    world.json(&["snapshots"]).into_iter().map(ids).collect()
}

fn packed(world: &World) -> u64 {
    let mut folders = vec![world.path("repo/packs")];
    let mut size = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("metadata");
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                size += metadata.len();
            }
        }
    }
    size
}

#[test]
fn what_no_rule_keeps_is_forgotten_with_the_reasons_for_the_rest() {
    let (world, ids) = with_snapshots(5);
    let plan = world.ok(&["forget", "--keep-last", "2", "--dry-run"]);
    assert!(plan.contains("keep 2 snapshots") && plan.contains("  last\n"), "{plan}");
    assert_eq!(shown(&world), ids);
    let rows = world.json(&["forget", "--keep-last", "2", "--keep-id", &ids[0]]);
    let kept = rows.iter().filter(|row| row["message_type"] == "keep").count();
    assert_eq!((kept, rows.last().expect("a summary")["forgotten"].as_u64()), (3, Some(2)));
    assert_eq!(shown(&world), [ids[0].clone(), ids[3].clone(), ids[4].clone()]);
    world.fails(2, &["forget"]);
    world.fails(2, &["forget", "--keep-last", "1", "--group-by", "moon"]);
    world.fails(2, &["prune", "--keep-last", "1"]);
}

#[test]
fn the_last_snapshot_of_a_group_is_only_forgotten_on_purpose() {
    let (world, ids) = with_snapshots(2);
    let complaint = world.fails(2, &["forget", &ids[0], &ids[1]]);
    assert!(complaint.contains("--unsafe-allow-remove-all"), "{complaint}");
    assert_eq!(shown(&world).len(), 2);
    world.ok(&["forget", &ids[0], &ids[1], "--unsafe-allow-remove-all"]);
    assert_eq!(shown(&world).len(), 0);
    world.ok(&["prune"]);
    assert_eq!(packed(&world), 0);
}

#[test]
fn what_is_protected_stays_and_what_was_forgotten_comes_back_until_it_is_pruned() {
    let (world, ids) = with_snapshots(4);
    let tagged = world.ok(&["-q", "tag", &ids[0], "--add", "release", "--protect"]);
    let protected = tagged.trim().to_owned();
    assert_ne!(protected, ids[0]);
    world.fails(1, &["forget", &protected]);
    world.ok(&["forget", "--keep-last", "1"]);
    assert_eq!(shown(&world), [protected.clone(), ids[3].clone()]);
    // The tag is found, and so is what it names.
    let old = world.ok(&["cat", "tag:release:/storage/documents/a.txt"]);
    assert!(old.starts_with("version 0\n"));
    let back = world.ok(&["-q", "undelete", &ids[1]]).trim().to_owned();
    assert_eq!(shown(&world).len(), 3);
    world.fails(2, &["undelete", &ids[1]]);
    world.ok(&["tag", &protected, "--unprotect", "--keep-until", "2020-01-01"][..3]);
    world.ok(&["prune"]);
    world.ok(&["check", "--read-data"]);
    assert!(
        world.ok(&["cat", &format!("{back}:/storage/documents/a.txt")]).starts_with("version 1")
    );
    // What was not brought back is gone.
    world.fails(2, &["undelete", &ids[2]]);
}

#[test]
fn prune_frees_what_it_says_and_leaves_the_rest_whole() {
    let (world, _) = with_snapshots(12);
    let before = packed(&world);
    world.ok(&["forget", "--keep-last", "1"]);
    let plan = world.json(&["prune", "--dry-run", "--max-unused", "0%"]).remove(0);
    assert_eq!(packed(&world), before);
    let done = world.json(&["prune", "--max-unused", "0%"]).pop().expect("a summary");
    assert_eq!(done["packs"], plan["packs"]);
    assert_eq!(packed(&world), before - done["freed"].as_u64().expect("bytes"));
    assert!(packed(&world) < before / 2, "{} of {before}", packed(&world));
    world.ok(&["check", "--read-data"]);
    // There is nothing to do a second time, and another host sees the same.
    let again = world.json(&["prune", "--max-unused", "0%"]).pop().expect("a summary");
    assert_eq!(again["deleted"].as_u64(), Some(0));
    fs::remove_dir_all(world.path("cache")).expect("a cache");
    world.ok(&["check", "--read-data"]);
    world.ok(&["restore", "latest", "--target", "elsewhere"]);
    world.backup();
}

#[test]
fn an_interrupted_backup_is_not_waited_for_forever() {
    let (world, _) = with_snapshots(2);
    let session = world.path("repo/sessions").join("00112233445566778899aabbccddeeff");
    // Of what nobody can read nobody was ever heard: it is given up at once.
    fs::write(session, b"").expect("a session");
    world.ok(&["prune", "--wait", "0s"]);
    world.ok(&["check", "--read-data"]);
    assert_eq!(shown(&world).len(), 2);
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(done.success());
}

/// Kills `prune` at its n-th call of a kind, for each n, and lets the next one finish.
/// `COEVAL_KILLS=1` for every call; else some of them.
#[test]
fn a_prune_that_is_killed_at_any_system_call_loses_nothing_and_is_finished_by_the_next() {
    let step = std::env::var("COEVAL_KILLS").map_or(9, |n| n.parse().expect("a number"));
    let (world, _) = with_snapshots(5);
    world.ok(&["forget", "--keep-last", "2"]);
    let (original, repo) = (world.path("original"), world.path("repo"));
    copy(&repo, &original);
    let prune = ["prune", "--immediate", "--max-unused", "0%"];
    let (mut killed, mut points) = (0, 0);
    for call in ["linkat,link", "unlink,unlinkat", "fsync,fdatasync", "openat", "write,pwrite64"] {
        for number in (1..).step_by(step) {
            fs::remove_dir_all(&repo).expect("removed");
            copy(&original, &repo);
            // This host has seen what came later, and would say that history went missing.
            fs::remove_dir_all(world.path("cache")).expect("removed");
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            let mut traced = world.command("strace");
            traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            traced.args(["-e", &inject]).arg(env!("CARGO_BIN_EXE_coeval")).args(prune);
            let status = traced.stdout(Stdio::null()).stderr(Stdio::null()).status();
            let survived = status.expect("strace").success();
            points += 1;
            let what = format!("{call} {number}");
            let checked = world.run(&["check", "--read-data"]);
            assert!(checked.status.success(), "{what}: {}", world::text(&checked.stdout));
            let next = world.run(&prune);
            assert!(next.status.success(), "{what}: {}", world::text(&next.stderr));
            let checked = world.run(&["check", "--read-data"]);
            assert!(checked.status.success(), "{what}, then: {}", world::text(&checked.stdout));
            assert_eq!(shown(&world).len(), 2, "{what}");
            let left = fs::read_dir(repo.join("tombstones")).expect("a folder").count();
            assert_eq!(left, 0, "{what}: a tombstone is left");
            if survived {
                break;
            }
            killed += 1;
        }
    }
    println!("killed at {killed} of {points} points");
    assert!(killed > 10);
}

#[test]
fn rewriting_takes_paths_out_of_every_snapshot_and_keeps_the_rest_as_it_was() {
    let world = World::new();
    for n in 0..3 {
        world.write("docs/a.txt", &format!("version {n}\n"));
        world.write("docs/sub/secret.txt", &format!("secret {n}\n"));
        if n == 0 {
            let (first, further) = (world.path("docs/sub/secret.txt"), world.path("docs/sub/x"));
            fs::hard_link(first, further).expect("a second name");
        }
        world.backup();
    }
    world.ok(&["tag", "--add", "good", "--protect", "latest"]);
    let before = world.json(&["snapshots"]);
    let all = ["rewrite", "--exclude", "secret.*", "--remove", "/database/main/users/2"];
    let planned = world.json(&[&all[..], &["--dry-run"]].concat());
    assert_eq!(planned.last().expect("a summary")["changed"], 3, "{planned:?}");
    assert_eq!(planned[0]["entries"], 2);
    assert_eq!(world.json(&["snapshots"]), before);
    world.ok(&all);
    let after = world.json(&["snapshots"]);
    for (old, new) in before.iter().zip(&after) {
        assert_ne!(old["id"], new["id"]);
        assert_eq!((&old["time"], &old["tags"]), (&new["time"], &new["tags"]));
    }
    assert_eq!(before.len(), after.len());
    world.ok(&["check", "--read-data"]);
    let content = world.ok(&["ls", "-R", "latest"]);
    assert!(!content.contains("secret"), "{content}");
    // The other name of the file has become the file.
    assert_eq!(world.ok(&["cat", "latest:/storage/documents/sub/x"]), "secret 2\n");
    assert_eq!(world.ok(&["cat", "latest~2:/storage/documents/a.txt"]), "version 0\n");
    let rows = world.ok(&["cat", "--csv", "latest:/database/main/users"]);
    assert!(rows.contains("ada") && !rows.contains("grace"), "{rows}");
    assert_eq!(world.json(&all).last().expect("a summary")["changed"], 0, "nothing is left to do");
    world.ok(&["restore", "latest", "--target", "elsewhere"]);
    let complaint = world.fails(2, &["rewrite", "--remove", "/"]);
    assert!(complaint.contains("coeval forget"), "{complaint}");
    // Only a collection erases.
    let old = before[0]["id"].as_str().expect("an id").to_owned();
    let new = after[0]["id"].as_str().expect("an id").to_owned();
    assert!(world.fails(2, &["undelete", &old]).contains("under another id"));
    world.ok(&["forget", &new]);
    world.ok(&["undelete", &old]);
    assert!(world.ok(&["ls", "-R", "latest~2"]).contains("secret.txt"));
}
