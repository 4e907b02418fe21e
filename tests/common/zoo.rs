//! One tree with everything that a file can be, and a walk that writes down all there is to see of
//! a tree: two are the same if their descriptions are.

#![allow(dead_code, reason = "each file of tests needs a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags,
};

/// A part of the tree. What only the superuser can make is left out for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Names that are not UTF-8, hold line ends, are 255 bytes long; empty folders.
    Names,
    /// Before 1970, after 2038, to the nanosecond; of files, links and folders.
    Times,
    /// All bits, folders and files that nobody may read, owners that nobody knows.
    Modes,
    /// A file of a gibibyte with few blocks.
    Sparse,
    /// Extended attributes, access control lists, capabilities.
    Attributes,
    /// What `chattr` sets.
    Flags,
    /// Hard links, across folders, of files and of what is none.
    Links,
    /// Fifos, sockets, devices.
    Special,
    /// A path longer than PATH_MAX.
    Deep,
}

impl Part {
    pub const ALL: [Self; 9] = [
        Self::Names,
        Self::Times,
        Self::Modes,
        Self::Sparse,
        Self::Attributes,
        Self::Flags,
        Self::Links,
        Self::Special,
        Self::Deep,
    ];
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes the parts below `root`, each in a folder of its own.
pub fn build(root: &Path, parts: &[Part]) {
    for part in parts {
        let folder = root.join(format!("{part:?}").to_lowercase());
        fs::create_dir_all(&folder).expect("a folder");
        match part {
            Part::Names => names(&folder),
            Part::Times => times(&folder),
            Part::Modes => modes(&folder),
            Part::Sparse => sparse(&folder),
            Part::Attributes => attributes(&folder),
            Part::Flags => flags(&folder),
            Part::Links => links(&folder),
            Part::Special => special(&folder),
            Part::Deep => deep(&folder),
        }
    }
}

fn put(path: &Path, bytes: &[u8]) {
    File::create(path).expect("a file").write_all(bytes).expect("room");
}

fn names(folder: &Path) {
    for name in [&b"\xff\xfe"[..], b"line\nend", b" blank ", b"-n", b"a", b"a-b", b"a!", b"\\n*?["]
    {
        put(&folder.join(OsStr::from_bytes(name)), name);
    }
    for end in [b'x', 0xc3] {
        let long = [vec![b'l'; 254], vec![end]].concat();
        put(&folder.join(OsStr::from_bytes(&long)), &long);
    }
    fs::create_dir_all(folder.join("empty/below")).expect("a folder");
    fs::create_dir(folder.join(OsStr::from_bytes(&[0xe4; 255]))).expect("a folder");
    symlink(OsStr::from_bytes(b"\xff/nowhere\n"), folder.join("link")).expect("a link");
    symlink("t".repeat(4095), folder.join("long link")).expect("a link");
    put(&folder.join("nothing"), b"");
}

/// Sets the time of modification, of a link itself.
pub fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

fn times(folder: &Path) {
    let moments = [
        (-1, 999_999_999),
        (-1_000_000_000, 1),
        (0, 0),
        (1, 1),
        (4_102_444_800, 5),
        (9_000_000_000, 123_456_789),
    ];
    for (seconds, nanoseconds) in moments {
        let at = |kind: &str| folder.join(format!("{kind}{seconds}"));
        put(&at("file"), b"x");
        symlink("x", at("link")).expect("a link");
        fs::create_dir(at("folder")).expect("a folder");
        for kind in ["file", "link", "folder"] {
            touch(&at(kind), seconds, nanoseconds);
        }
        let kept = rustix::fs::stat(at("file").as_path()).expect("it is there");
        assert_eq!(kept.st_mtime, seconds, "the file system keeps this time");
    }
}

fn modes(folder: &Path) {
    for mode in [0o000, 0o400, 0o777, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777] {
        // Others than the superuser cannot read what they may not.
        let mode = if is_root() { mode } else { mode | 0o400 };
        put(&folder.join(format!("{mode:o}")), b"x");
        fs::create_dir(folder.join(format!("d{mode:o}"))).expect("a folder");
        for name in [format!("{mode:o}"), format!("d{mode:o}")] {
            let mode = if name.starts_with('d') && !is_root() { mode | 0o700 } else { mode };
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode))
                .expect("a mode");
        }
    }
    if is_root() {
        put(&folder.join("owned"), b"x");
        chown(folder.join("owned"), Some(4_000_000_123), Some(3_999_999_999)).expect("an owner");
        symlink("owned", folder.join("link")).expect("a link");
        lchown(folder.join("link"), Some(1), Some(2)).expect("an owner");
        // After the owner: a change of owner takes these bits away.
        put(&folder.join("setuid"), b"x");
        chown(folder.join("setuid"), Some(4_000_000_123), Some(1)).expect("an owner");
        let mode = fs::Permissions::from_mode(0o6755);
        fs::set_permissions(folder.join("setuid"), mode).expect("a mode");
    }
}

