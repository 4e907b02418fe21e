//! Looking inside snapshots: what is listed, found, counted, compared, exported and mounted is what
//! was backed up.
#![allow(missing_docs, clippy::missing_panics_doc, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;
#[path = "common/zoo.rs"]
mod zoo;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coeval::backend::Local;
use coeval::context::Context;
use coeval::crypto::{KeyFile, Unlock};
use coeval::repo::{Repo, Unlocking};
use coeval::snapshot::{self, Filter, Finder, Found, Scope, Snapshot, Timeline};
use coeval::tree::{self, Visit};
use world::{World, lines, text};
use zoo::{Descriptions, Part};

/// What a tar and a mount can show of the tree with everything.
const PARTS: [Part; 6] =
    [Part::Names, Part::Times, Part::Modes, Part::Attributes, Part::Links, Part::Special];

/// Bytes that do not compress, and differ for each seed.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn repo(world: &World) -> Arc<Repo> {
    let key = KeyFile::parse(&world.read("app.key")).expect("a key");
    let backend = Arc::new(Local::new(world.path("repo")));
    let unlock = Unlock::KeyFile(key);
    let repo = Repo::open(backend, &Unlocking::Given(&unlock), &world.path("other cache"));
    let repo = repo.expect("it opens");
    repo.refresh().expect("an index");
    Arc::new(repo)
}

fn snapshots(repo: &Arc<Repo>) -> Vec<Snapshot> {
    let timeline = Timeline::load(repo).expect("a timeline");
    let open = |(id, manifest): &(_, snapshot::Manifest)| Snapshot {
        repo: Arc::clone(repo),
        id: *id,
        manifest: manifest.clone(),
    };
    timeline.iter(&Filter::default()).map(open).collect()
}

#[test]
fn a_name_that_is_not_text_is_listed_and_leads_back() {
    let world = World::new();
    for (name, content) in [(&b"\xff\n"[..], "one"), (b"a\\xffb", "two"), (b"\xc3\xbc", "three")] {
        fs::write(world.path("docs").join(OsStr::from_bytes(name)), content).expect("a file");
    }
    symlink(OsStr::from_bytes(b"\xfe"), world.path("docs/link")).expect("a link");
    world.backup();
    let listed = world.ok(&["ls", "latest:/storage/documents"]);
    let names: Vec<&str> = listed.lines().filter_map(|line| line.rsplit('/').next()).collect();
    assert_eq!(names, ["a.txt", "a\\x5cxffb", "link", "sub", "ü", "\\xff\\x0a"]);
    for (path, content) in
        [("\\xff\\x0a", "one"), ("\\xFF\\x0A", "one"), ("a\\x5cxffb", "two"), ("ü", "three")]
    {
        let place = format!("latest:/storage/documents/{path}");
        assert_eq!(world.ok(&["cat", &place]), content, "{path}");
        assert_eq!(world.json(&["ls", &place])[0]["name"], path.to_ascii_lowercase());
    }
    let raw = OsStr::from_bytes(b"latest:/storage/documents/\xff\n");
    let output = world.coeval().arg("cat").arg(raw).output().expect("it runs");
    assert_eq!(text(&output.stdout), "one", "{}", text(&output.stderr));
    let link = &world.json(&["ls", "latest:/storage/documents/link"])[0];
    assert_eq!(link["linktarget"], "\\xfe");
}

