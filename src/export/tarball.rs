//! Files of a snapshot as a tar, written as they are read: POSIX ustar with PAX headers, as GNU
//! tar, bsdtar and Python's tarfile extract it.
//!
//! Extended attributes are records `SCHILY.xattr.*`, access control lists `SCHILY.acl.*` in the
//! text form of `setfacl`, with numbers for names: what star began and the others read. The flags
//! of `chattr` have no place in it, and sockets have none anywhere in a tar.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::pax::{USTAR_MAX, record, split_name};
use crate::context::Context;
use crate::hint::{Failure, Hint};
use crate::report::Event;
use crate::snapshot::{Snapshot, SourceRecord, TreeRecord};
use crate::source::{Device, Entry, EntryError, EntryKind, Owners, display_key};
use crate::tree::{self, Key};

const BLOCK: usize = 512;
/// Bytes of content that are written at once.
const BUFFER: usize = 64 << 10;
/// Bytes of names that are kept of files whose first name is not in the tar.
const LINKS: usize = 32 << 20;
/// The largest number of the seven octal digits that ustar has for a device.
const DEVICE_MAX: u32 = 0o777_7777;

/// Why a tar could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Where it goes to does not take it.
    #[error("the tar cannot be written")]
    Write(#[from] io::Error),
    /// A file in the repository cannot be read.
    #[error("cannot read {path} from the repository")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A stored entry is damaged.
    #[error("the metadata of {path} is damaged")]
    Entry {
        /// Which file.
        path: String,
        /// Why.
        source: EntryError,
    },
}

impl Hint for TarError {
    fn kind(&self) -> crate::hint::ErrorKind {
        match self {
            Self::Write(_) => crate::hint::ErrorKind::Failed,
            Self::Read { .. } | Self::Entry { .. } => crate::hint::ErrorKind::Damage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Write(_) => None,
            Self::Read { .. } | Self::Entry { .. } => {
                Some("see what is affected with `coeval check --read-data`".to_owned())
            }
        }
    }
}

/// A tar being written.
pub struct Tarball<'a> {
    out: &'a mut dyn Write,
    /// Members so far.
    pub members: u64,
    /// Bytes of content so far.
    pub bytes: u64,
    buffer: Vec<u8>,
}

/// A part of a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Which snapshot.
    pub snapshot: &'a Snapshot,
    /// Which source of it, one of files.
    pub source: &'a SourceRecord,
    /// Its files.
    pub record: &'a TreeRecord,
    /// Which entry, with all that is below it.
    pub key: &'a [u8],
    /// What that is called in the tar: `.` for a folder that becomes the one it is extracted in.
    /// All names then begin with `./`, else GNU tar sets the folder's time too early.
    pub name: &'a [u8],
}

/// What of a member is not in its metadata.
struct Member<'a> {
    /// Its name in the tar; a folder's ends with a slash.
    name: &'a [u8],
    entry: &'a Entry,
    length: u64,
    owners: &'a Owners,
    /// The member that it is a hard link to.
    link: Option<&'a [u8]>,
}

