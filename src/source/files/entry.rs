//! The bytes of a file's metadata. `docs/FORMAT.md` has the table.
//!
//! An [`Entry`] holds what a restore can bring back and nothing else, so that a directory which
//! was restored and captured again has the same root hash: the proof of a restore. What the
//! kernel alone decides (inode, change time) is in the [`Fingerprint`], in a tree of its own.

use std::time::Duration;

use crate::hint::{ErrorKind, Hint};
use rustix::fs::{FileType, Stat};

use crate::time::Timestamp;
use crate::tree::Key;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory; its entries are the keys below it.
    Directory,
    /// A regular file; its bytes are the content of the value.
    File,
    /// A symbolic link.
    Symlink {
        /// What it points to, exactly as it stands in the link: 1 to 4095 bytes without NUL.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket: the name that a program bound, not what went through it.
    Socket,
    /// A device that passes bytes.
    CharacterDevice(Device),
    /// A device that passes blocks.
    BlockDevice(Device),
}

/// Which device a special file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// An extended attribute: `user.comment`, `security.capability`; the lists of POSIX access control
/// are `system.posix_acl_access` and `system.posix_acl_default`, as Linux gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name with its name space: 1 to 255 bytes without NUL.
    pub name: Vec<u8>,
    /// Its value: at most 65,535 bytes.
    pub value: Vec<u8>,
}

/// The metadata of a file, directory or link: the head of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-user-id, set-group-id and sticky: at most `0o7777`.
    pub mode: u16,
    /// The number of the owner.
    pub uid: u32,
    /// The number of the group.
    pub gid: u32,
    /// When the content was last modified.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name, each name once.
    pub attributes: Vec<Attribute>,
    /// The flags of `chattr` that a user may set: bits of [`Entry::FLAGS`].
    pub flags: u32,
    /// The key of another entry, before this one, that is the same file: a hard link. Kind,
    /// content and metadata are the other's; never a directory.
    pub link: Option<Key>,
}

/// Bytes that are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the metadata of a file: {0}")]
pub struct EntryError(&'static str);

impl Hint for EntryError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Damage
    }

    fn hint(&self) -> Option<String> {
        Some("see what is affected with `coeval check --read-data`".to_owned())
    }
}

const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;
const FIFO: u8 = 4;
const SOCKET: u8 = 5;
const CHARACTER_DEVICE: u8 = 6;
const BLOCK_DEVICE: u8 = 7;
/// Set in the byte of the kind where fields follow that most files do not have.
const EXTENDED: u8 = 0x80;
/// Tags of these fields.
const ATTRIBUTE: u8 = 1;
const FLAGS: u8 = 2;
const LINK: u8 = 3;

const FIXED: usize = 23;
const LONGEST_TARGET: usize = 4095;
const LONGEST_NAME: usize = 255;

impl Entry {
    /// The flags that are captured: those of `chattr` that stand for a wish of a user and not for
    /// how the file system keeps the file. `s u c S i a d A D T C` in the letters of `lsattr`.
    pub const FLAGS: u32 = 0x1 // secure deletion
        | 0x2 // undeletable
        | 0x4 // compressed
        | 0x8 // written synchronously
        | 0x10 // immutable
        | 0x20 // append only
        | 0x40 // not dumped
        | 0x80 // no time of access
        | 0x1_0000 // directory changed synchronously
        | 0x2_0000 // top of a directory hierarchy
        | 0x80_0000; // not copied on write

    /// An entry without attributes, flags and links.
    pub const fn new(kind: EntryKind, mode: u16, uid: u32, gid: u32, mtime: Timestamp) -> Self {
        Self { kind, mode, uid, gid, mtime, attributes: Vec::new(), flags: 0, link: None }
    }

    /// The metadata in `stat` of something that is `kind`.
    pub(super) fn from_stat(kind: EntryKind, stat: &Stat) -> Self {
        // The permission bits fit in 12 bits.
        let mode = u16::try_from(stat.st_mode & 0o7777).unwrap_or(0);
        Self::new(kind, mode, stat.st_uid, stat.st_gid, mtime(stat))
    }

