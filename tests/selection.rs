//! What a backup takes and what it leaves out, from the command line to the restored files.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::Value;

use world::{World, failure, lines, text};

/// A world with a tree of files that has something of everything to leave out.
fn tree() -> World {
    let world = World::new();
    for folder in ["tree/cache", "tree/fake", "tree/build/sub", "tree/private", "tree/deep/er"] {
        std::fs::create_dir_all(world.path(folder)).expect("a folder");
    }
    for (name, content) in [
        ("tree/a.txt", "a"),
        ("tree/a.LOG", "log"),
        ("tree/keep.log", "kept"),
        ("tree/deep/b.log", "log"),
        ("tree/deep/er/c.txt", "c"),
        ("tree/build/sub/x", "x"),
        ("tree/deep/build", "a file"),
        ("tree/private/.nobackup", "because"),
        ("tree/private/secret", "secret"),
        ("tree/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# cache\n"),
        ("tree/cache/thumbnail", "t"),
        ("tree/fake/CACHEDIR.TAG", "not a cache"),
        ("tree/fake/f", "f"),
    ] {
        world.write(name, content);
    }
    world.write("tree/large", &"x".repeat(5000));
    world
}

/// What of the tree is in the newest snapshot.
fn taken(world: &World, place: &str) -> Vec<String> {
    let list = world.ok(&["ls", "-R", &format!("latest:{place}")]);
    let inside = |line: &str| line.strip_prefix(place)?.strip_prefix('/').map(str::to_owned);
    list.lines().filter_map(inside).collect()
}

fn summary(world: &World, arguments: &[&str]) -> Value {
    world.json(&[&["backup"], arguments].concat()).pop().expect("a summary")
}

fn with_input(world: &World, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = world.coeval();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    child.stdin.take().expect("a pipe").write_all(input).expect("written");
    child.wait_with_output().expect("it ended")
}

#[test]
fn patterns_are_those_of_gitignore() {
    let world = tree();
    world.write("patterns", "# logs\n*.log\n!/keep.log\n\nbuild/\n");
    let made = summary(&world, &["tree", "--exclude-file", "patterns", "--iexclude", "*.log"]);
    let all = taken(&world, "/storage/tree");
    assert!(!all.contains(&"deep/b.log".to_owned()) && !all.contains(&"a.LOG".to_owned()));
    // What is excluded without regard to case stands last, and so takes the kept one, too.
    assert!(!all.contains(&"keep.log".to_owned()));
    assert!(!all.contains(&"build".to_owned()) && all.contains(&"deep/build".to_owned()));
    let excluded = &made["excluded"];
    assert_eq!(excluded["entries"], 4, "{excluded}");
    assert_eq!(excluded["folders_not_entered"], 1, "{excluded}");
    assert_eq!(excluded["bytes_at_least"], 3 + 4 + 3, "{excluded}");
    assert_eq!(excluded["reasons"][0]["reason"], "pattern");
    world.ok(&["backup", "tree", "--exclude", "*.log", "--exclude", "!keep.log"]);
    assert!(taken(&world, "/storage/tree").contains(&"keep.log".to_owned()));
    let complaint = world.fails(2, &["backup", "tree", "--exclude", "[a"]);
    assert!(complaint.contains("`[a` is not a pattern"), "{complaint}");
    let complaint = world.fails(2, &["backup", "tree", "--exclude-file", "none"]);
    assert!(complaint.contains("cannot read the exclude file none"), "{complaint}");
}