fn sparse(folder: &Path) {
    let file = File::create(folder.join("gibibyte")).expect("a file");
    file.write_all_at(b"in the beginning", 0).expect("room");
    file.write_all_at(b"somewhere", 700 << 20).expect("room");
    file.set_len(1 << 30).expect("a length");
    File::create(folder.join("hole")).expect("a file").set_len(5_000_000).expect("a length");
    let full = File::create(folder.join("ends with data")).expect("a file");
    full.write_all_at(b"end", 10 << 20).expect("room");
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{} takes no {name}: {error}", path.display()));
}

fn attributes(folder: &Path) {
    let at = |name: &str| folder.join(name);
    put(&at("file"), b"x");
    fs::create_dir(at("folder")).expect("a folder");
    set(&at("file"), "user.comment", "größe".as_bytes());
    set(&at("file"), "user.binary", b"\0\xff\n");
    set(&at("file"), "user.empty", b"");
    set(&at("file"), "user.long", &[7; 2000]);
    set(&at("folder"), "user.folder", b"of a folder");
    put(&at("acl"), b"x");
    fs::create_dir(at("acl folder")).expect("a folder");
    run("setfacl", &["-m", "u:1:rw,g:2:r,m::rw"], &at("acl"));
    run("setfacl", &["-m", "u:1:rwx,d:u:3:rx,d:g::r"], &at("acl folder"));
    if is_root() {
        symlink("x", at("link")).expect("a link");
        set(&at("link"), "trusted.link", b"of the link itself");
        set(&at("file"), "trusted.t", b"for the superuser");
        put(&at("capable"), b"x");
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set(&at("capable"), "security.capability", &capability);
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status();
    assert!(status.expect("scripts/install.sh test installs it").success(), "{program}");
}

fn flags(folder: &Path) {
    put(&folder.join("nodump"), b"x");
    fs::create_dir(folder.join("noatime")).expect("a folder");
    set_flags(&folder.join("nodump"), 0x40);
    set_flags(&folder.join("noatime"), 0x80);
    if is_root() {
        for (name, flags) in [("immutable", 0x10), ("append", 0x20)] {
            put(&folder.join(name), b"x");
            set_flags(&folder.join(name), flags);
        }
    }
}

fn set_flags(path: &Path, flags: u32) {
    let file = File::open(path).expect("a file");
    let kept = rustix::fs::ioctl_getflags(&file).expect("the file system has flags");
    let others = kept.bits() & !0xff;
    rustix::fs::ioctl_setflags(&file, IFlags::from_bits_retain(others | flags)).expect("flags");
}

/// Makes what [`build`] made removable.
pub fn free(root: &Path) {
    for name in ["immutable", "append"] {
        let path = root.join("flags").join(name);
        if path.exists() {
            set_flags(&path, 0);
        }
    }
}

fn links(folder: &Path) {
    let at = |name: &str| folder.join(name);
    fs::create_dir_all(at("z/deep")).expect("a folder");
    put(&at("m"), b"one file with several names");
    for other in ["a", "z/deep/m", "z/n"] {
        fs::hard_link(at("m"), at(other)).expect("a link");
    }
    symlink("nowhere", at("symlink")).expect("a link");
    fs::hard_link(at("symlink"), at("z/symlink")).expect("a link");
    rustix::fs::mkfifoat(CWD, at("fifo"), Mode::RUSR).expect("a fifo");
    fs::hard_link(at("fifo"), at("z/fifo")).expect("a link");
    put(&at("empty"), b"");
    fs::hard_link(at("empty"), at("z/empty")).expect("a link");
}

fn special(folder: &Path) {
    let make = |name: &str, kind, device| {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, folder.join(name), kind, mode, device).expect("a special file");
    };
    make("fifo", FileType::Fifo, 0);
    make("socket", FileType::Socket, 0);
    if is_root() {
        make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        make("loop", FileType::BlockDevice, rustix::fs::makedev(7, 200));
        make("large", FileType::CharacterDevice, rustix::fs::makedev(4000, 1_000_000));
    }
}

fn deep(folder: &Path) {
    let mut directory = OwnedFd::from(File::open(folder).expect("a folder"));
    let name = "d".repeat(100);
    for level in 0..100 {
        rustix::fs::mkdirat(&directory, &name, Mode::RWXU).expect("a folder");
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = rustix::fs::openat(&directory, "zz", flags, Mode::RUSR).expect("a file");
        File::from(file).write_all(format!("at level {level}").as_bytes()).expect("room");
        directory = open(&directory, name.as_bytes(), OFlags::DIRECTORY);
    }
}