impl<'a> Tarball<'a> {
    /// Begins a tar.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out, members: 0, bytes: 0, buffer: vec![0; BUFFER] }
    }

    /// Appends a part of a snapshot.
    pub fn append(&mut self, part: &Part<'_>, ctx: &Context) -> Result<(), Failure> {
        let owners = part.snapshot.owners(part.source)?;
        let (top, name, outside) = (part.key, part.name, HashMap::new());
        let mut names = Names { top, name, outside, left: LINKS };
        let mut flags = 0_u64;
        for entry in tree::entries(&*part.snapshot.repo, part.record.tree, &[], part.key) {
            ctx.check_cancelled()?;
            let (key, value) = entry?;
            let Some(name) = names.of(&key) else { continue };
            let shown = display_key(&key);
            let entry = Entry::decode(&value.head)
                .map_err(|source| TarError::Entry { path: shown.clone(), source })?;
            flags += u64::from(entry.flags != 0);
            if let Some(reason) = unfit(&entry) {
                ctx.report(Event::Skipped { item: shown, reason: reason.to_owned() });
                continue;
            }
            let link = entry.link.as_deref().map_or(Link::None, |first| names.link(first, &name));
            if link == Link::Lost {
                let note = "its hard link is lost: there are too many to remember";
                ctx.report(Event::Note(format!("{shown}: {note}")));
            }
            let link = if let Link::To(name) = &link { Some(name.as_slice()) } else { None };
            let has_content = link.is_none() && entry.kind == EntryKind::File;
            let length = if has_content { value.content.length() } else { 0 };
            let name = if entry.is_directory() { [&name[..], b"/"].concat() } else { name };
            let member = Member { name: &name, entry: &entry, length, owners: &owners, link };
            self.header(&member).map_err(TarError::Write)?;
            if length > 0 {
                let mut content = value.content.open(&*part.snapshot.repo);
                self.content(&mut content, length, &shown)?;
            }
            self.members += 1;
            ctx.report(Event::Progress { items: 1, bytes: length });
        }
        if flags > 0 {
            let note = format!("the flags of {flags} files (chattr) are left out: a tar has none");
            ctx.report(Event::Note(note));
        }
        Ok(())
    }

    /// Appends a file that is made for the tar: a table as JSON lines.
    pub fn file(
        &mut self,
        name: &str,
        entry: &Entry,
        length: u64,
        content: &mut dyn Read,
    ) -> Result<(), TarError> {
        let owners = Owners::default();
        self.header(&Member { name: name.as_bytes(), entry, length, owners: &owners, link: None })?;
        self.members += 1;
        self.content(content, length, name)
    }

    fn content(
        &mut self,
        content: &mut dyn Read,
        length: u64,
        shown: &str,
    ) -> Result<(), TarError> {
        let mut left = length;
        while left > 0 {
            let part = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let buffer = self.buffer.get_mut(..part).unwrap_or_default();
            content
                .read_exact(buffer)
                .map_err(|source| TarError::Read { path: shown.to_owned(), source })?;
            self.out.write_all(buffer)?;
            left -= part as u64;
        }
        self.bytes += length;
        Ok(self.pad(length)?)
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let padding = usize::try_from(length.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.out.write_all([0; BLOCK].get(..padding).unwrap_or_default())
    }

    /// Ends the tar; what it was written to is not flushed.
    pub fn finish(self) -> Result<(), TarError> {
        Ok(self.out.write_all(&[0; 2 * BLOCK])?)
    }

    fn header(&mut self, member: &Member<'_>) -> io::Result<()> {
        let Member { name, entry, length, .. } = *member;
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        header.set_mode(u32::from(entry.mode));
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_size(if length > USTAR_MAX { 0 } else { length });
        if length > USTAR_MAX {
            record(&mut pax, b"size", length.to_string().as_bytes());
        }
        self.name(&mut header, &mut pax, name)?;
        set_time(&mut header, &mut pax, entry);
        set_owners(&mut header, &mut pax, member);
        let target = match (&entry.kind, member.link) {
            (_, Some(link)) => {
                header.set_entry_type(EntryType::Link);
                Some(link)
            }
            (EntryKind::Symlink { target }, None) => {
                header.set_entry_type(EntryType::Symlink);
                Some(target.as_slice())
            }
            (kind, None) => {
                set_kind(&mut header, kind)?;
                None
            }
        };
        if let Some(target) = target {
            self.target(&mut header, &mut pax, target)?;
        }
        if member.link.is_none() {
            attributes(&mut pax, entry);
        }
        if !pax.is_empty() {
            self.extra(EntryType::XHeader, b"PaxHeaders/member", &pax)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Names in UTF-8 that do not fit are PAX records; others stand as they are, and, where they
    /// do not fit, in GNU's long form, whose bytes nobody converts.
    fn name(&mut self, header: &mut Header, pax: &mut Vec<u8>, name: &[u8]) -> io::Result<()> {
        if split_name(header, name) {
            return Ok(());
        }
        if std::str::from_utf8(name).is_ok() {
            record(pax, b"path", name);
            return Ok(());
        }
        if name.len() > 100 {
            self.extra(EntryType::GNULongName, b"././@LongLink", &[name, &[0]].concat())?;
        }
        let field = &mut header.as_old_mut().name;
        let length = name.len().min(field.len());
        field[..length].copy_from_slice(&name[..length]);
        Ok(())
    }

    fn target(&mut self, header: &mut Header, pax: &mut Vec<u8>, target: &[u8]) -> io::Result<()> {
        let is_text = std::str::from_utf8(target).is_ok();
        if is_text && (target.len() > 100 || !target.is_ascii()) {
            record(pax, b"linkpath", target);
        } else if target.len() > 100 {
            self.extra(EntryType::GNULongLink, b"././@LongLink", &[target, &[0]].concat())?;
        }
        let field = &mut header.as_old_mut().linkname;
        let length = target.len().min(field.len());
        field[..length].copy_from_slice(&target[..length]);
        Ok(())
    }

    /// A header that belongs to the next member.
    fn extra(&mut self, kind: EntryType, name: &[u8], content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        split_name(&mut header, name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_entry_type(kind);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(content)?;
        self.pad(content.len() as u64)
    }
}

impl std::fmt::Debug for Tarball<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tarball").field("members", &self.members).finish_non_exhaustive()
    }
}

/// The names of members.
struct Names<'a> {
    /// The key of the top one, and its name.
    top: &'a [u8],
    name: &'a [u8],
    /// By the key of a file that is not in the tar: the first member that is a hard link to it.
    outside: HashMap<Key, Vec<u8>>,
    left: usize,
}

