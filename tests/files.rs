//! Files come back as they were: everything that a file can be, through any history, and while
//! others write to it.
#![allow(missing_docs, clippy::missing_panics_doc, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/zoo.rs"]
mod zoo;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coeval::backend::{Backend, Memory};
use coeval::context::Context;
use coeval::crypto::{KdfCost, KeyFile, Unlock};
use coeval::hint::Failure;
use coeval::repo::{Compression, NewKey, Repo, Unlocking};
use coeval::report::Recorder;
use coeval::snapshot::{
    self, CaptureOptions, Captured, Destination, Manifest, Mode, Overwrite, Parent, Reason,
    RecordRules, Restored, Selection, Snapshot,
};
use coeval::source::{
    Applied, Description, Directory, Entry, EntryKind, Extras, Files, FilesOptions, Fit, Kind,
    Owners, PathFilter, Plan, Shortfalls, Source, Target, group_number, user_number,
};
use coeval::time::{ManualClock, Timestamp};
use coeval::tree;
use proptest::prelude::*;
use zoo::{Descriptions, Part};

/// A repository in memory, and a folder.
struct World {
    repo: Arc<Repo>,
    folder: tempfile::TempDir,
    ctx: Context,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyFile::generate().expect("randomness");
        let unlock = || Unlock::KeyFile(KeyFile::parse(&key.to_text()).expect("a key"));
        let backend = Arc::new(Memory::default());
        let slot = NewKey { unlock: unlock(), label: "test".into(), cost: KdfCost::FLOOR };
        Repo::init(&*backend, &[slot], &Context::new()).expect("a repository");
        let cache = folder.path().join("cache");
        let repo = Repo::open(backend as Arc<dyn Backend>, &Unlocking::Given(&unlock()), &cache);
        // A clock far ahead: what was just written counts as old, so that its fingerprint matters.
        let clock = Arc::new(ManualClock::new(Timestamp::new(1 << 40, 0)));
        let ctx = Context { clock, ..Context::new() };
        let world = Self { repo: Arc::new(repo.expect("it opens")), folder, ctx };
        fs::create_dir(world.path("live")).expect("a folder");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(parent: Parent) -> CaptureOptions {
        CaptureOptions {
            host: "host".into(),
            application: "application".into(),
            tags: Vec::new(),
            parent,
            reason: Reason::Backup,
            compression: Compression::default(),
            compare: false,
        }
    }

    fn backup(&self, parent: Parent, ctx: &Context) -> Snapshot {
        let options = FilesOptions::default();
        let mut files =
            Files::new(Kind::Storage, "live", self.path("live"), options).expect("a source");
        let sources: &mut [&mut dyn Source] = &mut [&mut files];
        let captured =
            snapshot::capture(&self.repo, sources, &Self::options(parent), Mode::Commit, ctx);
        let Captured { id, manifest, .. } = captured.expect("a snapshot");
        let (repo, id) = (Arc::clone(&self.repo), id.expect("it is committed"));
        Snapshot { repo, id, manifest }
    }

    fn restore(&self, snapshot: &Snapshot, to: &Path) {
        Self::restore_into(snapshot, &mut Self::target(to), None, &self.ctx);
    }

    fn target(to: &Path) -> Directory {
        let options = FilesOptions::default();
        Directory::new(Files::new(Kind::Storage, "live", to, options).expect("a target"))
    }

    fn restore_into(
        snapshot: &Snapshot,
        target: &mut dyn Target,
        owners: Option<Owners>,
        ctx: &Context,
    ) -> Restored {
        let mut destinations = [Destination {
            kind: Kind::Storage,
            name: "live".into(),
            target,
            selection: Selection::Everything,
            extras: Extras::Delete,
            overwrite: Overwrite::Always,
            paths: PathFilter::default(),
            records: RecordRules::default(),
            owners,
        }];
        let options = Self::options(Parent::Newest);
        snapshot::restore(snapshot, &mut destinations, &options, ctx).expect("a restore")
    }
}

