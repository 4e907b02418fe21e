//! What restores bring back besides contents, modes and times.

use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};

use rustix::fs::{IFlags, Mode, OFlags, XattrFlags};

use super::*;

/// A state to restore, put together by hand.
struct Wish(Captured);

impl Wish {
    fn new(root: &Path) -> Self {
        fs::create_dir_all(root).unwrap();
        let description = storage(root).begin(None, &later()).unwrap();
        let mut wanted = Captured { description, ..Captured::default() };
        wanted.trees.insert(TREE.to_owned(), testing::Tree::new());
        let wish = Self(wanted);
        wish.put(b"", entry(EntryKind::Directory, 0o755), b"")
    }

    #[expect(clippy::needless_pass_by_value, reason = "entries are made where they are put")]
    fn put(mut self, key: &[u8], entry: Entry, bytes: &[u8]) -> Self {
        let tree = self.0.trees.get_mut(TREE).unwrap();
        tree.insert(key.to_vec(), (entry.encode(), bytes.to_vec()));
        self
    }
}

fn entry(kind: EntryKind, mode: u16) -> Entry {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    Entry::new(kind, mode, uid, gid, Timestamp::new(1_000_000, 5))
}

fn file() -> Entry {
    entry(EntryKind::File, 0o644)
}

fn linked(first: &[u8]) -> Entry {
    Entry { link: Some(first.to_vec()), ..file() }
}

fn with_attribute(entry: Entry, name: &[u8], value: &[u8]) -> Entry {
    let attribute = Attribute { name: name.to_vec(), value: value.to_vec() };
    Entry { attributes: vec![attribute], ..entry }
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(1024);
    rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)).ok()?;
    Some(value)
}

fn flags(path: &Path) -> IFlags {
    rustix::fs::ioctl_getflags(File::open(path).unwrap().as_fd()).unwrap()
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// Restores, and says what was skipped.
fn restored(root: &Path, wanted: &Wish) -> Vec<String> {
    let mut target = Directory::new(storage(root));
    let (ctx, recorder) = recorded();
    apply(&mut target, &wanted.0, &ctx).unwrap();
    target.commit().unwrap();
    let count = target.shortfalls().unwrap().map(Result::unwrap).count();
    assert_eq!(count == 0, recorder.skipped().is_empty());
    recorder.skipped()
}

#[test]
fn the_names_of_one_file_are_one_file_again() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    let text = b"longer than what stands in the tree";
    let wish = Wish::new(&root)
        .put(b"a", file(), text)
        .put(b"d", entry(EntryKind::Directory, 0o555), b"")
        .put(b"d\0b", linked(b"a"), text)
        .put(b"e", linked(b"a"), text);
    assert_eq!(restored(&root, &wish), [""; 0]);
    for name in ["d/b", "e"] {
        assert_eq!(inode(&root.join(name)), inode(&root.join("a")), "{name}");
    }
    assert_eq!(fs::read(root.join("d/b")).unwrap(), text);
    assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o7777, 0o555);

    // One name is gone: it is linked to what is there.
    fs::remove_file(root.join("e")).unwrap();
    let first = inode(&root.join("a"));
    let mut now = wish.0.clone();
    now.trees.get_mut(TREE).unwrap().remove(&b"e"[..]);
    let mut target = Directory::new(storage(&root));
    target.begin(&later()).unwrap();
    target.apply(&Difference { now: &now, wanted: &wish.0 }, &later()).unwrap();
    target.commit().unwrap();
    assert_eq!((inode(&root.join("a")), inode(&root.join("e"))), (first, first));
}

#[test]
fn a_link_does_not_lead_out_of_the_target() {
    let folder = TempDir::new().unwrap();
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    put(&outside.join("precious"), b"secret");
    fs::create_dir(&root).unwrap();
    symlink(&outside, root.join("way")).unwrap();
    let target = entry(EntryKind::Symlink { target: b"../outside".to_vec() }, 0o777);
    let wish = Wish::new(&root)
        .put(b"other", target.clone(), b"")
        .put(b"way", target, b"")
        .put(b"x", linked(b"way\0precious"), b"own")
        .put(b"y", linked(b"other\0precious"), b"own")
        .put(b"z", linked(b"..\0outside\0precious"), b"own");
    assert_eq!(restored(&root, &wish), ["x", "y", "z"]);
    for name in ["x", "y", "z"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), b"own");
    }
}

#[test]
fn pipes_sockets_and_devices_come_back() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    let device = Device { major: 1, minor: 3 };
    let wish = Wish::new(&root)
        .put(b"null", entry(EntryKind::CharacterDevice(device), 0o600), b"")
        .put(b"pipe", entry(EntryKind::Fifo, 0o640), b"")
        .put(b"pipe2", Entry { link: Some(b"pipe".to_vec()), ..entry(EntryKind::Fifo, 0o640) }, b"")
        .put(b"socket", entry(EntryKind::Socket, 0o755), b"");
    let skipped = restored(&root, &wish);
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert!(meta("pipe").file_type().is_fifo() && meta("pipe").mode() & 0o7777 == 0o640);
    assert_eq!(meta("pipe").ino(), meta("pipe2").ino());
    assert!(meta("socket").file_type().is_socket());
    assert_eq!((meta("pipe").mtime(), meta("pipe").mtime_nsec()), (1_000_000, 5));
    if rustix::process::getuid().is_root() {
        assert!(meta("null").file_type().is_char_device());
        assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    } else {
        assert_eq!(skipped, ["null"]);
    }
}