    /// Whether it is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self.kind, EntryKind::Directory)
    }

    /// The bytes of the entry. Attributes and links too long for a head make it longer than
    /// [`MAX_KEY`](crate::tree::MAX_KEY): who fills them in has to look.
    pub fn encode(&self) -> Vec<u8> {
        let fields = self.encode_fields();
        let (kind, rest) = match &self.kind {
            EntryKind::Directory => (DIRECTORY, Vec::new()),
            EntryKind::File => (FILE, Vec::new()),
            EntryKind::Symlink { target } => (SYMLINK, target.clone()),
            EntryKind::Fifo => (FIFO, Vec::new()),
            EntryKind::Socket => (SOCKET, Vec::new()),
            EntryKind::CharacterDevice(device) => (CHARACTER_DEVICE, device.encode()),
            EntryKind::BlockDevice(device) => (BLOCK_DEVICE, device.encode()),
        };
        let mut bytes = Vec::with_capacity(FIXED + 4 + fields.len() + rest.len());
        bytes.push(if fields.is_empty() { kind } else { kind | EXTENDED });
        bytes.extend_from_slice(&self.mode.to_le_bytes());
        bytes.extend_from_slice(&self.uid.to_le_bytes());
        bytes.extend_from_slice(&self.gid.to_le_bytes());
        bytes.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        bytes.extend_from_slice(&self.mtime.nanoseconds.to_le_bytes());
        if !fields.is_empty() {
            bytes.extend_from_slice(&length(&fields));
            bytes.extend_from_slice(&fields);
        }
        bytes.extend_from_slice(&rest);
        bytes
    }

    fn encode_fields(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let mut field = |tag: u8, parts: &[&[u8]]| {
            fields.push(tag);
            fields.extend_from_slice(&length(&parts.concat()));
            for part in parts {
                fields.extend_from_slice(part);
            }
        };
        for Attribute { name, value } in &self.attributes {
            field(ATTRIBUTE, &[name, &[0], value]);
        }
        if self.flags != 0 {
            field(FLAGS, &[&self.flags.to_le_bytes()]);
        }
        if let Some(link) = &self.link {
            field(LINK, &[link]);
        }
        fields
    }

    /// The entry with exactly these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut rest = bytes;
        let [kind] = take(&mut rest)?;
        let mode = u16::from_le_bytes(take(&mut rest)?);
        let uid = u32::from_le_bytes(take(&mut rest)?);
        let gid = u32::from_le_bytes(take(&mut rest)?);
        let seconds = i64::from_le_bytes(take(&mut rest)?);
        let nanoseconds = u32::from_le_bytes(take(&mut rest)?);
        if mode > 0o7777 {
            return Err(EntryError("mode above 07777"));
        }
        if nanoseconds >= 1_000_000_000 {
            return Err(EntryError("a second or more of nanoseconds"));
        }
        let fields = if kind & EXTENDED == 0 { &[][..] } else { take_run(&mut rest)? };
        if kind & EXTENDED != 0 && fields.is_empty() {
            return Err(EntryError("no fields where there should be some"));
        }
        let kind = EntryKind::decode(kind & !EXTENDED, &mut rest)?;
        if !rest.is_empty() {
            return Err(EntryError("too long"));
        }
        let mut entry = Self::new(kind, mode, uid, gid, Timestamp::new(seconds, nanoseconds));
        entry.decode_fields(fields)?;
        Ok(entry)
    }

    /// Fields stand in the order of their tags, attributes among themselves in that of their
    /// names, so that an entry has one form only.
    fn decode_fields(&mut self, mut rest: &[u8]) -> Result<(), EntryError> {
        let mut last = 0;
        while !rest.is_empty() {
            let [tag] = take(&mut rest)?;
            let field = take_run(&mut rest)?;
            if tag < last || tag == last && tag != ATTRIBUTE {
                return Err(EntryError("its fields are out of order"));
            }
            last = tag;
            match tag {
                ATTRIBUTE => {
                    let attribute = Attribute::decode(field)?;
                    if self.attributes.last().is_some_and(|last| last.name >= attribute.name) {
                        return Err(EntryError("its attributes are out of order"));
                    }
                    self.attributes.push(attribute);
                }
                FLAGS => {
                    let bytes = field.try_into().map_err(|_| EntryError("impossible flags"))?;
                    self.flags = u32::from_le_bytes(bytes);
                    if self.flags == 0 || self.flags & !Self::FLAGS != 0 {
                        return Err(EntryError("impossible flags"));
                    }
                }
                LINK if field.is_empty() || self.is_directory() => {
                    return Err(EntryError("impossible link"));
                }
                LINK => self.link = Some(field.to_vec()),
                _ => return Err(EntryError("unknown field")),
            }
        }
        Ok(())
    }
}

impl EntryKind {
    /// What it is, in a word, as restic says it: `dir`, `file`, `symlink`, `fifo`, `socket`,
    /// `chardev`, `dev`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Directory => "dir",
            Self::File => "file",
            Self::Symlink { .. } => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharacterDevice(_) => "chardev",
            Self::BlockDevice(_) => "dev",
        }
    }

    fn decode(kind: u8, rest: &mut &[u8]) -> Result<Self, EntryError> {
        Ok(match kind {
            DIRECTORY => Self::Directory,
            FILE => Self::File,
            SYMLINK => {
                let target = std::mem::take(rest).to_vec();
                if target.is_empty() || target.len() > LONGEST_TARGET || target.contains(&0) {
                    return Err(EntryError("impossible link target"));
                }
                Self::Symlink { target }
            }
            FIFO => Self::Fifo,
            SOCKET => Self::Socket,
            CHARACTER_DEVICE => Self::CharacterDevice(Device::decode(rest)?),
            BLOCK_DEVICE => Self::BlockDevice(Device::decode(rest)?),
            _ => return Err(EntryError("unknown kind")),
        })
    }
}