/// What a snapshot says of its files, in the words of the zoo.
fn say(snapshot: &Snapshot) -> Descriptions {
    let source = &snapshot.manifest.sources[0];
    let record = snapshot.tree(source, "").expect("a tree").expect("a tree");
    let path = |key: &[u8]| key.iter().map(|&b| if b == 0 { b'/' } else { b }).collect::<Vec<_>>();
    let reader = &*snapshot.repo;
    tree::entries(reader, record.tree, &[], &[])
        .map(|entry| {
            let (key, value) = entry.expect("an entry");
            let entry = Entry::decode(&value.head).expect("metadata");
            let what = match &entry.kind {
                EntryKind::Symlink { target } => format!("symlink {}", target.escape_ascii()),
                EntryKind::File => {
                    let mut hasher = blake3::Hasher::new();
                    let length = match &value.content {
                        tree::Content::Inline(bytes) => bytes.len() as u64,
                        tree::Content::Stored(stream) => stream.length,
                        tree::Content::Reader(_) => panic!("it is not in a tree"),
                    };
                    hasher.update_reader(value.content.open(reader)).expect("its content");
                    format!("file {length} {}", hasher.finalize().to_hex())
                }
                EntryKind::CharacterDevice(device) | EntryKind::BlockDevice(device) => {
                    format!("{} {}:{}", entry.kind.as_str(), device.major, device.minor)
                }
                other => other.as_str().to_owned(),
            };
            let attributes = entry.attributes.iter();
            let attributes = zoo::describe_attributes(attributes.map(|a| (&a.name, &a.value)));
            let text = zoo::describe(
                &what,
                [entry.mode.into(), entry.uid, entry.gid, entry.flags],
                (entry.mtime.seconds, entry.mtime.nanoseconds.into()),
                &attributes,
                entry.link.as_deref().map(path).as_deref(),
            );
            (path(&key), text)
        })
        .collect()
}

/// Fails with the first difference, which says more than two long lists.
fn same(left: &Descriptions, right: &Descriptions) {
    for path in left.keys().chain(right.keys()) {
        let shown = path.escape_ascii().to_string();
        assert_eq!(left.get(path), right.get(path), "{}", &shown[..shown.len().min(300)]);
    }
}

fn skipped(manifest: &Manifest) -> Vec<&str> {
    manifest.skipped.iter().map(|skipped| skipped.item.as_str()).collect()
}

#[test]
fn a_snapshot_says_everything_that_there_is_to_see() {
    let world = World::new();
    let live = world.path("live");
    zoo::build(&live, &Part::ALL);
    let seen = zoo::look(&live);
    let snapshot = world.backup(Parent::None, &world.ctx);
    assert_eq!(skipped(&snapshot.manifest), [""; 0]);
    same(&say(&snapshot), &seen);

    // Without a change nothing is read, and the root is the same; also when all is read.
    let again = world.backup(Parent::Newest, &world.ctx);
    let forced = world.backup(Parent::None, &world.ctx);
    let root = |snapshot: &Snapshot| snapshot.manifest.sources[0].catalogue.root;
    assert_eq!([root(&again), root(&forced)], [root(&snapshot); 2]);
    zoo::free(&live);
}

#[test]
fn everything_comes_back() {
    let world = World::new();
    let (live, copy) = (world.path("live"), world.path("copy"));
    zoo::build(&live, &Part::ALL);
    let snapshot = world.backup(Parent::None, &world.ctx);
    world.restore(&snapshot, &copy);
    let (before, after) = (zoo::look(&live), zoo::look(&copy));

    // rsync takes no path that is longer than PATH_MAX.
    let output = Command::new("rsync")
        .args(["-aHAXSn", "--itemize-changes", "--delete", "--numeric-ids", "--exclude=/deep"])
        .args([live.join(""), copy.join("")])
        .output()
        .expect("scripts/install.sh test installs rsync");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    zoo::free(&live);
    zoo::free(&copy);
    assert!(output.status.success(), "{errors}");
    assert_eq!(said, "");
    same(&after, &before);
}

#[test]
fn only_a_forced_backup_opens_a_file_that_looks_unchanged() {
    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    let world = World::new();
    let file = world.path("live/f");
    fs::write(&file, "one").expect("a file");
    let first = world.backup(Parent::None, &world.ctx);

    let watch = init(CreateFlags::NONBLOCK).expect("inotify");
    add_watch(&watch, file.as_path(), WatchFlags::OPEN).expect("inotify");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut opened = || Reader::new(&watch, &mut buffer).next().is_ok();
    for (parent, reads) in [(Parent::Newest, false), (Parent::None, true), (Parent::Newest, false)]
    {
        let again = world.backup(parent, &world.ctx);
        assert_eq!(opened(), reads, "{parent:?}");
        while opened() {}
        same(&say(&again), &say(&first));
    }
}

