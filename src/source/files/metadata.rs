//! Gives files the metadata of their entries, and says what of it the target did not take.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Gid, IFlags, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::attributes::is_wanted;
use super::losses::Loss;
use super::{Entry, EntryKind};

/// Flags that forbid further changes: they come last of all.
pub(super) const LOCKS: u32 = 0x10 | 0x20;

/// Attributes that stand for the access control list of a file.
const ACCESS: &[u8] = b"system.posix_acl_access";

/// A file whose metadata is set.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// The name of what cannot be opened without effect (a link, a pipe, a device), or what need
    /// not be, in an open directory.
    Named(BorrowedFd<'a>, &'a CStr),
}

/// What is known of a file before its metadata is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prior {
    /// It was just made in a folder that hands nothing down: it has neither attributes nor flags.
    Fresh,
    /// It may have any.
    Any,
}

/// Sets owner, attributes, mode, flags and time, in this order: a change of owner clears
/// set-user-id and capabilities, a list of access control changes the mode, flags may forbid the
/// rest, and any change of content takes the time. [`LOCKS`] are left for later. Calls that would
/// change nothing are saved. Returns what the target refused, each with the reason.
pub(super) fn set(
    at: At<'_>,
    entry: &Entry,
    stat: &Stat,
    prior: Prior,
) -> Result<Vec<(Loss, String)>, Errno> {
    let mut losses = Vec::new();
    let (uid, gid, mode) = set_owner(at, entry, stat)?;
    if (uid, gid) != (entry.uid, entry.gid) {
        losses.push((Loss::Owner { uid, gid, mode }, String::new()));
    }
    let chowned = (uid, gid) != (stat.st_uid, stat.st_gid);
    let attributes = set_attributes(at, entry, prior, &mut losses)?;
    if !matches!(entry.kind, EntryKind::Symlink { .. }) {
        let special = mode & 0o6000 != 0;
        if stat.st_mode & 0o7777 != u32::from(mode) || attributes || chowned && special {
            at.chmod(mode)?;
        }
        if special {
            let is = at.stat()?.st_mode & 0o7777;
            if let Ok(is) = u16::try_from(is)
                && is != mode
            {
                losses.push((Loss::Mode(is), "its set-group-id bit is refused".to_owned()));
            }
        }
    }
    if matches!(entry.kind, EntryKind::File | EntryKind::Directory)
        && (prior == Prior::Any || entry.flags & !LOCKS != 0)
    {
        losses.extend(set_flags(at, entry, entry.flags & !LOCKS)?);
    }
    at.set_time(time_of(entry))?;
    Ok(losses)
}

/// Sets the flags that forbid changes, on what is otherwise done.
pub(super) fn lock(at: At<'_>, entry: &Entry) -> Result<Option<(Loss, String)>, Errno> {
    let locks = |(loss, reason)| match loss {
        Loss::Flags(flags) => (Loss::Locks(flags), reason),
        other => (other, reason),
    };
    Ok(set_flags(at, entry, entry.flags)?.map(locks))
}

/// Takes away the flags that forbid changes, and says which there were.
pub(super) fn unlock(at: At<'_>) -> Result<u32, Errno> {
    // Where flags cannot be asked for there are none.
    let flags = at.flags().unwrap_or(0);
    if flags & LOCKS != 0 {
        at.set_flags(flags & !LOCKS)?;
    }
    Ok(flags & LOCKS)
}

/// Gives back what [`unlock`] took away.
pub(super) fn relock(at: At<'_>, locks: u32) -> Result<(), Errno> {
    at.set_flags(at.flags()? | locks)
}

/// Owner and group as they are then, and the mode that is right for them.
fn set_owner(at: At<'_>, entry: &Entry, stat: &Stat) -> Result<(u32, u32, u16), Errno> {
    // The largest number means "leave it as it is" to the kernel, and is nobody's.
    let differs = |wanted: u32, is: u32| (wanted != is).then_some(wanted);
    let (uid, gid) = (differs(entry.uid, stat.st_uid), differs(entry.gid, stat.st_gid));
    let refused = |result| match result {
        Ok(()) => Ok(false),
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => Ok(true),
        Err(error) => Err(error),
    };
    if uid.is_none() && gid.is_none() || !refused(at.chown(uid, gid))? {
        return Ok((entry.uid, entry.gid, entry.mode));
    }
    // Whoever may not give files away may still give them to a group of his.
    let no_group = gid.is_some() && (uid.is_none() || refused(at.chown(None, gid))?);
    // Set-user-id with another owner than the snapshot's would grant what was never granted.
    let (mut is, mut mode) = ((entry.uid, entry.gid), entry.mode);
    if uid.is_some() {
        (is.0, mode) = (stat.st_uid, mode & !0o4000);
    }
    if no_group {
        (is.1, mode) = (stat.st_gid, mode & !0o2000);
    }
    Ok((is.0, is.1, mode))
}