impl Names<'_> {
    /// The name of the member with this key; `None` where it is none.
    fn of(&self, key: &[u8]) -> Option<Vec<u8>> {
        let below = match key.strip_prefix(self.top)? {
            b"" => return Some(self.name.to_vec()),
            below if self.top.is_empty() => below,
            below => below.strip_prefix(&[0])?,
        };
        let below = below.iter().map(|&byte| if byte == 0 { b'/' } else { byte });
        Some(self.name.iter().copied().chain([b'/']).chain(below).collect())
    }

    /// What a member is that is a hard link to the entry with the key `first`. Where that is not in
    /// the tar, the first link to it stands for it.
    fn link(&mut self, first: &[u8], member: &[u8]) -> Link {
        if let Some(name) = self.of(first).or_else(|| self.outside.get(first).cloned()) {
            return Link::To(name);
        }
        match self.left.checked_sub(first.len() + member.len() + 96) {
            None => Link::Lost,
            Some(left) => {
                self.left = left;
                self.outside.insert(first.to_vec(), member.to_vec());
                Link::None
            }
        }
    }
}

/// What a member is a hard link to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    /// Nothing.
    None,
    /// The member of this name.
    To(Vec<u8>),
    /// Perhaps something that could not be remembered.
    Lost,
}

/// Why something has no place in a tar.
fn unfit(entry: &Entry) -> Option<&'static str> {
    match entry.kind {
        EntryKind::Socket => Some("a tar has no sockets"),
        EntryKind::CharacterDevice(Device { major, minor })
        | EntryKind::BlockDevice(Device { major, minor })
            if major > DEVICE_MAX || minor > DEVICE_MAX =>
        {
            Some("a tar has no devices with such numbers")
        }
        _ => None,
    }
}

fn set_kind(header: &mut Header, kind: &EntryKind) -> io::Result<()> {
    header.set_entry_type(match kind {
        EntryKind::Directory => EntryType::Directory,
        EntryKind::Fifo => EntryType::Fifo,
        EntryKind::CharacterDevice(_) => EntryType::Char,
        EntryKind::BlockDevice(_) => EntryType::Block,
        EntryKind::Symlink { .. } => EntryType::Symlink,
        EntryKind::File | EntryKind::Socket => EntryType::Regular,
    });
    if let EntryKind::CharacterDevice(device) | EntryKind::BlockDevice(device) = kind {
        header.set_device_major(device.major)?;
        header.set_device_minor(device.minor)?;
    }
    Ok(())
}

fn set_time(header: &mut Header, pax: &mut Vec<u8>, entry: &Entry) {
    let (seconds, nanoseconds) = (entry.mtime.seconds, entry.mtime.nanoseconds);
    let fits = u64::try_from(seconds).ok().filter(|seconds| *seconds <= USTAR_MAX);
    header.set_mtime(fits.unwrap_or(0));
    if fits.is_some() && nanoseconds == 0 {
        return;
    }
    // The fraction counts forwards, the digits of a negative number backwards.
    let (sign, whole, fraction) = match (seconds < 0, nanoseconds) {
        (true, 1..) => ("-", seconds.saturating_add(1).unsigned_abs(), 1_000_000_000 - nanoseconds),
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
    };
    record(pax, b"mtime", format!("{sign}{whole}.{fraction:09}").as_bytes());
}