#[test]
fn owners_are_kept_by_name_too() {
    let world = World::new();
    fs::write(world.path("live/f"), "x").expect("a file");
    let snapshot = world.backup(Parent::None, &world.ctx);
    let owners = snapshot.owners(&snapshot.manifest.sources[0]).expect("owners");
    let id = |argument| {
        let output = Command::new("id").args([argument, "-n"]).output().expect("id");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(owners.users.get(&user), Some(&id("-u")));
    assert!(owners.groups.values().any(|name| *name == id("-g")));
}

#[test]
fn owners_come_back_by_name_where_they_have_other_numbers() {
    let world = World::new();
    for name in ["f", "g", "h", "i"] {
        fs::write(world.path("live").join(name), name).expect("a file");
    }
    let give = |name: &str, uid, gid| chown(world.path("live").join(name), Some(uid), Some(gid));
    if !rustix::process::getuid().is_root() {
        assert!(give("f", 4711, 4712).is_err());
        return;
    }
    for (name, uid, gid) in [("f", 4711, 4712), ("g", 4711, 4713), ("h", 0, 4713), ("i", 4714, 0)] {
        give(name, uid, gid).expect("given");
    }
    let snapshot = world.backup(Parent::None, &world.ctx);
    // As if it were from a machine where others have these numbers.
    let names = |names: &[(u32, &str)]| names.iter().map(|&(n, name)| (n, name.into())).collect();
    let owners = Owners {
        users: names(&[(0, "root"), (4711, "daemon")]),
        groups: names(&[(0, "root"), (4712, "daemon"), (4713, "no such group")]),
    };
    let recorder = Arc::new(Recorder::default());
    let ctx = Context { reporter: Arc::<Recorder>::clone(&recorder), ..world.ctx.clone() };
    let copy = world.path("copy");
    let restore =
        || World::restore_into(&snapshot, &mut World::target(&copy), Some(owners.clone()), &ctx);
    restore();
    let user = user_number("daemon").expect("users").expect("every machine has one");
    let group = group_number("daemon").expect("groups").expect("every machine has one");
    assert!(user != 4711 && group != 4712);
    let owner = |name: &str| {
        let meta = fs::metadata(copy.join(name)).expect("a file");
        (meta.uid(), meta.gid())
    };
    assert_eq!([owner("f"), owner("g")], [(user, group), (user, 4713)]);
    // What had no name there keeps its number, as does what has none here; only that is a loss.
    assert_eq!([owner("h"), owner("i")], [(0, 4713), (4714, 0)]);
    assert_eq!(recorder.skipped(), ["g"]);
    assert_eq!(restore().applied, Applied::default());
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[7; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A target that somebody writes to while it is restored into: after what is in it was saved.
struct Meddled<'a> {
    target: Directory,
    meddle: &'a dyn Fn(),
}

impl Target for Meddled<'_> {
    fn begin(&mut self, ctx: &Context) -> Result<(), Failure> {
        self.target.begin(ctx)
    }

    fn as_source(&mut self) -> &mut dyn Source {
        self.target.as_source()
    }

    fn fit(&mut self, wanted: &Description, ctx: &Context) -> Result<Fit, Failure> {
        (self.meddle)();
        self.target.fit(wanted, ctx)
    }

    fn apply(&mut self, plan: &dyn Plan, ctx: &Context) -> Result<Applied, Failure> {
        self.target.apply(plan, ctx)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        self.target.commit()
    }

    fn leftovers(&mut self) -> Result<Option<Box<dyn Source>>, Failure> {
        self.target.leftovers()
    }

    fn shortfalls(&mut self) -> Result<Shortfalls<'_>, Failure> {
        self.target.shortfalls()
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        self.target.rollback()
    }
}

