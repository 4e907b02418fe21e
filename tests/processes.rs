//! Real processes that die at any moment, or work on one repository all at once.
//!
//! `COEVAL_KILLS=1` kills at every system call, else at some of them; `COEVAL_SOAK=600` lets the
//! processes work together for that many seconds.
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]
#![allow(clippy::print_stdout, reason = "a test that says how much it did")]

#[path = "common/world.rs"]
mod world;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use world::{World, text};

const SECOND: [&str; 6] = ["-c", "second.toml", "-r", "second", "--key-file", "second.key"];

/// An application with some snapshots, and an empty repository with other keys.
fn with_second() -> World {
    let world = World::new();
    for number in 0..3 {
        world.write("docs/a.txt", &format!("version {number}\n").repeat(1000));
        world.write(&format!("docs/sub/{number}.txt"), &format!("{number} below\n").repeat(3000));
        world.backup();
    }
    world.write("second.toml", "");
    world.ok(&[&["init", "-q"], &SECOND[..]].concat());
    world
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(done.success());
}

/// Kills a command at its n-th call of a kind, for several n and kinds, each time with `folder` as
/// it was, and looks at what is left.
fn killed(world: &World, command: &[&str], folder: &str, look: &dyn Fn(&str)) {
    let step = std::env::var("COEVAL_KILLS").map_or(31, |n| n.parse().expect("a number"));
    let (folder, original) = (world.path(folder), world.path("original"));
    copy(&folder, &original);
    let (mut kills, mut points) = (0, 0);
    for call in ["linkat,link", "unlink,unlinkat", "fsync,fdatasync", "openat", "write,pwrite64"] {
        for number in (1..).step_by(step) {
            copy(&original, &folder);
            // This host has seen what came later, and would say that history went missing.
            let _ = fs::remove_dir_all(world.path("cache"));
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            let mut traced = world.command("strace");
            traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            traced.args(["-e", &inject]).arg(env!("CARGO_BIN_EXE_coeval")).args(command);
            let status = traced.stdout(Stdio::null()).stderr(Stdio::null()).status();
            let survived = status.expect("strace").success();
            points += 1;
            look(&format!("{call} {number}"));
            if survived {
                break;
            }
            kills += 1;
        }
    }
    println!("{command:?} was killed at {kills} of {points} points");
    assert!(kills > 4, "{kills}");
}

fn shown(world: &World, arguments: &[&str]) -> usize {
    world.json(&[&["snapshots"], arguments].concat()).len()
}

fn sound(world: &World, arguments: &[&str], what: &str) {
    let checked = world.run(&[&["check", "--read-data"], arguments].concat());
    assert!(checked.status.success(), "{what}: {}", text(&checked.stdout));
}

#[test]
fn a_copy_that_is_killed_is_gone_on_with_by_the_next() {
    let world = with_second();
    let to = ["copy", "--to", "second", "--to-key-file", "second.key"];
    killed(&world, &to, "second", &|what| {
        sound(&world, &SECOND, what);
        let next = world.run(&to);
        assert!(next.status.success(), "{what}: {}", text(&next.stderr));
        sound(&world, &SECOND, what);
        assert_eq!(shown(&world, &SECOND), 3, "{what}: none is lost, and none there twice");
    });
    sound(&world, &[], "the first repository");
}

#[test]
fn a_sync_that_is_killed_leaves_a_repository_and_is_gone_on_with_by_the_next() {
    let world = with_second();
    fs::create_dir(world.path("mirror")).expect("a folder");
    killed(&world, &["sync", "mirror"], "mirror", &|what| {
        if world.path("mirror/config").exists() {
            sound(&world, &["-r", "mirror"], what);
        }
        let next = world.run(&["sync", "mirror"]);
        assert!(next.status.success(), "{what}: {}", text(&next.stderr));
        sound(&world, &["-r", "mirror"], what);
        assert_eq!(shown(&world, &["-r", "mirror"]), 3, "{what}");
    });
}

#[test]
fn an_index_that_is_being_made_anew_is_whole_at_any_moment() {
    let world = with_second();
    killed(&world, &["repair", "index"], "repo", &|what| {
        sound(&world, &[], what);
        world.ok(&["repair", "index", "-q"]);
        sound(&world, &[], what);
        assert_eq!(shown(&world, &[]), 3, "{what}");
    });
}