impl Device {
    /// The device that a special file with this `stat` stands for.
    pub(super) fn of(stat: &Stat) -> Self {
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        Self { major, minor }
    }

    fn encode(self) -> Vec<u8> {
        [self.major.to_le_bytes(), self.minor.to_le_bytes()].concat()
    }

    fn decode(rest: &mut &[u8]) -> Result<Self, EntryError> {
        let major = u32::from_le_bytes(take(rest)?);
        Ok(Self { major, minor: u32::from_le_bytes(take(rest)?) })
    }
}

impl Attribute {
    fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let bad = EntryError("impossible attribute");
        let end = bytes.iter().position(|&byte| byte == 0).ok_or(bad)?;
        let (name, value) = (bytes[..end].to_vec(), bytes[end + 1..].to_vec());
        if name.is_empty() || name.len() > LONGEST_NAME || value.len() > usize::from(u16::MAX) {
            return Err(bad);
        }
        Ok(Self { name, value })
    }
}

/// What tells that a file has not been changed since it was captured: size, modification time,
/// change time and inode, the test git and rsync's relatives use. Names nothing that a restore
/// brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
    inode: u64,
    /// The beginning of the hash of the key that a hard link names: the file itself does not
    /// change when its first name moves.
    link: Option<[u8; 8]>,
}

impl Fingerprint {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            size: size(stat),
            mtime: mtime(stat),
            ctime: change_time(stat),
            inode: stat.st_ino,
            link: None,
        }
    }

    /// Whether anything about the file changed at about this time.
    pub(super) fn changed_within(&self, span: Duration, time: Timestamp) -> bool {
        time.since(self.ctime) < span && self.ctime.since(time) < span
    }

    /// That of an entry which is linked to another.
    pub(super) fn linked_to(self, key: Option<&[u8]>) -> Self {
        let link = key.and_then(|key| blake3::hash(key).as_bytes().first_chunk().copied());
        Self { link, ..self }
    }

    /// Whether a change of the file after `looked`, when it was read, is sure to change the
    /// fingerprint. It is not where the file was touched less than two seconds before the capture
    /// began: a later change within one tick of the file system's clock would leave the same
    /// times ("racy git"). `looked` may be before `start`: clocks are set back. A modification
    /// time that lies ahead was set by hand, and says nothing about when.
    pub(super) fn is_trusted(&self, start: Timestamp, looked: Timestamp) -> bool {
        let first = start.seconds.min(looked.seconds).saturating_sub(RACY);
        let last = start.seconds.max(looked.seconds).saturating_add(RACY);
        self.ctime.seconds < first && !(first..=last).contains(&self.mtime.seconds)
    }

    /// Whether the file changed so shortly before `start` that one more change then may have left
    /// the same times: within some ticks of the kernel's clock, or, where the file system keeps
    /// whole seconds, two of them.
    pub(super) fn is_young(&self, start: Timestamp) -> bool {
        const TICKS: Duration = Duration::from_millis(50);
        if self.ctime.nanoseconds == 0 {
            return !self.is_trusted(start, start);
        }
        self.ctime > start || start.since(self.ctime) < TICKS
    }

    /// Replaces what is in `bytes` by the fingerprint.
    pub(super) fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend_from_slice(&self.size.to_le_bytes());
        for time in [self.mtime, self.ctime] {
            bytes.extend_from_slice(&time.seconds.to_le_bytes());
            bytes.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(&self.inode.to_le_bytes());
        bytes.extend_from_slice(self.link.as_ref().map_or(&[], |link| &link[..]));
    }
}

/// Seconds within which two changes may leave the same time: the clock of FAT ticks every two.
const RACY: i64 = 2;

/// The size in bytes.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// The type in the mode.
pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// When content or metadata last changed, by the kernel's word.
pub(super) fn change_time(stat: &Stat) -> Timestamp {
    timestamp(stat.st_ctime, stat.st_ctime_nsec)
}

fn mtime(stat: &Stat) -> Timestamp {
    timestamp(stat.st_mtime, stat.st_mtime_nsec)
}