#[test]
fn only_what_differs_is_fetched_and_what_is_there_is_not_trusted() {
    const MIB: usize = 1 << 20;
    let world = World::new();
    let live = world.path("live");
    let (big, sparse) = (live.join("big"), live.join("sparse"));
    let bytes = noise(64 * MIB);
    fs::write(&big, &bytes).expect("a file");
    fs::hard_link(&big, live.join("linked")).expect("a link");
    let holes = File::create(&sparse).expect("a file");
    holes.set_len(64 << 20).expect("a length");
    holes.write_all_at(&bytes[..MIB], 10 << 20).expect("written");
    drop(holes);
    let snapshot = world.backup(Parent::None, &world.ctx);
    let before = zoo::look(&live);

    let write = |path: &Path, bytes: &[u8], offset: u64| {
        let file = File::options().write(true).open(path).expect("a file");
        let modified = file.metadata().expect("metadata").modified().expect("a time");
        file.write_all_at(bytes, offset).expect("written");
        modified
    };
    let change = || {
        write(&big, &vec![7; MIB], 30 << 20);
        write(&sparse, &[7; 4096], 10 << 20);
    };
    let restore = |meddle: &dyn Fn()| {
        let mut target = Meddled { target: World::target(&live), meddle };
        let restored = World::restore_into(&snapshot, &mut target, None, &world.ctx);
        assert!(fs::read(&big).expect("a file") == bytes);
        same(&zoo::look(&live), &before);
        let meta = |path: &Path| fs::metadata(path).expect("a file");
        assert_eq!(meta(&big).ino(), meta(&live.join("linked")).ino());
        assert!(meta(&sparse).blocks() * 512 <= 2 << 20, "holes stay holes");
        restored.bytes_fetched
    };
    change();
    let fetched = restore(&|| {});
    assert!((1 << 20..6 << 20).contains(&fetched), "{fetched} bytes were fetched");

    // Other bytes, of which neither length nor time tells; a shorter file; none at all.
    change();
    let fetched = restore(&|| {
        let modified = write(&big, &vec![8; 5 * MIB], 50 << 20);
        let file = File::options().write(true).open(&big).expect("a file");
        file.set_modified(modified).expect("a time");
    });
    assert!((6 << 20..14 << 20).contains(&fetched), "{fetched} bytes were fetched");
    change();
    let fetched = restore(&|| {
        File::options().write(true).open(&big).expect("a file").set_len(9 << 20).expect("shorter");
    });
    assert!((55 << 20..64 << 20).contains(&fetched), "{fetched} bytes were fetched");
    change();
    let fetched = restore(&|| {
        fs::remove_file(&big).expect("removed");
        symlink("linked", &big).expect("a link");
    });
    assert!(fetched >= 64 << 20, "{fetched} bytes were fetched");
}

/// A step of a history.
#[derive(Debug, Clone)]
enum Step {
    Write(usize, Vec<u8>),
    Append(usize, Vec<u8>),
    Truncate(usize, u16),
    Folder(usize),
    Symlink(usize, usize),
    Rename(usize, usize),
    Link(usize, usize),
    Mode(usize, u32),
    Owner(usize, u32),
    Attribute(usize, u8),
    Delete(usize),
}

/// Few names, so that steps meet.
const PATHS: [&str; 9] = ["a", "a/b", "a/b/c", "a-b", "d", "d/a", "d/e", "f", "d/e/f"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = || 0..PATHS.len();
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let step = prop_oneof![
        4 => (path(), bytes()).prop_map(|(path, bytes)| Step::Write(path, bytes)),
        2 => (path(), bytes()).prop_map(|(path, bytes)| Step::Append(path, bytes)),
        1 => (path(), 0..20_000_u16).prop_map(|(path, length)| Step::Truncate(path, length)),
        3 => path().prop_map(Step::Folder),
        1 => (path(), path()).prop_map(|(path, to)| Step::Symlink(path, to)),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        3 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => (path(), 0o400..=0o7777_u32).prop_map(|(path, mode)| Step::Mode(path, mode | 0o700)),
        1 => (path(), 0..3_u32).prop_map(|(path, owner)| Step::Owner(path, owner)),
        2 => (path(), 0..3_u8).prop_map(|(path, value)| Step::Attribute(path, value)),
        2 => path().prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 1..16)
}

/// Does what is possible: a step that cannot be done is none.
fn go(root: &Path, steps: &[Step]) {
    let at = |path: usize| root.join(PATHS[path]);
    let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    for step in steps {
        let done = match step {
            Step::Write(path, bytes) => fs::write(at(*path), bytes),
            Step::Append(path, bytes) => File::options()
                .append(true)
                .open(at(*path))
                .and_then(|file| std::io::Write::write_all(&mut &file, bytes)),
            Step::Truncate(path, length) => File::options()
                .write(true)
                .open(at(*path))
                .and_then(|file| file.set_len((*length).into())),
            Step::Folder(path) => fs::create_dir(at(*path)),
            Step::Symlink(path, to) => symlink(PATHS[*to], at(*path)),
            Step::Rename(from, to) => fs::rename(at(*from), at(*to)),
            Step::Link(from, to) => fs::hard_link(at(*from), at(*to)),
            Step::Mode(path, mode) if !at(*path).is_symlink() => {
                fs::set_permissions(at(*path), fs::Permissions::from_mode(*mode))
            }
            Step::Owner(path, owner) if zoo::is_root() => {
                std::os::unix::fs::lchown(at(*path), Some(*owner), Some(*owner))
            }
            Step::Attribute(path, value) if !at(*path).is_symlink() => {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(at(*path).as_path(), "user.step", &[*value], flags)
                    .map_err(Into::into)
            }
            Step::Delete(path) if is_folder(&at(*path)) => fs::remove_dir_all(at(*path)),
            Step::Delete(path) => fs::remove_file(at(*path)),
            Step::Mode(..) | Step::Owner(..) | Step::Attribute(..) => Ok(()),
        };
        drop(done);
    }
    // The kernel's clock may stand still between two changes of one kind: what is captured in
    // between has to be older than what comes next.
    std::thread::sleep(Duration::from_millis(11));
}