#[test]
fn a_key_that_is_being_added_shuts_nobody_out() {
    let world = with_second();
    let add = ["key", "add", "--new-key-file", "new.key", "-q"];
    killed(&world, &add, "repo", &|what| {
        sound(&world, &[], what);
        // What was made of the key file is a key file, or nothing.
        let again = world.run(&add);
        assert!(again.status.success(), "{what}: {}", text(&again.stderr));
        world.ok(&["snapshots", "-q", "--key-file", "new.key"]);
        fs::remove_file(world.path("new.key")).expect("removed");
    });
}

/// Text that tells by itself whether it is whole.
fn letter(number: u32) -> String {
    format!("{number}\n").repeat(2000 + usize::try_from(number % 7).expect("few"))
}

fn is_letter(content: &str) -> bool {
    let number = content.lines().next().and_then(|line| line.parse().ok());
    number.is_some_and(|number| letter(number) == content)
}

/// Processes that work on one repository until a time, on two hosts, which have a cache each.
struct Soak {
    world: World,
    end: Instant,
    runs: AtomicU32,
}

impl Soak {
    /// Runs a process in a role; it must end with one of these codes.
    fn run(&self, role: u32, allowed: &[i32], arguments: &[&str]) -> String {
        let cache = format!("cache-{}", role % 2);
        let place = ["-c", "empty.toml", "-r", "repo", "--key-file", "app.key"];
        let place = [&place[..], &["--cache-dir", cache.as_str()]].concat();
        let output = self.world.run(&[arguments, &place[..]].concat());
        let code = output.status.code().expect("a code");
        assert!(allowed.contains(&code), "{arguments:?}: {code} {}", text(&output.stderr));
        self.runs.fetch_add(1, Ordering::Relaxed);
        text(&output.stdout)
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    fn write(&self, role: u32) {
        let (folder, host) = (format!("files{role}"), format!("host{role}"));
        for number in (role..).step_by(3).take_while(|_| !self.is_over()) {
            self.world.write(&format!("{folder}/{}", number % 11), &letter(number));
            self.run(role, &[0], &["backup", &folder, "-q", "--host", &host]);
        }
    }

    fn read(&self, role: u32, snapshot: &str) {
        let target = format!("out{role}");
        self.run(role, &[0], &["restore", snapshot, "-q", "--target", &target]);
        let storage = fs::read_dir(self.world.path(&target).join("storage")).expect("a folder");
        for source in storage {
            let source = source.expect("a source").path();
            for file in fs::read_dir(source).expect("a folder") {
                let content = fs::read_to_string(file.expect("a file").path()).expect("a text");
                assert!(is_letter(&content), "{snapshot}");
            }
        }
        fs::remove_dir_all(self.world.path(&target)).expect("removed");
    }
}

/// Three writers, two readers, one who forgets and two collectors.
#[test]
fn eight_processes_at_once_lose_nothing() {
    let seconds = std::env::var("COEVAL_SOAK").map_or(20, |n| n.parse().expect("seconds"));
    let world = World::new();
    world.write("empty.toml", "");
    for role in 0..3 {
        fs::create_dir(world.path(&format!("files{role}"))).expect("a folder");
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let soak = &Soak { world, end, runs: AtomicU32::new(0) };
    soak.run(0, &[0], &["backup", "files0", "-q"]);
    let again = |work: &dyn Fn()| {
        while !soak.is_over() {
            work();
        }
    };
    thread::scope(|scope| {
        for role in 0..3 {
            scope.spawn(move || soak.write(role));
        }
        for role in 3..5 {
            scope.spawn(move || again(&|| soak.read(role, "latest")));
        }
        scope.spawn(move || {
            again(&|| {
                soak.run(5, &[0], &["forget", "--keep-last", "8", "-q"]);
                thread::sleep(Duration::from_millis(500));
            });
        });
        for role in 6..8 {
            // Exit code 11: backups are at work, and it goes on later.
            let prune = ["prune", "--max-unused", "0", "--wait", "1s", "-q"];
            scope.spawn(move || again(&|| drop(soak.run(role, &[0, 11], &prune))));
        }
    });
    soak.run(0, &[0], &["prune", "--max-unused", "0", "-q"]);
    for host in 0..2 {
        soak.run(host, &[0], &["check", "--read-data"]);
        soak.run(host, &[0], &["audit", "verify"]);
    }
    for snapshot in soak.run(0, &[0], &["snapshots", "-q"]).lines() {
        soak.read(0, snapshot);
    }
    println!("{} processes ran", soak.runs.load(Ordering::Relaxed));
}
