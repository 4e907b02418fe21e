mod restore;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::report::Event;
use crate::source::testing::{self, Captured, Difference, apply, later, recorded};
use crate::source::{Applied, Target};

/// Captures, and says how many entries were put.
fn capture_since(
    source: &mut dyn Source,
    parent: Option<&Captured>,
    ctx: &Context,
) -> (Captured, usize) {
    let (captured, puts) = testing::capture_since(source, parent, ctx).unwrap();
    assert!(captured.trees[STAT].keys().eq(captured.trees[TREE].keys()));
    (captured, puts)
}

fn capture(root: &Path) -> Captured {
    capture_since(&mut storage(root), None, &later()).0
}

fn storage(root: &Path) -> Files {
    Files::new(Kind::Storage, "files", root, FilesOptions::default()).unwrap()
}

fn restore(root: &Path, wanted: &Captured) -> Result<Applied, Failure> {
    let mut target = Directory::new(storage(root));
    let applied = apply(&mut target, wanted, &later())?;
    target.commit()?;
    Ok(applied)
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn set_mtime(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    File::open(path).unwrap().set_modified(time).unwrap();
}

#[derive(Debug, Clone)]
enum Edit {
    File(Vec<u8>),
    Directory,
    Link,
    Remove,
    Mode(u32),
}

fn edits(count: usize) -> impl Strategy<Value = Vec<(Vec<&'static [u8]>, Edit)>> {
    let name = prop::sample::select(vec![&b"a"[..], b"b", b"a-b", b"\xff\xfe", b".e nv\n"]);
    let edit = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..50).prop_map(Edit::File),
        2 => Just(Edit::Directory),
        1 => Just(Edit::Link),
        2 => Just(Edit::Remove),
        // The owner's own bits stay, so that the test need not run as root.
        2 => (0u32..=0o7777).prop_map(|mode| Edit::Mode(mode | 0o700)),
    ];
    prop::collection::vec((prop::collection::vec(name, 1..4), edit), 0..count)
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Makes edits, each leaving a time of its own, since the kernel's clock may not move between two.
fn make(root: &Path, edits: &[(Vec<&[u8]>, Edit)], serial: &mut u64) {
    for (names, edit) in edits {
        *serial += 1;
        let mut path = root.to_owned();
        for (i, name) in names.iter().enumerate() {
            path.push(OsStr::from_bytes(name));
            if i + 1 < names.len() && !fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                remove(&path);
                fs::create_dir(&path).unwrap();
            }
        }
        if !matches!(edit, Edit::Mode(_)) {
            remove(&path);
        }
        match edit {
            Edit::File(bytes) => put(&path, bytes),
            Edit::Directory => fs::create_dir(&path).unwrap(),
            Edit::Link => symlink(format!("../nowhere {serial}"), &path).unwrap(),
            Edit::Remove => continue,
            Edit::Mode(mode) => match fs::symlink_metadata(&path) {
                Ok(meta) if !meta.is_symlink() => {
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                }
                _ => continue,
            },
        }
        if !fs::symlink_metadata(&path).unwrap().is_symlink() {
            set_mtime(&path, *serial);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_restored_is_what_was_captured(first in edits(25), second in edits(12)) {
        let folder = TempDir::new().unwrap();
        let live = folder.path().join("live");
        fs::create_dir(&live).unwrap();
        let mut serial = 1_000;
        make(&live, &first, &mut serial);
        let before = capture(&live);

        // Into nothing.
        let copy = folder.path().join("new/copy");
        restore(&copy, &before).unwrap();
        prop_assert_eq!(&capture(&copy).trees[TREE], &before.trees[TREE]);

        // An incremental capture sees what a full one sees.
        make(&live, &second, &mut serial);
        let (after, _) = capture_since(&mut storage(&live), Some(&before), &later());
        prop_assert_eq!(&after.trees[TREE], &capture(&live).trees[TREE]);

        // An older state over a newer one, and back.
        restore(&live, &before).unwrap();
        prop_assert_eq!(&capture(&live).trees[TREE], &before.trees[TREE]);
        restore(&live, &after).unwrap();
        prop_assert_eq!(&capture(&live).trees[TREE], &after.trees[TREE]);
        let again = restore(&live, &after).unwrap();
        prop_assert_eq!(again, Applied::default());
    }
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let folder = TempDir::new().unwrap();
    put(&folder.path().join("a/b"), b"one");
    put(&folder.path().join("a/c"), b"two");
    let (before, puts) = capture_since(&mut storage(folder.path()), None, &later());
    assert_eq!(puts, 4);
    let (_, puts) = capture_since(&mut storage(folder.path()), Some(&before), &later());
    assert_eq!(puts, 0);
    put(&folder.path().join("a/b"), b"three");
    let (after, puts) = capture_since(&mut storage(folder.path()), Some(&before), &later());
    assert_eq!(puts, 1);
    assert_eq!(after.trees[TREE][&b"a\0b"[..]].1, b"three");
}

#[test]
fn a_change_that_leaves_size_and_times_is_seen_when_the_file_was_young() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("f");
    put(&path, b"one");
    set_mtime(&path, 77);
    let (before, _) = capture_since(&mut storage(folder.path()), None, &Context::new());
    put(&path, b"two");
    set_mtime(&path, 77);
    let (after, _) = capture_since(&mut storage(folder.path()), Some(&before), &Context::new());
    assert_eq!(after.trees[TREE][&b"f"[..]].1, b"two");
}