#[test]
fn everything_of_a_file_is_listed() {
    let world = World::new();
    zoo::build(&world.path("docs"), &[Part::Attributes, Part::Links, Part::Special]);
    let file = world.path("docs/attributes/file");
    rustix::fs::ioctl_setflags(
        File::open(&file).expect("a file"),
        rustix::fs::IFlags::NODUMP | rustix::fs::IFlags::NOATIME,
    )
    .expect("flags");
    world.backup();
    let nodes: HashMap<String, serde_json::Value> = world
        .json(&["ls", "-R", "latest:/storage/documents"])
        .into_iter()
        .map(|node| (node["path"].as_str().expect("a path").to_owned(), node))
        .collect();
    let node = |path: &str| &nodes[&format!("/storage/documents/{path}")];
    assert_eq!(node("attributes/file")["flags"], "dA");
    let attributes = node("attributes/file")["extended_attributes"].as_array().expect("a list");
    assert!(attributes.contains(&"user.binary".into()), "{attributes:?}");
    assert!(node("attributes/acl")["permissions"].as_str().expect("text").ends_with('+'));
    assert_eq!(node("links/m")["hardlink"], "/storage/documents/links/a");
    assert_eq!(node("special/fifo")["type"], "fifo");
    if zoo::is_root() {
        assert_eq!(node("special/loop")["type"], "dev");
        assert_eq!(
            (&node("special/loop")["major"], &node("special/loop")["minor"]),
            (&7.into(), &200.into())
        );
        assert_eq!(node("attributes/file")["user"], "root");
        let long = world.ok(&["ls", "-l", "latest:/storage/documents/special/loop"]);
        assert!(long.starts_with("brw------- root     root           7, 200 "), "{long}");
    }
    let long = world.ok(&["ls", "-l", "latest:/storage/documents/links/m"]);
    assert!(long.ends_with("/links/m link to /storage/documents/links/a\n"), "{long}");
    zoo::free(&world.path("docs"));
}

#[test]
fn lists_are_sorted_as_asked() {
    let world = World::new();
    for (name, length, seconds) in [("b", 3, 30), ("c", 20, -5), ("d", 1, 2_000_000_000)] {
        let path = world.path("docs/sub").join(name);
        fs::write(&path, vec![b'x'; length]).expect("a file");
        zoo::touch(&path, seconds, 0);
    }
    fs::remove_file(world.path("docs/sub/b.txt")).expect("removed");
    world.backup();
    let names = |arguments: &[&str]| -> String {
        let listed = world.ok(&[&["ls", "latest:/storage/documents/sub"], arguments].concat());
        listed.lines().filter_map(|line| line.rsplit('/').next()).collect()
    };
    assert_eq!(names(&[]), "bcd");
    assert_eq!(names(&["--sort", "name", "--reverse"]), "dcb");
    assert_eq!(names(&["--sort", "size"]), "cbd");
    assert_eq!(names(&["--sort", "time"]), "dbc");
    assert_eq!(names(&["--sort", "time", "--reverse"]), "cbd");
    let human = world.ok(&["ls", "-l", "--human-readable", "latest:/storage/documents/sub/c"]);
    assert!(human.contains(" 20 B "), "{human}");
}