fn open(directory: impl AsFd, name: &[u8], flags: OFlags) -> OwnedFd {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::openat(directory, name, flags, Mode::empty())
        .unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(name)))
}

/// All there is to see of one entry, in words.
pub type Descriptions = BTreeMap<Vec<u8>, String>;

/// Describes a tree, root included, by paths with slashes.
pub fn look(root: &Path) -> Descriptions {
    let directory = OwnedFd::from(File::open(root).expect("the root"));
    let stat = rustix::fs::fstat(&directory).expect("the root");
    let mut look = Look::default();
    look.describe(&directory, b".", &stat, Vec::new());
    look.below(&directory, &[]);
    look.found
}

#[derive(Default)]
struct Look {
    found: Descriptions,
    first: HashMap<(u64, u64), Vec<u8>>,
}

impl Look {
    fn below(&mut self, directory: &OwnedFd, path: &[u8]) {
        let mut names: Vec<Vec<u8>> = rustix::fs::Dir::read_from(directory)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_bytes().to_vec())
            .filter(|name| !matches!(name.as_slice(), b"." | b".."))
            .collect();
        names.sort_unstable();
        for name in names {
            let stat = rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .expect("an entry");
            let below = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            self.describe(directory, &name, &stat, below.clone());
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                self.below(&open(directory, &name, OFlags::DIRECTORY), &below);
            }
        }
    }

    fn describe(&mut self, directory: &OwnedFd, name: &[u8], stat: &Stat, path: Vec<u8>) {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let what = match kind {
            FileType::Directory => "dir".to_owned(),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).expect("a link");
                format!("symlink {}", target.to_bytes().escape_ascii())
            }
            FileType::RegularFile => {
                let mut hasher = blake3::Hasher::new();
                let file = File::from(open(directory, name, OFlags::empty()));
                hasher.update_reader(file).expect("its content");
                format!("file {} {}", stat.st_size, hasher.finalize().to_hex())
            }
            FileType::Fifo => "fifo".to_owned(),
            FileType::Socket => "socket".to_owned(),
            FileType::CharacterDevice | FileType::BlockDevice => {
                let word = if kind.is_block_device() { "dev" } else { "chardev" };
                let device = stat.st_rdev;
                format!("{word} {}:{}", rustix::fs::major(device), rustix::fs::minor(device))
            }
            FileType::Unknown => panic!("a file of an unknown kind"),
        };
        let flags = match kind {
            FileType::RegularFile | FileType::Directory => {
                let file = open(directory, name, OFlags::empty());
                rustix::fs::ioctl_getflags(file).map_or(0, |flags| flags.bits())
                    & coeval::source::Entry::FLAGS
            }
            _ => 0,
        };
        let attributes = describe_attributes(&read_attributes(directory, name));
        let link = if stat.st_nlink > 1 && !kind.is_dir() {
            let first = self.first.entry((stat.st_dev, stat.st_ino)).or_insert(path.clone());
            Some(first.clone()).filter(|first| *first != path)
        } else {
            None
        };
        let text = describe(
            &what,
            [stat.st_mode & 0o7777, stat.st_uid, stat.st_gid, flags],
            (stat.st_mtime, stat.st_mtime_nsec),
            &attributes,
            link.as_deref(),
        );
        self.found.insert(path, text);
    }
}

/// One entry in words: what it is; mode, owner, group and flags; time; attributes; the first of
/// its names.
pub fn describe(
    what: &str,
    [mode, uid, gid, flags]: [u32; 4],
    time: (i64, u64),
    attributes: &str,
    link: Option<&[u8]>,
) -> String {
    let link = link.map_or(String::new(), |link| format!(" is {}", link.escape_ascii()));
    let (seconds, nanoseconds) = time;
    format!("{what} {mode:o} {uid}:{gid} {flags:x} {seconds}.{nanoseconds:09}{attributes}{link}")
}

/// Attributes in words, in the order in which they come.
pub fn describe_attributes<'a>(
    attributes: impl IntoIterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
) -> String {
    let words = attributes
        .into_iter()
        .map(|(name, value)| format!(" {}={}", name.escape_ascii(), value.escape_ascii()));
    words.collect::<Vec<_>>().concat()
}

fn read_attributes(directory: &OwnedFd, name: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path.as_slice(), names.as_mut_slice()).expect("attributes");
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = rustix::fs::lgetxattr(path.as_slice(), name, value.as_mut_slice());
            value.truncate(length.expect("a value"));
            (name.to_vec(), value)
        })
        .collect()
}