#[test]
fn what_is_no_file_is_an_entry_of_its_own_kind() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("fifo"), 0o640.into()).unwrap();
    let (ctx, recorder) = recorded();
    let (captured, _) = capture_since(&mut storage(folder.path()), None, &ctx);
    let kinds = captured.trees[TREE].values().map(|(head, _)| Entry::decode(head).unwrap().kind);
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, [EntryKind::Directory, EntryKind::Fifo, EntryKind::Socket]);
    assert_eq!(recorder.skipped(), [""; 0]);
}

/// What the entries of a capture say of links: each key, and the key it names.
fn links(captured: &Captured) -> Vec<(String, Option<String>)> {
    let link = |head: &[u8]| Entry::decode(head).unwrap().link.map(|key| display_key(&key));
    let entries = captured.trees[TREE].iter().skip(1);
    entries.map(|(key, (head, _))| (display_key(key), link(head))).collect()
}

#[test]
fn a_link_names_the_first_of_its_names_wherever_that_has_moved() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&at("d/one"), b"same");
    fs::hard_link(at("d/one"), at("two")).unwrap();
    symlink("nowhere", at("d/sym")).unwrap();
    fs::hard_link(at("d/sym"), at("sym")).unwrap();
    let pairs = |pairs: &[(&str, Option<&str>)]| {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), b.map(str::to_owned))).collect::<Vec<_>>()
    };
    let (before, _) = capture_since(&mut storage(folder.path()), None, &later());
    let expected = [
        ("d", None),
        ("d/one", None),
        ("d/sym", None),
        ("sym", Some("d/sym")),
        ("two", Some("d/one")),
    ];
    assert_eq!(links(&before), pairs(&expected));
    assert_eq!(before.trees[TREE][&b"two"[..]].1, b"same");
    let (_, puts) = capture_since(&mut storage(folder.path()), Some(&before), &later());
    assert_eq!(puts, 0);

    // Neither file is touched by this, and still all entries that named it change.
    rustix::fs::rename(at("d"), at("z")).unwrap();
    let (moved, _) = capture_since(&mut storage(folder.path()), Some(&before), &later());
    let expected =
        [("sym", None), ("two", None), ("z", None), ("z/one", Some("two")), ("z/sym", Some("sym"))];
    assert_eq!(links(&moved), pairs(&expected));
    assert_eq!(moved.trees[TREE], capture(folder.path()).trees[TREE]);

    let options = FilesOptions { exclude: vec!["/two".to_owned()], ..FilesOptions::default() };
    let mut source = Files::new(Kind::Storage, "files", folder.path(), options).unwrap();
    let (left, _) = capture_since(&mut source, Some(&moved), &later());
    let expected = [("sym", None), ("z", None), ("z/one", None), ("z/sym", Some("sym"))];
    assert_eq!(links(&left), pairs(&expected));
}