#[test]
fn tagged_folders_are_kept_empty_but_for_their_tag() {
    let world = tree();
    let made = world.ok(&[
        "backup",
        "tree",
        "--exclude-caches",
        "--exclude-if-present",
        ".nobackup",
        "--exclude-larger-than",
        "4k",
    ]);
    let all = taken(&world, "/storage/tree");
    let below = |folder: &str| all.iter().filter(|path| path.starts_with(folder)).count();
    assert_eq!((below("cache"), below("private"), below("fake")), (2, 2, 3), "{all:?}");
    assert!(
        all.contains(&"cache/CACHEDIR.TAG".into()) && all.contains(&"private/.nobackup".into())
    );
    assert!(!all.contains(&"large".to_owned()));
    assert!(
        made.contains(
            "excluded 1 entry, at least 4.88 KiB, and what is in 2 folders \
             (1 in caches, 1 too large, 1 in tagged folders)"
        ),
        "{made}"
    );
    world.ok(&["backup", "tree", "--exclude-if-present", ".nobackup:other"]);
    assert!(taken(&world, "/storage/tree").contains(&"private/secret".into()));
    world.ok(&["backup", "tree", "--exclude-if-present", ".nobackup:beca"]);
    assert!(!taken(&world, "/storage/tree").contains(&"private/secret".into()));
    let complaint = world.fails(2, &["backup", "tree", "--exclude-larger-than", "big"]);
    assert!(complaint.contains("`big` is no size"), "{complaint}");
}

#[test]
fn what_was_left_out_is_neither_changed_nor_deleted_by_a_restore() {
    let world = tree();
    world.ok(&["backup", "tree", "--exclude", "*.log", "--exclude-larger-than", "4k"]);
    world.write("tree/deep/b.log", "newer");
    world.write("tree/a.txt", "changed");
    world.write("tree/large", &"y".repeat(6000));
    world.ok(&["restore", "latest", "--in-place"]);
    assert_eq!(world.read("tree/a.txt"), "a");
    assert_eq!(world.read("tree/deep/b.log"), "newer");
    assert_eq!(world.read("tree/large").len(), 6000);
}

#[test]
fn what_was_left_out_stays_when_its_tag_is_gone_or_it_has_shrunk() {
    let world = tree();
    let limits = ["--exclude-caches", "--exclude-if-present", ".nobackup"];
    world.ok(&[&["backup", "tree", "--exclude-larger-than", "4k"][..], &limits].concat());
    for tag in ["tree/cache/CACHEDIR.TAG", "tree/private/.nobackup"] {
        std::fs::remove_file(world.path(tag)).expect("removed");
    }
    world.write("tree/large", "small");
    world.write("tree/private/secret", "another");
    world.write("tree/private/new", "new");
    world.write("tree/extra", "extra");
    let stays = || {
        assert_eq!(world.read("tree/large"), "small");
        assert_eq!(world.read("tree/private/secret"), "another");
        assert_eq!(world.read("tree/private/new"), "new");
        assert_eq!(world.read("tree/cache/thumbnail"), "t");
    };
    world.ok(&["restore", "latest", "--in-place"]);
    stays();
    assert!(world.path("tree/private/.nobackup").exists() && !world.path("tree/extra").exists());
    // The snapshot before the restore has left out the same.
    world.ok(&["undo"]);
    stays();
    assert!(!world.path("tree/private/.nobackup").exists() && world.path("tree/extra").exists());

    std::fs::create_dir_all(world.path("out/storage")).expect("a folder");
    std::fs::rename(world.path("tree"), world.path("out/storage/tree")).expect("renamed");
    world.ok(&["restore", "latest", "--target", "out", "--delete"]);
    std::fs::rename(world.path("out/storage/tree"), world.path("tree")).expect("renamed");
    stays();
    assert!(!world.path("tree/extra").exists());
}

#[test]
fn what_was_saved_comes_back_though_it_would_be_left_out_today() {
    let world = tree();
    world.ok(&["backup", "tree", "--exclude-larger-than", "4k", "--exclude-if-present", "tag"]);
    world.write("tree/a.txt", &"x".repeat(6000));
    world.write("tree/deep/tag", "");
    world.write("tree/deep/er/c.txt", "changed");
    world.write("tree/deep/er/new", "new");
    world.write("tree/tag", "");
    world.ok(&["restore", "latest", "--in-place"]);
    assert_eq!(world.read("tree/a.txt"), "a");
    assert_eq!(world.read("tree/deep/er/c.txt"), "c");
    assert!(!world.path("tree/deep/tag").exists() && !world.path("tree/deep/er/new").exists());
    assert_eq!(world.read("tree/large").len(), 5000);
    // All that was replaced was saved.
    world.ok(&["undo"]);
    assert_eq!(world.read("tree/a.txt").len(), 6000);
    assert_eq!(world.read("tree/deep/er/c.txt"), "changed");
    assert!(world.path("tree/deep/tag").exists() && world.path("tree/deep/er/new").exists());
    assert_eq!(world.read("tree/large").len(), 5000);
}