/// How many histories; all of them with `COEVAL_HISTORIES=1000`.
fn histories() -> u32 {
    std::env::var("COEVAL_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), ..ProptestConfig::default() })]

    #[test]
    fn every_snapshot_of_a_history_says_what_was_there(
        history in prop::collection::vec(steps(), 2..6),
    ) {
        let world = World::new();
        for steps in &history {
            go(&world.path("live"), steps);
            let snapshot = world.backup(Parent::Newest, &world.ctx);
            prop_assert_eq!(skipped(&snapshot.manifest), [""; 0]);
            same(&say(&snapshot), &zoo::look(&world.path("live")));
        }
    }

    #[test]
    fn any_snapshot_of_a_history_comes_back(
        history in prop::collection::vec(steps(), 2..5), choice: prop::sample::Index,
    ) {
        let world = World::new();
        let mut snapshots = Vec::new();
        for steps in &history {
            go(&world.path("live"), steps);
            let seen = zoo::look(&world.path("live"));
            snapshots.push((world.backup(Parent::Newest, &world.ctx), seen));
        }
        let (snapshot, seen) = choice.get(&snapshots);
        for to in ["copy", "live"] {
            world.restore(snapshot, &world.path(to));
            same(&zoo::look(&world.path(to)), seen);
        }
    }
}

/// How many files each of the writers has, which it writes in turn.
const FILES: u64 = 4;
/// Far longer than what is read at once.
const WORDS: usize = 1 << 20;
/// How much is written at once: little, since the kernel tells of a write only when it begins.
const PIECE: usize = 64 << 10;

/// A content that proves itself: its number over and over.
fn version(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(WORDS)
}

/// Whether a file ever was so: one version, or the beginning of one over the one before.
fn existed(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut versions: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    versions.dedup();
    rest.is_empty()
        && words.len() == WORDS
        && match versions[..] {
            [_] => true,
            [new, old] => old == new.saturating_sub(FILES),
            _ => false,
        }
}

/// Writes one version after the other until it is `done`.
fn keep_writing(done: &AtomicBool, write: impl Fn(u64, &[u8])) {
    for number in 1.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        write(number % FILES, &version(number));
    }
}

#[test]
fn a_file_that_is_written_all_the_time_is_one_that_existed_or_is_listed() {
    let world = World::new();
    let replaced = |index: u64| world.path("live").join(format!("replaced{index}"));
    let rewritten = |index: u64| world.path("live").join(format!("rewritten{index}"));
    for index in 0..FILES {
        fs::write(replaced(index), version(0)).expect("a file");
        fs::write(rewritten(index), version(0)).expect("a file");
    }
    let done = AtomicBool::new(false);
    let snapshots = std::thread::scope(|scope| {
        scope.spawn(|| {
            keep_writing(&done, |index, bytes| {
                let new = world.path("new");
                fs::write(&new, bytes).expect("a file");
                fs::rename(new, replaced(index)).expect("a file");
            });
        });
        scope.spawn(|| {
            keep_writing(&done, |index, bytes| {
                let file = File::options().write(true).open(rewritten(index)).expect("a file");
                for (start, piece) in (0..).step_by(PIECE).zip(bytes.chunks(PIECE)) {
                    file.write_all_at(piece, start).expect("room");
                }
            });
        });
        let snapshots: Vec<_> =
            (0..3).map(|_| world.backup(Parent::Newest, &Context::new())).collect();
        done.store(true, Ordering::Relaxed);
        snapshots
    });
    for snapshot in snapshots {
        let source = &snapshot.manifest.sources[0];
        let record = snapshot.tree(source, "").expect("a tree").expect("a tree");
        let listed = skipped(&snapshot.manifest);
        for entry in tree::entries(&*world.repo, record.tree, &[], b"re") {
            let (key, value) = entry.expect("an entry");
            let name = String::from_utf8(key).expect("UTF-8");
            let bytes = value.content.bytes(&*world.repo, 10 << 20).expect("a content");
            assert!(existed(&bytes) || listed.contains(&name.as_str()), "{name}");
        }
    }
}