#[test]
fn attributes_and_flags_are_captured_and_their_change_is_seen() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("f");
    put(&path, b"x");
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set(&path, "user.b", b"\0binary");
    set(&path, "user.a", b"");
    set(folder.path(), "user.root", b"of the root");
    let flags = rustix::fs::IFlags::from_bits_retain(0x40);
    rustix::fs::ioctl_setflags(File::open(&path).unwrap(), flags).unwrap();
    let entry =
        |captured: &Captured, key: &[u8]| Entry::decode(&captured.trees[TREE][key].0).unwrap();
    let (before, _) = capture_since(&mut storage(folder.path()), None, &later());
    let found = entry(&before, b"f");
    let names: Vec<_> = found.attributes.iter().map(|a| (&*a.name, &*a.value)).collect();
    assert_eq!(names, [(&b"user.a"[..], &b""[..]), (b"user.b", b"\0binary")]);
    assert_eq!(found.flags, 0x40);
    assert_eq!(entry(&before, b"").attributes[0].name, b"user.root");

    set(&path, "user.b", b"changed");
    let (after, puts) = capture_since(&mut storage(folder.path()), Some(&before), &later());
    assert_eq!((puts, &*entry(&after, b"f").attributes[1].value), (1, &b"changed"[..]));
}

#[test]
fn a_path_longer_than_the_kernel_takes_is_walked_with_few_descriptors() {
    let folder = TempDir::new().unwrap();
    let mut directory = File::open(folder.path()).unwrap();
    let name = "n".repeat(200);
    for _ in 0..250 {
        rustix::fs::mkdirat(&directory, &name, 0o700.into()).unwrap();
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        for file in ["after", "zz"] {
            rustix::fs::openat(&directory, file, flags, 0o600.into()).unwrap();
        }
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        directory = rustix::fs::openat(&directory, &name, flags, 0.into()).unwrap().into();
    }
    let (ctx, recorder) = recorded();
    let mut selection = Selection::except(&FilesOptions::default()).unwrap();
    let mut walk =
        Walk::new(walk::open_root(folder.path()).unwrap(), &mut selection, &ctx).unwrap();
    let (mut entries, mut longest) = (0, 0);
    while let Some(key) = walk.peek() {
        longest = longest.max(key.len());
        let found = walk.take().unwrap();
        walk.pass(&found);
        entries += 1;
        assert!(walk.open_directories() <= 65);
    }
    assert_eq!((entries, longest), (1 + 250 * 3, 250 * 201 - 1));
    assert_eq!(recorder.skipped(), [""; 0]);
}

#[test]
fn a_path_too_long_for_a_key_is_listed() {
    let folder = TempDir::new().unwrap();
    let mut directory = File::open(folder.path()).unwrap();
    let name = "n".repeat(255);
    for _ in 0..260 {
        rustix::fs::mkdirat(&directory, &name, 0o700.into()).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        directory = rustix::fs::openat(&directory, &name, flags, 0.into()).unwrap().into();
    }
    let (ctx, recorder) = recorded();
    let (captured, _) = capture_since(&mut storage(folder.path()), None, &ctx);
    assert_eq!(captured.trees[TREE].len(), 1 + 256);
    assert_eq!(recorder.skipped().len(), 1);
}

#[test]
fn a_directory_that_is_moved_while_the_walk_is_far_below_is_found_again_or_listed() {
    for parent_too in [false, true] {
        let folder = TempDir::new().unwrap();
        let root = folder.path().join("root");
        let mut path = root.join("a");
        path.extend((0..100).map(|level| format!("d{level}")));
        fs::create_dir_all(&path).unwrap();
        put(&root.join("a/zz"), b"in the directory that was moved out of");
        put(&root.join("b"), b"after it");
        let (ctx, recorder) = recorded();
        let mut selection = Selection::except(&FilesOptions::default()).unwrap();
        let mut walk = Walk::new(walk::open_root(&root).unwrap(), &mut selection, &ctx).unwrap();
        let mut keys = Vec::new();
        while let Some(key) = walk.peek() {
            if key.ends_with(b"d90") {
                rustix::fs::rename(root.join("a/d0"), folder.path().join("elsewhere")).unwrap();
                if parent_too {
                    rustix::fs::rename(root.join("a"), root.join("c")).unwrap();
                }
            }
            keys.push(display_key(key));
            let found = walk.take().unwrap();
            walk.pass(&found);
        }
        let (last, skipped): (&[_], &[_]) =
            if parent_too { (&["b"], &["a"]) } else { (&["a/zz", "b"], &[]) };
        assert_eq!(keys.len(), 102 + last.len());
        assert_eq!(keys[102..], *last);
        assert_eq!(recorder.skipped(), skipped);
    }
}