#[test]
fn a_part_of_a_file_is_read_alone() {
    let world = World::new();
    let bytes = noise(1, 5_000_000);
    fs::write(world.path("docs/large"), &bytes).expect("a file");
    world.backup();
    let cat = |path: &str, arguments: &[&str]| {
        let place = format!("latest:/storage/documents/{path}");
        let output = world.run(&[&["cat", &place], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        output.stdout
    };
    assert_eq!(cat("large", &[]), bytes);
    assert_eq!(cat("large", &["--range", "1000000-3999999"]), bytes[1_000_000..4_000_000]);
    assert_eq!(cat("large", &["--range", "4999990-"]), bytes[4_999_990..]);
    assert_eq!(cat("large", &["--range=-7"]), bytes[4_999_993..]);
    assert_eq!(cat("large", &["--offset", "17", "--length", "5"]), bytes[17..22]);
    assert_eq!(cat("large", &["--offset", "9000000"]), b"");
    assert_eq!(cat("a.txt", &["--range", "1-2"]), b"el");
    assert_eq!(cat("a.txt", &["--offset", "4"]), b"o\n");
    world.fails(2, &["cat", "latest:/database/main/users/1", "--length", "1"]);
    world.fails(2, &["cat", "latest:/storage/documents/a.txt", "--range", "2-1"]);
}

#[test]
fn a_diff_tells_sizes_and_what_else_changed() {
    let world = World::new();
    fs::write(world.path("docs/changed"), vec![0; 1024]).expect("a file");
    fs::write(world.path("docs/same"), "same").expect("a file");
    fs::write(world.path("docs/type"), "x").expect("a file");
    world.backup();
    fs::write(world.path("docs/changed"), vec![1; 3072]).expect("a file");
    fs::set_permissions(world.path("docs/same"), fs::Permissions::from_mode(0o600)).expect("set");
    fs::remove_file(world.path("docs/type")).expect("removed");
    fs::create_dir(world.path("docs/type")).expect("a folder");
    fs::write(world.path("docs/type/new"), vec![0; 100]).expect("a file");
    fs::remove_file(world.path("docs/a.txt")).expect("removed");
    world.sql("DELETE FROM users WHERE id = 3;");
    world.backup();
    let shown = world.ok(&["diff", "latest~1", "latest"]);
    let has = |shown: &str, line: &str| {
        assert!(shown.lines().any(|found| found.starts_with(line)), "{line} is not in\n{shown}");
    };
    for line in [
        "-  /database/main/users/3",
        "-  /storage/documents/a.txt  6 B",
        "M  /storage/documents/changed  1.00 KiB → 3.00 KiB",
        "T  /storage/documents/type  type: file → dir, mode: ",
        "+  /storage/documents/type/new  100 B",
        "/storage/documents: 1 added, 1 removed, 2 changed, 2 in metadata only",
        "added: 1 file, 2.10 KiB",
        "removed: 1 file, 1 record, 7 B",
    ] {
        has(&shown, line);
    }
    assert!(!shown.contains("documents/same"), "{shown}");
    let shown = world.ok(&["diff", "latest~1", "latest:/storage", "--metadata"]);
    has(&shown, "U  /storage/documents/same  mode: -rw-r--r-- → -rw-------");
    has(&shown, "U  /storage/documents  time: ");
    assert!(!shown.contains("/database"), "{shown}");
    let below = world.ok(&["diff", "latest~1", "latest:/storage/documents/type"]);
    assert_eq!(below.lines().filter(|line| line.contains("documents/type")).count(), 2, "{below}");
    let statistics = world.json(&["diff", "latest~1", "latest"]).pop().expect("a last line");
    assert_eq!(statistics["changed_files"], 2);
    assert_eq!(statistics["added"]["files"], 1);
    assert_eq!(statistics["removed"]["records"], 1);
}

#[test]
fn the_log_tells_when_something_changed() {
    let world = World::new();
    let first = world.backup();
    world.backup();
    world.write("docs/a.txt", "longer\n");
    world.sql("UPDATE users SET name = 'Ada' WHERE id = 1;");
    let third = world.backup();
    fs::remove_file(world.path("docs/a.txt")).expect("removed");
    world.write("docs/sub/new", "new");
    let fourth = world.backup();
    // A snapshot of something else tells nothing of this.
    world.ok(&["backup", "-q", "--configuration", ".env"]);

    let file = world.ok(&["log", "/storage/documents/a.txt"]);
    let file: Vec<&str> = file.lines().collect();
    assert_eq!(file.len(), 3, "{file:?}");
    for (line, (id, what)) in file.iter().zip([
        (&fourth, "  -  /storage/documents/a.txt  7 B"),
        (&third, "  M  /storage/documents/a.txt  6 B → 7 B, time: "),
        (&first, "  +  /storage/documents/a.txt  6 B"),
    ]) {
        assert!(line.starts_with(id.as_str()) && line.contains(what), "{line}");
    }
    let folder = world.ok(&["log", "/storage/documents"]);
    let newest = folder.lines().next().expect("a line");
    assert!(newest.ends_with("4 entries: 1 added, 1 removed, 2 in metadata only"), "{newest}");
    assert!(
        world
            .ok(&["log", "/storage/documents", "-v"])
            .contains("\n    +  /storage/documents/sub/new  3 B\n")
    );
    let record = world.ok(&["log", "/database/main/users/1", "-v"]);
    assert!(record.contains(r#"M  /database/main/users/1  name: "ada" → "Ada""#), "{record}");
    assert!(record.contains(r#"- {"id":1,"name":"ada"}"#), "{record}");
    assert!(record.contains(r#"+ {"id":1,"name":"Ada"}"#), "{record}");
    assert_eq!(world.ok(&["log", "/database/main/users", "-n", "1"]).lines().count(), 1);
    let json = world.json(&["log", "/storage/documents/a.txt"]);
    assert_eq!(json[1]["snapshot"].as_str().map(|id| id[..8].to_owned()), Some(third));
    assert_eq!((&json[1]["size"], &json[1]["old_size"]), (&7.into(), &6.into()));
    world.fails(2, &["log", "/storage/documents/none"]);
    world.fails(2, &["log", "a.txt"]);
}

#[test]
fn files_are_found_in_every_snapshot_that_has_them() {
    let world = World::new();
    let first = world.backup();
    fs::write(world.path("docs/sub/Report.PDF"), vec![0; 3000]).expect("a file");
    zoo::touch(&world.path("docs/sub/Report.PDF"), 1_000_000_000, 0);
    world.ok(&["backup", "-q", "--tag", "second"]);
    fs::remove_file(world.path("docs/sub/b.txt")).expect("removed");
    let third = world.backup();

    let shown = world.ok(&["find", "*.txt"]);
    let expected = ["Found", "/storage/documents/a.txt", "", "Found", "/storage/documents/a.txt"];
    for (line, expected) in shown.lines().zip(expected) {
        assert!(line.starts_with(expected), "{shown}");
    }
    assert!(shown.starts_with(&format!("Found matching entries in snapshot {third} from ")));
    assert_eq!(shown.matches("/storage/documents/sub/b.txt").count(), 2);
    let found = |arguments: &[&str]| {
        let found = world.ok(&[&["find", "-q"], arguments].concat());
        found.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let pdf = "/storage/documents/sub/Report.PDF".to_owned();
    assert_eq!(found(&["*.pdf"]), Vec::<String>::new());
    assert_eq!(found(&["*.pdf", "-i"]), [pdf.clone(), pdf.clone()]);
    assert_eq!(found(&["sub/R*", "--tag", "second"]), std::slice::from_ref(&pdf));
    assert_eq!(found(&["/storage/**/*.PDF", "-s", "latest"]), std::slice::from_ref(&pdf));
    assert_eq!(found(&["*", "--size", "+2k", "--snapshot", &third]), std::slice::from_ref(&pdf));
    assert_eq!(found(&["*", "--size", "=6", "-s", &first]).len(), 2);
    assert_eq!(found(&["*", "--type", "d", "-s", &first]), ["/storage/documents/sub"]);
    assert_eq!(found(&["*", "--older", "2001-12-31", "-s", "latest"]), std::slice::from_ref(&pdf));
    assert!(!found(&["*", "--newer", "2001-12-31", "-s", "latest"]).contains(&pdf));
    assert_eq!(found(&["*.txt", "--path", "/storage/documents/sub", "-s", &first]).len(), 1);
    assert_eq!(found(&["2", "--path", "/database", "-s", &first]), ["/database/main/users/2"]);
    assert_eq!(found(&["*", "--until", "2001"]), Vec::<String>::new());
    assert_eq!(found(&["a.txt", "--after", "2001"]).len(), 3);
    assert!(found(&["*.PDF", "-l", "-s", "latest"])[0].contains("3000 2001-09-09 "));
    let json = world.json(&["find", "*.PDF"]);
    assert_eq!(json.len(), 4);
    assert_eq!((&json[0]["size"], &json[1]["hits"]), (&3000.into(), &1.into()));
}

#[test]
fn a_search_finds_the_same_whatever_it_may_remember() {
    let world = World::new();
    for round in 0..6_u8 {
        for name in 0..40_u8 {
            let path = world.path("docs").join(format!("{}", name % 7)).join(format!("{name}"));
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            match (name ^ round.wrapping_mul(37)) % 5 {
                0 => drop(fs::remove_file(path)),
                1 => fs::write(path, noise(name ^ round, usize::from(name) * 10)).expect("a file"),
                _ => {}
            }
        }
        world.backup();
    }
    let repo = repo(&world);
    let wanted = |found: &Found<'_>| Ok(found.length.is_multiple_of(3));
    let search = |budget: usize| {
        let mut finder = Finder::new(&wanted, budget);
        let mut found = Vec::new();
        for snapshot in snapshots(&repo) {
            let scope = Scope::of(&snapshot, "/storage").expect("a source");
            finder
                .search(&snapshot, &scope, &Context::new(), &mut |hit| {
                    found.push((snapshot.id, hit.key.to_vec(), hit.head.to_vec(), hit.length));
                    Ok(())
                })
                .expect("it is readable");
        }
        found
    };
    let all = search(Finder::BUDGET);
    assert!(all.len() > 50, "{}", all.len());
    for budget in [0, 500, 2000, 5000] {
        assert!(search(budget) == all, "with a budget of {budget}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one history, counted twice")]
fn statistics_are_what_counting_every_chunk_of_every_snapshot_gives() {
    let world = World::new();
    for round in 0..4_u8 {
        fs::write(world.path(&format!("docs/{round}")), noise(round, 300_000)).expect("a file");
        fs::write(world.path("docs/changing"), noise(100 + round, 90_000)).expect("a file");
        if round == 2 {
            fs::remove_file(world.path("docs/0")).expect("removed");
            fs::hard_link(world.path("docs/1"), world.path("docs/sub/1")).expect("a link");
        }
        let host = if round == 1 { "elsewhere" } else { "here" };
        world.ok(&["backup", "-q", "--host", host]);
    }
    let repo = repo(&world);
    let mut sizes = HashMap::new();
    repo.stored_chunks(&mut |chunk| {
        sizes.entry(chunk.id).or_insert((u64::from(chunk.length), u64::from(chunk.stored)));
        Ok(())
    })
    .expect("an index");
    let needed: Vec<BTreeSet<_>> = snapshots(&repo)
        .iter()
        .map(|snapshot| {
            let mut ids = BTreeSet::new();
            for source in &snapshot.manifest.sources {
                let trees = snapshot.trees(source).expect("trees").into_iter();
                let trees = trees.chain(snapshot.aids(source).expect("aids"));
                let trees = trees.map(|record| record.tree);
                for tree in trees.chain([source.catalogue, source.help]) {
                    tree::walk(&*repo, tree, &mut |visit| {
                        match visit {
                            Visit::Node(id) | Visit::Chunk { id, .. } => drop(ids.insert(id)),
                            Visit::Broken { error, .. } => panic!("{error}"),
                        }
                        true
                    });
                }
            }
            ids
        })
        .collect();
    let mut times = BTreeMap::new();
    for id in needed.iter().flatten() {
        *times.entry(id).or_insert(0) += 1;
    }
    let sum = |ids: &mut dyn Iterator<Item = u64>| ids.sum::<u64>();
    let shown = world.json(&["stats"]);
    for (line, ids) in shown.iter().zip(&needed) {
        let (length, stored) = (|id| sizes[id].0, |id| sizes[id].1);
        assert_eq!(line["total_blob_count"], ids.len());
        assert_eq!(line["total_uncompressed_size"], sum(&mut ids.iter().map(length)));
        assert_eq!(line["stored_size"], sum(&mut ids.iter().map(stored)));
        let alone = &mut ids.iter().filter(|id| times[id] == 1).map(stored);
        assert_eq!(line["exclusive_size"], sum(alone));
    }
    let total = &shown[4];
    assert_eq!(
        (&total["snapshots_count"], &total["total_blob_count"]),
        (&4.into(), &times.len().into())
    );
    assert_eq!(total["stored_size"], sum(&mut times.keys().map(|id| sizes[*id].1)));
    let largest = |line: &serde_json::Value| line["exclusive_size"].as_u64().expect("a number");
    assert!(largest(&shown[3]) > 90_000 && largest(&shown[3]) < 500_000, "{shown:?}");
    // A hard link holds nothing of its own.
    let size = |at: usize| shown[at]["total_size"].as_u64().expect("a number");
    assert_eq!(size(2), size(1));
    let one = world.json(&["stats", "latest~3"]);
    assert_eq!(
        (&one[0]["stored_size"], &one[0]["exclusive_size"]),
        (&shown[0]["stored_size"], &shown[0]["exclusive_size"])
    );
    assert_eq!(one[1]["stored_size"], shown[0]["stored_size"]);
    let raw = world.json(&["stats", "--mode", "raw-data"]).pop().expect("a summary");
    assert_eq!(raw["total_size"], total["stored_size"]);
    let restore = world.ok(&["stats", "--mode", "restore-size", "latest"]);
    assert!(restore.starts_with("1 snapshot: "), "{restore}");
    assert!(world.ok(&["stats"]).contains("deduplicated: "));
}

/// The tree with everything that a tar or a mount can show, backed up; its description.
fn menagerie(world: &World) -> Descriptions {
    zoo::build(&world.path("docs"), &PARTS);
    fs::write(world.path("docs/large"), noise(9, 3_000_000)).expect("a file");
    world.backup();
    zoo::look(&world.path("docs"))
}

fn same(found: &Descriptions, expected: &Descriptions) {
    for path in found.keys().chain(expected.keys()) {
        let show = |seen: &Descriptions| seen.get(path).cloned();
        assert_eq!(show(found), show(expected), "{}", path.escape_ascii());
    }
}

#[test]
fn a_tar_of_a_path_extracts_to_the_same_tree() {
    let world = World::new();
    let mut expected = menagerie(&world);
    let sockets: Vec<Vec<u8>> = expected
        .iter()
        .filter(|(_, what)| what.starts_with("socket"))
        .map(|(path, _)| path.clone())
        .collect();
    for socket in &sockets {
        expected.remove(socket);
    }
    let export = ["export", "latest:/storage/documents", "--format", "tar", "-o"];
    let output = world.run(&[&export[..], &["all.tar"]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("skipped: special/socket: a tar has no sockets"));
    let extract = |folder: &str, program: &str, arguments: &[&str]| {
        fs::create_dir(world.path(folder)).expect("a folder");
        let mut command = world.command(program);
        let output = command.args(arguments).current_dir(world.path(folder)).output();
        let output = output.expect("scripts/install.sh test installs it");
        assert!(output.status.success(), "{program}: {}", text(&output.stderr));
        zoo::look(&world.path(folder))
    };
    let gnu = ["--xattrs", "--xattrs-include=*", "--acls", "-xpf", "../all.tar"];
    same(&extract("gnu", "tar", &gnu), &expected);
    // What was there before, bsdtar leaves as it is: of its own archives, too.
    let mut bsd = extract("bsd", "bsdtar", &["--acls", "--xattrs", "-xpf", "../all.tar"]);
    // It also reads fractions of seconds before 1970 without their sign.
    let early = |path: &[u8]| path.starts_with(b"times/") && path.contains(&b'-');
    for (path, what) in expected.iter().filter(|(path, _)| path.is_empty() || early(path)) {
        assert!(bsd.insert(path.clone(), what.clone()).is_some(), "{}", path.escape_ascii());
    }
    same(&bsd, &expected);
    // Python knows neither attributes nor nanoseconds.
    let script = "import tarfile; t = tarfile.open('../all.tar'); \
                  t.extractall(**({'filter': 'fully_trusted'} if hasattr(tarfile, 'fully_trusted_filter') else {}))";
    let python = extract("python", "python3", &["-c", script]);
    let names = |seen: &Descriptions| -> Vec<(Vec<u8>, String)> {
        let kind = |what: &String| what.split(' ').next().unwrap_or_default().to_owned();
        seen.iter().map(|(path, what)| (path.clone(), kind(what))).collect()
    };
    assert_eq!(names(&python), names(&expected));

    // A part of it, to the standard output; a link to what is outside becomes a file.
    let export = ["export", "latest:/storage/documents/links/z", "--format", "tar", "-o", "-"];
    let tar = world.run(&export);
    assert_eq!(tar.status.code(), Some(0), "{}", text(&tar.stderr));
    fs::write(world.path("part.tar"), tar.stdout).expect("a tar");
    let part = extract("part", "tar", &["-xpf", "../part.tar"]);
    same(&part, &zoo::look(&world.path("docs/links/z")));
    assert!(part[&b"n"[..]].ends_with(" is deep/m"), "{part:?}");
    world.fails(2, &["export", "latest:/storage", "-o", "x.tar.gz"]);
    world.fails(2, &["export", "latest:/storage/documents/none", "--format", "tar", "-o", "x.tar"]);
}

#[test]
fn a_tar_of_everything_has_the_tables_too() {
    let world = World::new();
    world.backup();
    world.ok(&["export", "latest", "--format", "tar", "-o", "all.tar"]);
    let listed = world.command("tar").args(["-tf", "all.tar"]).output().expect("tar");
    let names: BTreeSet<String> = text(&listed.stdout).lines().map(str::to_owned).collect();
    for name in ["database/main/users.jsonl", "storage/documents/sub/b.txt", "configuration/.env"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    let table = ["-xOf", "all.tar", "database/main/users.jsonl"];
    let table = world.command("tar").args(table).output().expect("tar");
    assert_eq!(lines(&text(&table.stdout)).len(), 3);
    world.ok(&["export", "latest:/storage/documents/a.txt", "--format", "tar", "-o", "one.tar"]);
    let one = world.command("tar").args(["-xOf", "one.tar", "a.txt"]).output().expect("tar");
    assert_eq!(text(&one.stdout), "hello\n");
}

/// A mount, until this is dropped.
struct Mount {
    process: Child,
    folder: PathBuf,
}

impl Mount {
    fn new(world: &World, arguments: &[&str]) -> Self {
        assert!(
            Path::new("/dev/fuse").exists(),
            "this test needs /dev/fuse: run it where there is one"
        );
        let folder = world.path("mounted");
        fs::create_dir(&folder).expect("a folder");
        let mut command = world.coeval();
        command.args(["mount", "mounted"]).args(arguments);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut said = [0; 10];
        let out = process.stdout.as_mut().expect("its output");
        out.read_exact(&mut said).expect("this test needs the right to mount: run it as root");
        assert_eq!(&said, b"mounted at");
        Self { process, folder }
    }

    /// Ends it as Ctrl-C does.
    fn stop(mut self) -> i32 {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.process.try_wait().expect("a process") {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("it does not end")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

#[test]
fn a_mount_shows_the_same_tree() {
    let world = World::new();
    let expected = menagerie(&world);
    let mount = Mount::new(&world, &[]);
    let files = mount.folder.join("latest/storage/documents");
    same(&zoo::look(&files), &expected);
    let id = world.ok(&["snapshots", "-q"]).trim().to_owned();
    for path in [format!("ids/{id}"), "times".to_owned(), "hosts".to_owned()] {
        assert!(mount.folder.join(path).is_dir());
    }
    let time = fs::read_dir(mount.folder.join("times")).expect("a folder").next();
    let time = time.expect("a snapshot").expect("an entry").path();
    assert!(time.join("configuration/.env").is_file(), "{}", time.display());

    let compared = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(world.path("docs/names"))
        .arg(files.join("names"))
        .output()
        .expect("diff");
    assert!(compared.status.success(), "{}", text(&compared.stdout));
    let (large, bytes) = (File::open(files.join("large")).expect("a file"), noise(9, 3_000_000));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (large, bytes) = (&large, &bytes);
            scope.spawn(move || {
                for step in 0..60 {
                    let offset = (step * 7_919_777 + thread * 1_234_567) % 2_999_000;
                    let mut part = [0; 1000];
                    large.read_exact_at(&mut part, offset).expect("readable");
                    let at = usize::try_from(offset).expect("small");
                    assert_eq!(part, bytes[at..at + 1000]);
                }
            });
        }
    });
    assert!(fs::write(files.join("a.txt"), "x").is_err(), "it is read-only");

    // A new snapshot appears, and the names of the old one keep their numbers.
    let inode = fs::metadata(files.join("a.txt")).expect("a file").ino();
    world.write("docs/a.txt", "newer");
    world.backup();
    let begin = Instant::now();
    while fs::read_to_string(mount.folder.join("latest/storage/documents/a.txt")).expect("a file")
        != "newer"
    {
        assert!(begin.elapsed() < Duration::from_secs(30), "it does not appear");
        std::thread::sleep(Duration::from_millis(300));
    }
    let old = mount.folder.join(format!("ids/{id}/storage/documents/a.txt"));
    assert_eq!(fs::metadata(&old).expect("a file").ino(), inode);
    assert_eq!(fs::read_to_string(&old).expect("a file"), "hello\n");
    drop(large);
    let folder = mount.folder.clone();
    assert_eq!(mount.stop(), 0);
    assert_eq!(fs::read_dir(folder).expect("a folder").count(), 0, "it is unmounted");
}

#[test]
fn large_and_deep_folders_are_listed_whole() {
    let world = World::new();
    for name in 0..5000 {
        fs::write(world.path(&format!("docs/sub/{name}")), "").expect("a file");
    }
    for name in 0..300 {
        fs::create_dir_all(world.path(&format!("docs/many/{name}/below"))).expect("folders");
        fs::write(world.path(&format!("docs/many/{name}/below/x")), "x").expect("a file");
    }
    // The folders of configuration files are no entries.
    fs::create_dir_all(world.path("conf/a/b")).expect("folders");
    for name in ["conf/top", "conf/a/b/deep", "conf/a/b/deeper", "conf/a/z"] {
        world.write(name, name);
    }
    let config = world.read("coeval.toml").replace("[\".env\"]", "[\"conf/**/*\", \".env\"]");
    world.write("coeval.toml", &config);
    zoo::build(&world.path("docs"), &[Part::Deep]);
    world.backup();
    let mount = Mount::new(&world, &[]);
    let files = mount.folder.join("latest/storage/documents");
    same(&zoo::look(&files), &zoo::look(&world.path("docs")));
    let listed = Command::new("find")
        .args([".", "-type", "f"])
        .current_dir(mount.folder.join("latest/configuration"))
        .output()
        .expect("find");
    let mut listed: Vec<String> = text(&listed.stdout).lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(
        listed,
        ["./.env", "./conf/a/b/deep", "./conf/a/b/deeper", "./conf/a/z", "./conf/top"]
    );
    assert_eq!(
        fs::read_to_string(mount.folder.join("latest/configuration/conf/a/b/deep"))
            .expect("a file"),
        "conf/a/b/deep"
    );
}