/// A mount below a folder, until this is dropped.
struct Mounted<'a>(&'a World, &'a str);

impl<'a> Mounted<'a> {
    fn new(world: &'a World, arguments: &[&str], place: &'a str) -> Self {
        let output = world.command("mount").args(arguments).arg(world.path(place)).output();
        let is_mounted = output.is_ok_and(|output| output.status.success());
        assert!(is_mounted, "this test needs the right to mount: run it as root");
        Self(world, place)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = self.0.command("umount").arg(self.0.path(self.1)).status();
    }
}

#[test]
fn other_file_systems_are_left_out_but_not_other_folders_of_the_same() {
    let world = tree();
    for name in ["tree/disk", "tree/bound", "disk", "disk/below"] {
        std::fs::create_dir(world.path(name)).expect("a folder");
    }
    let _disk = Mounted::new(&world, &["-t", "tmpfs", "tmpfs"], "tree/disk");
    let bound = world.path("docs");
    let _bound = Mounted::new(&world, &["--bind", bound.to_str().expect("UTF-8")], "tree/bound");
    world.write("tree/disk/far", "far");
    let made = summary(&world, &["tree", "--one-file-system"]);
    let all = taken(&world, "/storage/tree");
    assert!(all.contains(&"disk".to_owned()) && !all.contains(&"disk/far".to_owned()));
    assert!(all.contains(&"bound/a.txt".to_owned()), "a bind mount is of the same file system");
    assert_eq!(made["excluded"]["reasons"][0]["reason"], "other-file-system");
    world.ok(&["backup", "tree"]);
    assert!(taken(&world, "/storage/tree").contains(&"disk/far".to_owned()));
}