#[test]
fn a_root_that_cannot_be_read_is_no_empty_directory() {
    let folder = TempDir::new().unwrap();
    let error = storage(&folder.path().join("gone")).begin(None, &later()).unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_root_that_is_not_utf_8_is_found_again() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join(OsStr::from_bytes(b"caf\xe9"));
    put(&root.join("f"), b"x");
    let captured = capture(&root);
    let described =
        |root| Files::described(Kind::Storage, "", &captured.description, root).unwrap();
    assert_eq!(described(None).root(), root);
    assert_eq!(described(Some(Path::new("/elsewhere"))).root(), Path::new("/elsewhere"));
}

#[test]
fn a_cancelled_capture_stops() {
    let folder = TempDir::new().unwrap();
    let ctx = later();
    let mut source = storage(folder.path());
    let description = source.begin(None, &ctx).unwrap();
    ctx.cancel.cancel();
    let Delta::Everything(mut changes) = source.changes(&description.trees[0], None, &ctx).unwrap()
    else {
        panic!("there was no parent");
    };
    assert!(changes.next().unwrap().is_err());
    assert!(changes.next().is_none());
}

#[test]
fn excluded_files_are_neither_captured_nor_deleted() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    put(&root.join("keep"), b"1");
    put(&root.join("cache/x"), b"2");
    put(&root.join("d/x.tmp"), b"3");
    let options = || FilesOptions {
        exclude: vec!["/cache".to_owned(), "*.tmp".to_owned()],
        one_file_system: true,
        ..FilesOptions::default()
    };
    let source = || Files::new(Kind::Storage, "s", root, options()).unwrap();
    let (captured, _) = capture_since(&mut source(), None, &later());
    let keys: Vec<_> = captured.trees[TREE].keys().map(|key| display_key(key)).collect();
    assert_eq!(keys, [".", "d", "keep"]);

    // A state in which `d` was not there: it must go, but holds what is not ours to delete.
    let mut wanted = captured.clone();
    wanted.trees.get_mut(TREE).unwrap().remove(&b"d"[..]);
    let described = Files::described(Kind::Storage, "s", &wanted.description, Some(root)).unwrap();
    let mut target = Directory::new(described);
    let (ctx, recorder) = recorded();
    apply(&mut target, &wanted, &ctx).unwrap();
    target.commit().unwrap();
    assert_eq!(recorder.skipped(), ["d"]);
    assert!(root.join("d/x.tmp").exists() && root.join("cache/x").exists());
}

#[test]
fn what_the_plan_does_not_name_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let (live, other) = (folder.path().join("live"), folder.path().join("other"));
    put(&live.join("a"), b"file");
    put(&other.join("a/below"), b"in the way");
    put(&other.join("extra/x"), b"kept");
    set_mtime(&live, 1);
    let wanted = capture(&live);
    let mut now = capture(&other);
    now.trees.get_mut(TREE).unwrap().retain(|key, _| !key.starts_with(b"extra"));
    let mut target = Directory::new(storage(&other));
    target.begin(&later()).unwrap();
    let applied = target.apply(&Difference { now: &now, wanted: &wanted }, &later()).unwrap();
    target.commit().unwrap();
    assert_eq!((applied.inserted, applied.updated, applied.deleted), (0, 2, 1));
    assert_eq!(fs::read(other.join("a")).unwrap(), b"file");
    assert_eq!(fs::read(other.join("extra/x")).unwrap(), b"kept");
}