fn timestamp(seconds: i64, nanoseconds: u64) -> Timestamp {
    Timestamp::new(seconds, u32::try_from(nanoseconds).unwrap_or(0))
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// The bytes after their length.
fn take_run<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], EntryError> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (run, tail) = rest.split_at_checked(length).ok_or(EntryError("too short"))?;
    *rest = tail;
    Ok(run)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], EntryError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(EntryError("too short"))?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::hex;

    fn kinds() -> impl Strategy<Value = EntryKind> {
        let device =
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Device { major, minor });
        prop_oneof![
            Just(EntryKind::Directory),
            Just(EntryKind::File),
            prop::collection::vec(1u8.., 1..40).prop_map(|target| EntryKind::Symlink { target }),
            Just(EntryKind::Fifo),
            Just(EntryKind::Socket),
            device.clone().prop_map(EntryKind::CharacterDevice),
            device.prop_map(EntryKind::BlockDevice),
        ]
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let bytes = |length| prop::collection::vec(any::<u8>(), length);
        let attributes =
            prop::collection::btree_map(prop::collection::vec(1u8.., 1..20), bytes(0..40), 0..3);
        let times = (any::<i64>(), 0u32..1_000_000_000);
        let owner = (0u16..=0o7777, any::<u32>(), any::<u32>());
        let link = prop::option::of(bytes(1..20));
        (kinds(), owner, times, attributes, any::<u32>(), link).prop_map(
            |(kind, (mode, uid, gid), (s, n), attributes, flags, link)| {
                let mut entry = Entry::new(kind, mode, uid, gid, Timestamp::new(s, n));
                let attribute = |(name, value)| Attribute { name, value };
                entry.attributes = attributes.into_iter().map(attribute).collect();
                entry.flags = flags & Entry::FLAGS;
                entry.link = link.filter(|_| !entry.is_directory());
                entry
            },
        )
    }

    #[test]
    fn the_bytes_of_an_entry_never_change() {
        let target = b"../a".to_vec();
        let mtime = Timestamp::new(-2, 999_999_999);
        let kind = EntryKind::Symlink { target };
        let mut entry = Entry::new(kind, 0o755, 1000, 0x0102_0304, mtime);
        assert_eq!(hex(&entry.encode()), "03ed01e803000004030201feffffffffffffffffc99a3b2e2e2f61");
        entry.attributes = vec![Attribute { name: b"user.a".to_vec(), value: b"\0b".to_vec() }];
        entry.flags = 0x40;
        entry.link = Some(b"d\0e".to_vec());
        let fields =
            "1f000000 01 09000000 757365722e61 00 0062 02 04000000 40000000 03 03000000 640065";
        assert_eq!(
            hex(&entry.encode()),
            format!(
                "83ed01e803000004030201feffffffffffffffffc99a3b{}2e2e2f61",
                fields.replace(' ', "")
            )
        );
        let device = Device { major: 8, minor: 1 };
        let entry = Entry::new(EntryKind::BlockDevice(device), 0o660, 0, 6, mtime);
        assert_eq!(
            hex(&entry.encode()),
            "07b0010000000006000000feffffffffffffffffc99a3b0800000001000000"
        );
    }

    proptest! {
        #[test]
        fn entries_survive_their_encoding(entry in entries()) {
            prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..60), kind in 0u8..9, extended: bool,
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = if extended { kind | EXTENDED } else { kind }; }
            if let Some(high) = bytes.get_mut(2) { *high &= 0x1f; }
            if let Some(high) = bytes.get_mut(22) { *high &= 0x3f; }
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_file_touched_during_the_capture_is_not_trusted() {
        let at = |seconds| Timestamp::new(seconds, 5);
        let touched = |mtime, ctime| Fingerprint {
            size: 1,
            mtime: at(mtime),
            ctime: at(ctime),
            inode: 7,
            link: None,
        };
        let trusted = |mtime, ctime, looked| touched(mtime, ctime).is_trusted(at(100), at(looked));
        assert!(trusted(50, 50, 110));
        assert!(!trusted(50, 98, 110) && !trusted(98, 50, 110) && !trusted(105, 50, 110));
        // A change that lies ahead may still come; a modification that does was made up.
        assert!(!trusted(50, 5_000, 110) && trusted(5_000, 50, 110));
        // The clock was set back by a minute during the capture, and the file changed after that.
        assert!(!trusted(41, 41, 42) && trusted(30, 30, 42));
    }

    #[test]
    fn the_first_name_of_a_link_is_part_of_its_fingerprint() {
        let (mut alone, mut linked, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
        let time = Timestamp::new(1, 2);
        let file = Fingerprint { size: 3, mtime: time, ctime: time, inode: 4, link: None };
        file.linked_to(None).write_to(&mut alone);
        file.linked_to(Some(b"a")).write_to(&mut linked);
        file.linked_to(Some(b"b")).write_to(&mut elsewhere);
        assert_eq!((alone.len(), linked.len()), (40, 48));
        assert!(linked.starts_with(&alone) && linked != elsewhere);
        assert_eq!(hex(&linked[40..]), hex(&blake3::hash(b"a").as_bytes()[..8]));
    }
}