#[test]
fn lists_name_files_and_folders() {
    let world = tree();
    world.write("list", "# what counts\n  tree/deep  \ntree/*.txt\n\ntree/deep/er/c.txt\n");
    let made = summary(&world, &["--files-from", "list"]);
    let wanted = ["a.txt", "deep", "deep/b.log", "deep/build", "deep/er", "deep/er/c.txt"];
    assert_eq!(taken(&world, "/storage/tree"), wanted);
    assert_eq!((&made["files_new"], &made["dirs_new"]), (&4.into(), &2.into()));

    // Names as they are: with spaces and signs, ended by newlines or NULs.
    world.write("tree/ odd*\nname", "odd");
    let raw = b"tree/ odd*\nname\0tree/a.txt\0";
    let output = with_input(&world, &["backup", "--files-from-raw", "-", "--json"], raw);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(world.ok(&["cat", "latest:/storage/tree/ odd*\nname"]), "odd");
    world.write("verbatim", "tree/a.txt\n# tree/x\n");
    let output = world.run(&["backup", "--files-from-verbatim", "verbatim"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("# tree/x: there is no such file"));
}

#[test]
fn what_a_list_misses_is_told_and_makes_the_snapshot_incomplete() {
    let world = tree();
    world.write("list", "tree/a.txt\ntree/gone\ntree/none/*.txt\ntree/deep/gone/x\nzzz\n");
    let output = world.run(&["backup", "--files-from", "list", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let made = lines(&text(&output.stdout)).pop().expect("a summary");
    let missed: Vec<_> = made["skipped"].as_array().expect("a list").iter().collect();
    let missed: Vec<_> = missed.iter().map(|item| item["item"].as_str().expect("text")).collect();
    assert_eq!(missed, ["tree/deep/gone/x", "tree/gone", "tree/none/*.txt", "zzz"]);
    assert_eq!(made["files_new"], 1);
    world.write("list", "# nothing\n\n");
    let complaint = world.fails(2, &["backup", "--files-from", "list"]);
    assert!(complaint.contains("the lists of files are empty"), "{complaint}");
    // What is excluded is not missed.
    world.write("list", "tree/deep/er/c.txt\ntree/a.txt\ntree/a.LOG\n");
    world.ok(&["backup", "--files-from", "list", "--exclude", "deep", "--exclude", "*.LOG"]);
}

#[test]
fn links_and_detours_on_the_way_to_what_is_listed_are_resolved() {
    let world = tree();
    let link = |to: &str, at: &str| {
        std::os::unix::fs::symlink(world.path(to), world.path(at)).expect("a link");
    };
    link("tree/deep", "short");
    link("tree", "tree/deep/up");
    link("nowhere", "dangling");
    world.write(
        "list",
        "short/er/c.txt\nshort/er/../b.log\nshort/up/a.txt\ntree//deep/./er\ntree/deep/up\n\
         dangling/x\ntree/deep/er/..\n",
    );
    let output = world.run(&["backup", "--files-from-verbatim", "list"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("dangling/x: there is no such file"));
    let mut wanted = vec!["tree/a.txt", "tree/deep", "tree/deep/b.log", "tree/deep/build"];
    wanted.extend(["tree/deep/er", "tree/deep/er/c.txt", "tree/deep/up"]);
    let base = world.path("");
    let name = base.file_name().and_then(|name| name.to_str()).expect("a name");
    assert_eq!(taken(&world, &format!("/storage/{name}")), wanted);
}

#[test]
fn of_a_million_missing_files_a_thousand_are_named_and_the_rest_is_counted() {
    let world = tree();
    let list: Vec<String> = (0..1003).map(|number| format!("tree/gone/{number:04}")).collect();
    world.write("list", &format!("tree/a.txt\n{}\n", list.join("\n")));
    let output = world.run(&["backup", "--files-from", "list"]);
    assert_eq!(output.status.code(), Some(3));
    let told = text(&output.stdout);
    assert!(told.contains("INCOMPLETE: 1,003 items could not be read"), "{told}");
    assert!(told.contains("gone/0999: ") && !told.contains("gone/1000: "), "{told}");
    assert!(told.contains("and 3 more"), "{told}");
    assert!(world.ok(&["snapshots"]).contains("INCOMPLETE: 1003 not read"));
    let made = lines(&world.ok(&["snapshots", "--json"])).pop().expect("a line");
    let made = made.as_array().map_or(&made, |all| &all[0]);
    assert_eq!(made["skipped"].as_array().map(Vec::len), Some(1000));
    assert_eq!(made["skipped_unlisted"], 3);
}

#[test]
fn a_restored_list_leaves_everything_else_alone() {
    let world = tree();
    world.write("list", "tree/a.txt\ntree/deep\ntree/cache/thumbnail\n");
    world.ok(&["backup", "--files-from", "list"]);
    world.write("tree/a.txt", "changed");
    world.write("tree/keep.log", "changed");
    world.write("tree/deep/new", "new");
    std::fs::remove_file(world.path("tree/cache/thumbnail")).expect("removed");
    world.ok(&["restore", "latest", "--in-place"]);
    assert_eq!(world.read("tree/a.txt"), "a");
    assert_eq!(world.read("tree/cache/thumbnail"), "t");
    assert_eq!(world.read("tree/keep.log"), "changed");
    assert_eq!(world.read("tree/large").len(), 5000);
    assert!(!world.path("tree/deep/new").exists(), "it is in a folder that was listed");
    world.ok(&["undo"]);
    assert_eq!(world.read("tree/a.txt"), "changed");
    assert_eq!(world.read("tree/deep/new"), "new");
    assert!(!world.path("tree/cache/thumbnail").exists());
    world.ok(&["restore", "latest", "--target", "out", "--delete"]);
    assert_eq!(world.read("out/storage/tree/deep/er/c.txt"), "c");
}

#[test]
fn a_name_that_is_listed_often_is_captured_once() {
    let world = World::new();
    std::fs::create_dir(world.path("many")).expect("a folder");
    for name in 0..300 {
        world.write(&format!("many/{name}"), "x");
    }
    let list: Vec<String> = (0..30_000).map(|i| format!("many/{}", i * 7 % 300)).collect();
    world.write("list", &list.join("\n"));
    let made = summary(&world, &["--files-from-verbatim", "list"]);
    assert_eq!(made["files_new"], 300);
    assert_eq!(summary(&world, &["--files-from-verbatim", "list"])["files_unmodified"], 300);
}

#[test]
fn the_standard_input_is_a_file() {
    let world = World::new();
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 5 << 20];
    noise.fill(&mut bytes);
    let arguments = ["backup", "--stdin", "--stdin-filename", "dumps/all.sql", "-q"];
    let output = with_input(&world, &arguments, &bytes);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(taken(&world, "/storage/stdin"), ["dumps/all.sql"]);
    let cat = world.run(&["cat", "latest:/storage/stdin/dumps/all.sql"]);
    assert!(cat.stdout == bytes, "the same bytes");
    world.ok(&["restore", "latest", "--target", "out"]);
    let restored = std::fs::read(world.path("out/storage/stdin/dumps/all.sql")).expect("a file");
    assert!(restored == bytes, "the same bytes");
    let complaint = world.fails(2, &["restore", "latest", "--in-place"]);
    assert!(complaint.contains("it came through a pipe"), "{complaint}");
    assert!(complaint.contains("--target DIR"), "{complaint}");
    // The same bytes again cost next to nothing; and directories may come along.
    let output = with_input(&world, &["backup", "docs", "--stdin", "--json"], &bytes);
    let made = lines(&text(&output.stdout)).pop().expect("a summary");
    assert!(made["data_added"].as_u64().expect("a number") < 100_000, "{made}");
    assert_eq!(made["files_new"], 3);
    assert_eq!(taken(&world, "/storage/stdin"), ["stdin"]);
    let complaint = world.fails(2, &["backup", "--stdin-filename", "x"]);
    assert!(complaint.contains("nothing comes through a pipe"), "{complaint}");
}

#[test]
fn what_a_command_prints_is_a_file_if_it_succeeds() {
    let world = World::new();
    let run = |script: &str| {
        let arguments = ["backup", "--stdin-filename", "dump", "--stdin-from-command", "--"];
        world.run(&[&arguments[..], &["sh", "-c", script]].concat())
    };
    let output = run("echo rows; echo careful >&2");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("careful"), "{}", text(&output.stderr));
    assert_eq!(world.ok(&["cat", "latest:/storage/stdin/dump"]), "rows\n");

    for (script, why) in [
        ("head -c 3000000 /dev/zero; echo lost connection >&2; exit 3", "exit status: 3"),
        ("echo rows; echo lost connection >&2; kill -9 $$", "signal: 9"),
    ] {
        let complaint = failure(1, &run(script));
        assert!(complaint.contains(why) && complaint.contains("lost connection"), "{complaint}");
    }
    assert_eq!(world.json(&["snapshots"]).len(), 1);

    let output = run("true");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("printed nothing"), "{}", text(&output.stderr));
    assert_eq!(world.ok(&["cat", "latest:/storage/stdin/dump"]), "");

    let complaint = world.fails(1, &["backup", "--stdin-from-command", "--", "no-such-program"]);
    assert!(complaint.contains("cannot run `no-such-program`"), "{complaint}");
    let complaint = world.fails(2, &["backup", "--stdin-from-command"]);
    assert!(complaint.contains("-- pg_dump"), "{complaint}");
    world.ok(&["check", "--read-data"]);
}

#[test]
fn the_configuration_file_knows_the_same_options() {
    let world = tree();
    world.write("patterns", "*.log\n");
    world.write("list", &format!("{}\n", world.path("tree/a.txt").display()));
    let config =
        world.read("coeval.toml").replace("[storage.documents]\n            path = \"docs\"", "");
    let storages = r#"
        [storage.tree]
        path = "tree"
        exclude-file = ["patterns"]
        exclude = ["!keep.log"]
        iexclude = ["A.log"]
        exclude-if-present = [".nobackup"]
        exclude-caches = true
        exclude-larger-than = "4k"
        one-file-system = true
        [storage.listed]
        files-from = ["list"]
        [storage.dump]
        stdin-from-command = ["echo", "rows"]
        stdin-filename = "rows.txt"
    "#;
    world.write("coeval.toml", &format!("{config}{storages}"));
    world.ok(&["backup"]);
    let all = taken(&world, "/storage/tree");
    assert!(all.contains(&"keep.log".to_owned()) && !all.contains(&"deep/b.log".to_owned()));
    for gone in ["a.LOG", "large", "private/secret", "cache/thumbnail"] {
        assert!(!all.contains(&gone.to_owned()), "{gone}");
    }
    assert_eq!(taken(&world, "/storage/listed"), ["a.txt"]);
    assert_eq!(world.ok(&["cat", "latest:/storage/dump/rows.txt"]), "rows\n");
    world.ok(&["backup", "--exclude", "a.txt"]);
    assert!(!taken(&world, "/storage/tree").contains(&"a.txt".to_owned()));
    for (nonsense, why) in [
        ("exclude-larger-then = \"4k\"", "did you mean `exclude-larger-than`?"),
        ("exclude-larger-than = \"big\"", "`big` is no size"),
        ("files-from = [\"list\"]", "says not, or more than once, what it is"),
    ] {
        let storage = format!("[storage.tree]\npath = \"tree\"\n{nonsense}\n");
        world.write("coeval.toml", &format!("{config}{storage}"));
        let complaint = world.fails(2, &["backup"]);
        assert!(complaint.contains(why), "{complaint}");
    }
}

#[test]
fn the_summary_counts_what_changed_and_verbose_names_it() {
    let world = tree();
    let numbers = |made: &Value| {
        [
            "files_new",
            "files_changed",
            "files_unmodified",
            "files_removed",
            "dirs_new",
            "dirs_changed",
            "dirs_unmodified",
            "dirs_removed",
        ]
        .map(|name| made[name].as_u64().expect("a number"))
    };
    let first = summary(&world, &["tree"]);
    assert_eq!(numbers(&first), [14, 0, 0, 0, 8, 0, 0, 0], "{first}");
    assert_eq!(first["total_files_processed"], 14);
    assert_eq!(numbers(&summary(&world, &["tree"])), [0, 0, 14, 0, 0, 0, 8, 0]);
    // Read again, and found to be the same.
    let touched = std::fs::File::open(world.path("tree/a.txt")).expect("a file");
    let time = touched.metadata().expect("metadata").modified().expect("a time");
    world.write("tree/a.txt", "a");
    touched.set_modified(time).expect("set");
    assert_eq!(numbers(&summary(&world, &["tree"])), [0, 0, 14, 0, 0, 0, 8, 0]);

    world.write("tree/a.txt", "changed");
    world.write("tree/deep/er/new", "new");
    std::fs::remove_dir_all(world.path("tree/build")).expect("removed");
    let dry = ["backup", "tree", "--dry-run", "-v", "--exclude", "*.LOG", "--exclude-caches"];
    let shown = world.ok(&dry);
    for line in [
        "M  /storage/tree",
        "M  /storage/tree/a.txt  7 B",
        "-  /storage/tree/a.LOG",
        "x  /storage/tree/a.LOG  3 B  (by pattern)",
        "-  /storage/tree/build/sub/x",
        "x  /storage/tree/cache  (in caches)",
        "M  /storage/tree/deep/er",
        "+  /storage/tree/deep/er/new  3 B",
        "files:   1 new, 1 changed, 10 unmodified, 3 removed",
        "folders: 0 new, 2 changed, 4 unmodified, 2 removed",
        "dry run: nothing was stored",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line} is not in\n{shown}");
    }
    let real = lines(&world.ok(&["backup", "tree", "-v", "--json"]));
    let status = real.iter().filter(|line| line["message_type"] == "verbose_status");
    let actions: Vec<_> = status
        .map(|line| format!("{} {}", line["action"].as_str().unwrap_or(""), line["item"]))
        .collect();
    assert!(actions.contains(&"modified \"/storage/tree/a.txt\"".to_owned()), "{actions:?}");
    assert!(actions.contains(&"removed \"/storage/tree/build\"".to_owned()), "{actions:?}");
    assert_eq!(actions.len(), 7, "{actions:?}");
}