/// Sets attributes and removes those that should not be; says whether that may have changed the
/// mode.
fn set_attributes(
    at: At<'_>,
    entry: &Entry,
    prior: Prior,
    losses: &mut Vec<(Loss, String)>,
) -> Result<bool, Errno> {
    let mut access = false;
    if prior == Prior::Any {
        for name in at.attribute_names()? {
            let name = name.to_bytes();
            let wanted = entry.attributes.iter().any(|attribute| attribute.name == name);
            if !wanted && is_wanted(name) {
                at.remove_attribute(name)?;
                access |= name == ACCESS;
            }
        }
    }
    for attribute in &entry.attributes {
        access |= attribute.name == ACCESS;
        match at.set_attribute(&attribute.name, &attribute.value) {
            Ok(()) => {}
            Err(
                error @ (Errno::PERM
                | Errno::ACCESS
                | Errno::OPNOTSUPP
                | Errno::NOSPC
                | Errno::RANGE
                | Errno::TOOBIG
                | Errno::INVAL),
            ) => {
                let name = String::from_utf8_lossy(&attribute.name);
                let reason = format!("its attribute {name} was not restored: {error}");
                losses.push((Loss::Attribute(attribute.name.clone()), reason));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(access)
}

fn set_flags(at: At<'_>, entry: &Entry, wanted: u32) -> Result<Option<(Loss, String)>, Errno> {
    let lost = |is: u32, error: Option<Errno>| {
        let reason = match error {
            Some(error) => format!("its flags (chattr) were not restored: {error}"),
            None => "its flags (chattr) were not all restored: the file system lacks some".into(),
        };
        // Locks come later, and may fail on their own.
        let later = if wanted == entry.flags { 0 } else { entry.flags & LOCKS };
        Ok(Some((Loss::Flags(is | later), reason)))
    };
    let before = match at.flags() {
        Ok(before) => before,
        Err(_) if wanted == 0 => return Ok(None),
        Err(error) => return lost(0, Some(error)),
    };
    if before & Entry::FLAGS == wanted {
        return Ok(None);
    }
    if let Err(error) = at.set_flags(before & !Entry::FLAGS | wanted) {
        return lost(before & Entry::FLAGS, Some(error));
    }
    let is = at.flags()? & Entry::FLAGS;
    if is == wanted { Ok(None) } else { lost(is, None) }
}

impl At<'_> {
    pub(super) fn stat(self) -> Result<Stat, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fstat(fd),
            Self::Named(folder, name) => {
                rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn chown(self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(Errno::INVAL);
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::Named(folder, name) => {
                rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    /// Never of a symbolic link, which a name would follow.
    fn chmod(self, mode: u16) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode.into());
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Named(folder, name) => rustix::fs::chmodat(folder, name, mode, AtFlags::empty()),
        }
    }

    fn set_time(self, time: Timespec) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &modified(time)),
            Self::Named(folder, name) => {
                rustix::fs::utimensat(folder, name, &modified(time), AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn set_attribute(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Named(folder, file) => {
                rustix::fs::lsetxattr(path(folder, file), name, value, XattrFlags::empty())
            }
        }
    }

    fn remove_attribute(self, name: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Self::Named(folder, file) => rustix::fs::lremovexattr(path(folder, file), name),
        }
    }

    /// The names of all attributes; none where the file system has no attributes.
    fn attribute_names(self) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::with_capacity(64 << 10);
        let result = match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, spare_capacity(&mut names)),
            Self::Named(folder, file) => {
                rustix::fs::llistxattr(path(folder, file), spare_capacity(&mut names))
            }
        };
        match result {
            Ok(_) => {}
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        Ok(names.filter_map(|name| CString::new(name).ok()).collect())
    }

    fn flags(self) -> Result<u32, Errno> {
        Ok(rustix::fs::ioctl_getflags(self.opened()?.as_fd())?.bits())
    }

    fn set_flags(self, flags: u32) -> Result<(), Errno> {
        rustix::fs::ioctl_setflags(self.opened()?.as_fd(), IFlags::from_bits_retain(flags))
    }

    fn opened(&self) -> Result<Opened<'_>, Errno> {
        match *self {
            Self::Open(fd) => Ok(Opened::Lent(fd)),
            Self::Named(folder, name) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                Ok(Opened::Owned(rustix::fs::openat(folder, name, flags, Mode::empty())?))
            }
        }
    }
}

enum Opened<'a> {
    Lent(BorrowedFd<'a>),
    Owned(OwnedFd),
}

impl Opened<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Lent(fd) => *fd,
            Self::Owned(fd) => fd.as_fd(),
        }
    }
}

/// The path of a file in an open directory: attributes of what cannot be opened have no call that
/// takes a descriptor of the directory.
fn path(folder: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}

/// Sets the time of modification and leaves that of access.
pub(super) fn modified(time: Timespec) -> Timestamps {
    let leave = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Timestamps { last_access: leave, last_modification: time }
}

/// The time of modification in `stat`.
pub(super) fn mtime_of(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

fn time_of(entry: &Entry) -> Timespec {
    Timespec { tv_sec: entry.mtime.seconds, tv_nsec: entry.mtime.nanoseconds.into() }
}

/// Rids a folder that was just made of what it has from its parent and would hand down: a default
/// list of access control, and flags.
pub(super) fn hand_nothing_down(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    let at = At::Open(folder);
    for name in at.attribute_names()? {
        if name.to_bytes().starts_with(b"system.posix_acl_") {
            at.remove_attribute(name.to_bytes())?;
        }
    }
    match at.flags() {
        Ok(flags) if flags & Entry::FLAGS != 0 => at.set_flags(flags & !Entry::FLAGS),
        // A file system without flags hands none down.
        _ => Ok(()),
    }
}
