//! The bytes of a file's metadata. `docs/FORMAT.md` has the table.
//!
//! An [`Entry`] holds what a restore can bring back and nothing else, so that a directory which
//! was restored and captured again has the same root hash: the proof of a restore. What the
//! kernel alone decides (inode, change time) is in the [`Fingerprint`], in a tree of its own.

use crate::hint::{ErrorKind, Hint};
use rustix::fs::{FileType, Stat};

use crate::time::Timestamp;

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
}

/// The metadata of a file, directory or symbolic link: the head of its value.
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
const FIXED: usize = 23;
const LONGEST_TARGET: usize = 4095;

impl Entry {
    /// The metadata in `stat` of something that is `kind`.
    pub(super) fn from_stat(kind: EntryKind, stat: &Stat) -> Self {
        // The permission bits fit in 12 bits.
        let mode = u16::try_from(stat.st_mode & 0o7777).unwrap_or(0);
        Self { kind, mode, uid: stat.st_uid, gid: stat.st_gid, mtime: mtime(stat) }
    }

    /// Whether it is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self.kind, EntryKind::Directory)
    }

    /// The bytes of the entry.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, target) = match &self.kind {
            EntryKind::Directory => (DIRECTORY, &[][..]),
            EntryKind::File => (FILE, &[][..]),
            EntryKind::Symlink { target } => (SYMLINK, &target[..]),
        };
        let mut bytes = Vec::with_capacity(FIXED + target.len());
        bytes.push(kind);
        bytes.extend_from_slice(&self.mode.to_le_bytes());
        bytes.extend_from_slice(&self.uid.to_le_bytes());
        bytes.extend_from_slice(&self.gid.to_le_bytes());
        bytes.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        bytes.extend_from_slice(&self.mtime.nanoseconds.to_le_bytes());
        bytes.extend_from_slice(target);
        bytes
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
        let kind = match kind {
            DIRECTORY => EntryKind::Directory,
            FILE => EntryKind::File,
            SYMLINK => EntryKind::Symlink { target: std::mem::take(&mut rest).to_vec() },
            _ => return Err(EntryError("unknown kind")),
        };
        if let EntryKind::Symlink { target } = &kind
            && (target.is_empty() || target.len() > LONGEST_TARGET || target.contains(&0))
        {
            return Err(EntryError("impossible link target"));
        }
        if !rest.is_empty() {
            return Err(EntryError("too long"));
        }
        Ok(Self { kind, mode, uid, gid, mtime: Timestamp::new(seconds, nanoseconds) })
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
}

impl Fingerprint {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            size: size(stat),
            mtime: mtime(stat),
            ctime: timestamp(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    /// The bytes to remember of a file that was looked at in a capture begun at `start`. None
    /// where it was touched less than two seconds before that: a later change within one tick of
    /// the file system's clock would leave the same times ("racy git"), so it must be read again.
    pub(super) fn encode(&self, start: Timestamp) -> Vec<u8> {
        let trusted_before = start.seconds.saturating_sub(2);
        if self.mtime.seconds >= trusted_before || self.ctime.seconds >= trusted_before {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(40);
        bytes.extend_from_slice(&self.size.to_le_bytes());
        for time in [self.mtime, self.ctime] {
            bytes.extend_from_slice(&time.seconds.to_le_bytes());
            bytes.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(&self.inode.to_le_bytes());
        bytes
    }
}

/// The size in bytes.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// The type in the mode.
pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn mtime(stat: &Stat) -> Timestamp {
    timestamp(stat.st_mtime, stat.st_mtime_nsec)
}

fn timestamp(seconds: i64, nanoseconds: u64) -> Timestamp {
    Timestamp::new(seconds, u32::try_from(nanoseconds).unwrap_or(0))
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

    fn entries() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![
            Just(EntryKind::Directory),
            Just(EntryKind::File),
            prop::collection::vec(1u8.., 1..40).prop_map(|target| EntryKind::Symlink { target }),
        ];
        (kind, 0u16..=0o7777, any::<u32>(), any::<u32>(), any::<i64>(), 0u32..1_000_000_000)
            .prop_map(|(kind, mode, uid, gid, s, n)| Entry {
                kind,
                mode,
                uid,
                gid,
                mtime: Timestamp::new(s, n),
            })
    }

    #[test]
    fn the_bytes_of_an_entry_never_change() {
        let entry = Entry {
            kind: EntryKind::Symlink { target: b"../a".to_vec() },
            mode: 0o755,
            uid: 1000,
            gid: 0x0102_0304,
            mtime: Timestamp::new(-2, 999_999_999),
        };
        assert_eq!(hex(&entry.encode()), "03ed01e803000004030201feffffffffffffffffc99a3b2e2e2f61");
    }

    proptest! {
        #[test]
        fn entries_survive_their_encoding(entry in entries()) {
            prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..40), kind in 0u8..5,
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = kind; }
            if let Some(high) = bytes.get_mut(2) { *high &= 0x1f; }
            if let Some(high) = bytes.get_mut(22) { *high &= 0x3f; }
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_file_touched_during_the_capture_is_not_trusted() {
        let old = Fingerprint {
            size: 1,
            mtime: Timestamp::new(50, 0),
            ctime: Timestamp::new(50, 0),
            inode: 7,
        };
        assert_eq!(old.encode(Timestamp::new(100, 0)).len(), 40);
        let touched = Fingerprint { ctime: Timestamp::new(98, 0), ..old };
        assert!(touched.encode(Timestamp::new(100, 5)).is_empty());
    }
}