fn set_owners(header: &mut Header, pax: &mut Vec<u8>, member: &Member<'_>) {
    let Member { entry, owners, .. } = member;
    let Some(ustar) = header.as_ustar_mut() else { return };
    for (field, key, name) in [
        (&mut ustar.uname, &b"uname"[..], owners.users.get(&entry.uid)),
        (&mut ustar.gname, &b"gname"[..], owners.groups.get(&entry.gid)),
    ] {
        let Some(name) = name else { continue };
        if name.is_ascii() && name.len() < field.len() {
            field[..name.len()].copy_from_slice(name.as_bytes());
        } else {
            record(pax, key, name.as_bytes());
        }
    }
}

fn attributes(pax: &mut Vec<u8>, entry: &Entry) {
    for attribute in &entry.attributes {
        let acl = match attribute.name.as_slice() {
            b"system.posix_acl_access" => Some(&b"SCHILY.acl.access"[..]),
            b"system.posix_acl_default" => Some(&b"SCHILY.acl.default"[..]),
            _ => None,
        };
        match acl.and_then(|key| Some((key, acl_text(&attribute.value)?))) {
            Some((key, text)) => record(pax, key, text.as_bytes()),
            None => {
                // An equals sign would end the key: written as GNU tar does.
                let mut key = b"SCHILY.xattr.".to_vec();
                for &byte in &attribute.name {
                    match byte {
                        b'=' => key.extend_from_slice(b"%3D"),
                        b'%' => key.extend_from_slice(b"%25"),
                        _ => key.push(byte),
                    }
                }
                record(pax, &key, &attribute.value);
            }
        }
    }
}

/// An access control list as Linux keeps it in an attribute (`linux/posix_acl_xattr.h`: version 2,
/// then tag, permissions and id of each entry) in the text form of POSIX 1003.1e.
fn acl_text(value: &[u8]) -> Option<String> {
    let entries = value.strip_prefix(&[2, 0, 0, 0])?;
    let mut texts = Vec::new();
    for entry in entries.chunks(8) {
        let &[t0, t1, p0, p1, i0, i1, i2, i3] = entry else { return None };
        let (tag, bits) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let who = match tag {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let bit = |bit: u16, letter| if bits & bit != 0 { letter } else { '-' };
        texts.push(format!("{who}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(texts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn times_before_the_epoch_are_written_as_decimals() {
        let written = |seconds, nanoseconds| {
            let time = Timestamp::new(seconds, nanoseconds);
            let mut pax = Vec::new();
            let entry = Entry::new(EntryKind::File, 0, 0, 0, time);
            set_time(&mut Header::new_ustar(), &mut pax, &entry);
            String::from_utf8(pax).unwrap()
        };
        assert_eq!(written(5, 0), "");
        assert_eq!(written(5, 7), "21 mtime=5.000000007\n");
        assert_eq!(written(-2, 250_000_000), "22 mtime=-1.750000000\n");
        assert_eq!(written(-1, 500_000_000), "22 mtime=-0.500000000\n");
        assert_eq!(written(-3, 0), "22 mtime=-3.000000000\n");
    }

    #[test]
    fn sizes_and_names_beyond_ustar_are_read_back() {
        let name = ["long"; 50].join("/");
        let entry = Entry::new(EntryKind::File, 0o644, 4_000_000_000, 7, Timestamp::new(5, 0));
        for length in [USTAR_MAX, USTAR_MAX + 1, 1 << 40] {
            let mut bytes = Vec::new();
            let owners = Owners::default();
            let name = name.as_bytes();
            let member = Member { name, entry: &entry, length, owners: &owners, link: None };
            Tarball::new(&mut bytes).header(&member).unwrap();
            let mut archive = tar::Archive::new(&bytes[..]);
            let read = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!((read.size(), &*read.path_bytes()), (length, name));
            assert_eq!(read.header().uid().unwrap(), 4_000_000_000);
        }
    }

    #[test]
    fn access_control_lists_are_written_as_setfacl_reads_them() {
        let mut value = vec![2, 0, 0, 0];
        for (tag, bits, id) in [
            (1_u16, 6_u16, u32::MAX),
            (2, 7, 1000),
            (4, 4, u32::MAX),
            (16, 7, u32::MAX),
            (32, 0, 0),
        ] {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&bits.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        let text = "user::rw-,user:1000:rwx,group::r--,mask::rwx,other::---";
        assert_eq!(acl_text(&value).as_deref(), Some(text));
        assert_eq!(acl_text(&value[..9]), None);
        assert_eq!(acl_text(b"\x01\0\0\0"), None);
    }
}
