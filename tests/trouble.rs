//! What goes wrong around the program: unreadable files, full disks, damage, signals.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use world::{World, lines, text};

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
fn a_signal_stops_the_work_before_anything_is_committed() {
    let world = World::new();
    let config = world.read("coeval.toml");
    world.write("coeval.toml", &format!("{config}\n[hooks]\nbefore = [\"kill -INT $PPID\"]\n"));
    let complaint = world.fails(1, &["backup"]);
    assert!(complaint.contains("interrupted; nothing was committed"), "{complaint}");
    let twice = "\n[hooks]\nbefore = [\"kill -TERM $PPID; sleep 0.2; kill -TERM $PPID\"]\n";
    world.write("coeval.toml", &format!("{config}{twice}"));
    let output = world.run(&["backup"]);
    assert_eq!(output.status.signal(), Some(15), "the second signal kills");
    assert!(world.json(&["snapshots"]).is_empty());
}