#[test]
fn nothing_is_written_through_a_link() {
    let folder = TempDir::new().unwrap();
    let (outside, live) = (folder.path().join("outside"), folder.path().join("live"));
    put(&outside.join("f"), b"precious");
    fs::create_dir(&live).unwrap();
    symlink(&outside, live.join("d")).unwrap();
    let source = folder.path().join("source");
    put(&source.join("d/f"), b"new");
    let mut wanted = capture(&source);

    // The part of the snapshot that is restored does not hold `d` itself.
    wanted.trees.get_mut(TREE).unwrap().remove(&b"d"[..]);
    let mut target = Directory::new(storage(&live));
    target.begin(&later()).unwrap();
    let plan = Difference { now: &Captured::default(), wanted: &wanted };
    target.apply(&plan, &later()).unwrap();
    let error = target.commit().unwrap_err();
    assert!(error.to_string().contains("live/d"), "{error}");
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"precious");
    target.rollback().unwrap();
    assert_eq!(fs::read_dir(&live).unwrap().count(), 1);

    // With `d` in the snapshot the link is replaced, not followed.
    restore(&live, &capture(&source)).unwrap();
    assert_eq!(fs::read(live.join("d/f")).unwrap(), b"new");
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"precious");
}

#[test]
fn paths_that_lead_out_of_the_target_are_refused() {
    let folder = TempDir::new().unwrap();
    let (live, source) = (folder.path().join("live"), folder.path().join("source"));
    put(&source.join("f"), b"evil");
    for hostile in [&b"..\0f"[..], b"../f", b"/tmp/f", b"a\0..\0..\0f"] {
        let mut wanted = capture(&source);
        let value = wanted.trees.get_mut(TREE).unwrap().remove(&b"f"[..]).unwrap();
        wanted.trees.get_mut(TREE).unwrap().insert(hostile.to_vec(), value);
        let mut target = Directory::new(storage(&live));
        let error = apply(&mut target, &wanted, &later()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damage, "{error}");
        target.rollback().unwrap();
    }
    assert!(!live.exists() && !folder.path().join("f").exists());
}

#[test]
fn no_live_file_changes_before_the_commit() {
    let folder = TempDir::new().unwrap();
    let (live, source) = (folder.path().join("live"), folder.path().join("source"));
    put(&live.join("f"), b"old");
    put(&live.join("extra"), b"extra");
    put(&source.join("f"), b"new");
    let (wanted, before) = (capture(&source), capture(&live));

    let mut target = Directory::new(storage(&live));
    apply(&mut target, &wanted, &later()).unwrap();
    assert_eq!(capture(&live).trees[TREE], before.trees[TREE]);
    target.rollback().unwrap();
    assert_eq!(capture(&live).trees[TREE], before.trees[TREE]);
    assert_eq!(fs::read_dir(&live).unwrap().count(), 2);

    // Cut short: the staging folder stays, is never captured, and the next restore removes it.
    let mut target = Directory::new(storage(&live));
    apply(&mut target, &wanted, &later()).unwrap();
    drop(target);
    assert_eq!(fs::read_dir(&live).unwrap().count(), 3);
    assert_eq!(capture(&live).trees[TREE], before.trees[TREE]);
    restore(&live, &wanted).unwrap();
    assert_eq!(capture(&live).trees[TREE], wanted.trees[TREE]);
    assert_eq!(fs::read_dir(&live).unwrap().count(), 1);
}