#[test]
fn attributes_come_back_and_others_go() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let set = |path: &Path, name: &str| {
        rustix::fs::setxattr(path, name, b"old", XattrFlags::empty()).unwrap();
    };
    put(&root.join("d/f"), b"old");
    set(&root.join("d"), "user.old");
    set(&root.join("d/f"), "user.old");
    // A default list of access control is handed down to what is made in the folder.
    let acl = |default: bool| {
        let mut list = vec![2, 0, 0, 0];
        for (tag, permissions, id) in [(1u16, 7u16, u32::MAX), (4, 5, u32::MAX), (32, 0, u32::MAX)]
        {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let name = if default { "system.posix_acl_default" } else { "system.posix_acl_access" };
        (name, list)
    };
    let (name, list) = acl(true);
    rustix::fs::setxattr(&root, name, &list, XattrFlags::empty()).unwrap();
    let folder_entry = with_attribute(entry(EntryKind::Directory, 0o755), name.as_bytes(), &list);
    let wish = Wish::new(&root)
        .put(b"d", with_attribute(entry(EntryKind::Directory, 0o755), b"user.new", b"v"), b"")
        .put(b"d\0f", with_attribute(file(), b"user.new", b"w"), b"new")
        .put(b"e", folder_entry, b"")
        .put(b"e\0f", file(), b"in it");
    assert_eq!(restored(&root, &wish), [""; 0]);
    assert_eq!(attribute(&root.join("d"), "user.new").unwrap(), b"v");
    assert_eq!(attribute(&root.join("d/f"), "user.new").unwrap(), b"w");
    assert_eq!(attribute(&root.join("d"), "user.old"), None);
    assert_eq!(attribute(&root.join("d/f"), "user.old"), None);
    assert_eq!(attribute(&root, name), None);
    assert_eq!(attribute(&root.join("e"), name).unwrap(), list);
    assert_eq!(attribute(&root.join("e/f"), "system.posix_acl_access"), None);
}

#[test]
fn flags_come_last_and_do_not_stand_in_the_way() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    let flagged = |entry: Entry, flags: IFlags| Entry { flags: flags.bits(), ..entry };
    let directory = || entry(EntryKind::Directory, 0o755);
    let locked = IFlags::IMMUTABLE | IFlags::NODUMP;
    let wish = |text: &[u8]| {
        Wish::new(&root)
            .put(b"d", flagged(directory(), IFlags::IMMUTABLE), b"")
            .put(b"d\0f", flagged(file(), locked), text)
            .put(b"d\0g", flagged(file(), IFlags::APPEND), text)
            .put(b"h", flagged(file(), IFlags::NODUMP), text)
    };
    assert_eq!(restored(&root, &wish(b"one")), [""; 0]);
    let check = |text: &[u8]| {
        assert!(flags(&root.join("d")).contains(IFlags::IMMUTABLE));
        assert!(flags(&root.join("d/f")).contains(locked));
        assert!(flags(&root.join("d/g")).contains(IFlags::APPEND));
        assert!(flags(&root.join("h")).contains(IFlags::NODUMP));
        assert_eq!(fs::read(root.join("d/f")).unwrap(), text);
    };
    check(b"one");
    assert_eq!(restored(&root, &wish(b"two, and longer than before")), [""; 0]);
    check(b"two, and longer than before");
    // So that the folder can be removed.
    assert_eq!(restored(&root, &Wish::new(&root)), [""; 0]);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn zeros_become_holes() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    let mut bytes = vec![0; 1 << 20];
    bytes[300_000..300_010].copy_from_slice(b"0123456789");
    let wish = Wish::new(&root).put(b"empty", file(), b"").put(b"some", file(), &bytes).put(
        b"zeros",
        file(),
        &vec![0; 100_000],
    );
    restored(&root, &wish);
    let meta = |name: &str| fs::metadata(root.join(name)).unwrap();
    assert!(fs::read(root.join("some")).unwrap() == bytes);
    assert_eq!((meta("empty").len(), meta("zeros").len()), (0, 100_000));
    assert_eq!(meta("zeros").blocks(), 0);
    assert!(meta("some").blocks() <= 16, "{} blocks", meta("some").blocks());
}

#[test]
fn a_folder_that_nobody_may_enter_is_no_obstacle() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::DirBuilder::new().mode(0o700).create(&root).unwrap();
    let wish = Wish::new(&root)
        .put(b"d", entry(EntryKind::Directory, 0o000), b"")
        .put(b"d\0e", entry(EntryKind::Directory, 0o100), b"")
        .put(b"d\0e\0f", entry(EntryKind::File, 0o000), b"something long enough");
    assert_eq!(restored(&root, &wish), [""; 0]);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let path = root.join("d/e/f");
    if rustix::process::getuid().is_root() {
        let stat = rustix::fs::fstat(rustix::fs::open(path, flags, Mode::empty()).unwrap());
        assert_eq!(stat.unwrap().st_mode & 0o7777, 0);
    }
}