#[test]
fn two_restores_into_one_directory_do_not_meet() {
    let folder = TempDir::new().unwrap();
    let mut first = Directory::new(storage(folder.path()));
    first.begin(&later()).unwrap();
    let error = Directory::new(storage(folder.path())).begin(&later()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    first.rollback().unwrap();
}

#[test]
fn configuration_is_only_the_files_that_match() {
    let folder = TempDir::new().unwrap();
    let app = folder.path().join("app");
    put(&app.join(".env"), b"SECRET=1");
    put(&app.join("edms/settings/base.py"), b"A = 1");
    put(&app.join("edms/settings/notes.txt"), b"not this");
    put(&app.join("big/file"), b"not this");
    symlink("base.py", app.join("edms/settings/link.py")).unwrap();
    let at = |path: &str| format!("{}/{path}", app.display());
    let patterns =
        [at(".env"), at("edms/settings/*.py"), at("edms/settings/gone.py"), at("*.toml")];
    let mut source = Files::configuration("", &patterns).unwrap();
    assert_eq!(source.root(), app);

    let (ctx, recorder) = recorded();
    let (captured, _) = capture_since(&mut source, None, &ctx);
    let keys: Vec<_> = captured.trees[TREE].keys().map(|key| display_key(key)).collect();
    assert_eq!(keys, [".env", "edms/settings/base.py"]);
    assert_eq!(recorder.skipped(), ["edms/settings/link.py", "edms/settings/gone.py"]);
    assert!(recorder.events().iter().any(|e| matches!(e, Event::Note(n) if n.contains("*.toml"))));

    // In place: only what is described is changed, however much else is there.
    put(&app.join(".env"), b"SECRET=2");
    put(&app.join("edms/settings/new.py"), b"B = 1");
    let restore_to = |root: Option<&Path>| {
        let files = Files::described(Kind::Configuration, "", &captured.description, root).unwrap();
        let mut target = Directory::new(files);
        apply(&mut target, &captured, &later()).unwrap();
        target.commit().unwrap();
        capture_since(target.as_source(), None, &later()).0
    };
    assert_eq!(restore_to(None).trees[TREE], captured.trees[TREE]);
    assert_eq!(fs::read(app.join(".env")).unwrap(), b"SECRET=1");
    assert!(app.join("big/file").exists() && app.join("edms/settings/notes.txt").exists());
    assert!(!app.join("edms/settings/new.py").exists());

    // Elsewhere: missing parents are made.
    let elsewhere = folder.path().join("elsewhere");
    assert_eq!(restore_to(Some(&elsewhere)).trees[TREE], captured.trees[TREE]);
}

#[test]
fn times_owners_and_modes_come_back_to_the_nanosecond() {
    let folder = TempDir::new().unwrap();
    let live: PathBuf = folder.path().join("live");
    put(&live.join("d/f"), b"x");
    fs::set_permissions(live.join("d/f"), fs::Permissions::from_mode(0o4640)).unwrap();
    set_mtime(&live.join("d/f"), 1);
    set_mtime(&live.join("d"), 2);
    let wanted = capture(&live);
    let copy = folder.path().join("copy");
    restore(&copy, &wanted).unwrap();
    let (file, directory) =
        (fs::metadata(copy.join("d/f")).unwrap(), fs::metadata(copy.join("d")).unwrap());
    assert_eq!((file.mtime(), file.mtime_nsec()), (1, 123_456_789));
    assert_eq!((directory.mtime(), directory.mtime_nsec()), (2, 123_456_789));
    assert_eq!(file.mode() & 0o7777, 0o4640);

    // Only a file inside changes: the directory keeps its time all the same.
    put(&copy.join("d/f"), b"changed");
    set_mtime(&copy.join("d"), 2);
    restore(&copy, &wanted).unwrap();
    assert_eq!(fs::metadata(copy.join("d")).unwrap().mtime(), 2);
    assert_eq!(capture(&copy).trees[TREE], wanted.trees[TREE]);
}

#[test]
fn a_file_that_cannot_be_opened_is_listed_and_left_out() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("f");
    put(&path, b"x");
    let (ctx, recorder) = recorded();
    let mut selection = Selection::only(&["f".to_owned()]).unwrap();
    let root = walk::open_root(folder.path()).unwrap();
    let mut walk = Walk::new(root, &mut selection, &ctx).unwrap();
    // Found as a file; by the time it is opened, a link, which is not followed.
    assert_eq!(walk.peek().unwrap(), b"f");
    fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    let state = State::new(later().clock.now());
    let mut seen = Seen { spool: Spool::new(), complete: true, numbers: Numbers::default(), state };
    let start = ctx.clock.now();
    assert_eq!(Capture::new(walk, None, &mut seen, Unread::default(), start, &ctx).count(), 0);
    assert_eq!(recorder.skipped(), ["f"]);
}
