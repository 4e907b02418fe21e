//! Writes single files: what is not a directory, in a folder that nobody else writes to.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::losses::Loss;
use super::metadata::{self, At, Prior};
use super::{Device, Entry, EntryKind};

/// A run of zeros of this length, so aligned, becomes a hole.
const HOLE: u64 = 4096;

/// Makes a link, pipe, socket or device, with its metadata. What the user may not make is a loss
/// of the whole entry.
pub(super) fn special(
    folder: BorrowedFd<'_>,
    name: &CStr,
    entry: &Entry,
) -> Result<Vec<(Loss, String)>, Errno> {
    let node = |file_type: FileType, device: Device| {
        let device = rustix::fs::makedev(device.major, device.minor);
        rustix::fs::mknodat(folder, name, file_type, Mode::RUSR | Mode::WUSR, device)
    };
    let none = Device { major: 0, minor: 0 };
    let made = match &entry.kind {
        EntryKind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), folder, name),
        EntryKind::Fifo => node(FileType::Fifo, none),
        EntryKind::Socket => node(FileType::Socket, none),
        EntryKind::CharacterDevice(device) => node(FileType::CharacterDevice, *device),
        EntryKind::BlockDevice(device) => node(FileType::BlockDevice, *device),
        EntryKind::Directory | EntryKind::File => Err(Errno::INVAL),
    };
    match made {
        Ok(()) => {
            let at = At::Named(folder, name);
            metadata::set(at, entry, &at.stat()?, Prior::Fresh)
        }
        Err(error @ (Errno::PERM | Errno::OPNOTSUPP)) => {
            let kind = match &entry.kind {
                EntryKind::Symlink { .. } => "symbolic link",
                EntryKind::Fifo => "named pipe",
                EntryKind::Socket => "socket",
                _ => "device",
            };
            Ok(vec![(Loss::Entry, format!("this {kind} could not be made: {error}"))])
        }
        Err(error) => Err(error),
    }
}

/// Opens a file to write a part of it; makes it with this mode if there is none.
pub(super) fn open(folder: BorrowedFd<'_>, name: &CStr, mode: u16) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(u32::from(mode) & 0o777);
    Ok(rustix::fs::openat(folder, name, flags, mode)?.into())
}

/// Writes a run of bytes of a file, but for zeros that can be a hole.
pub(super) fn run(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut data = 0..0;
    let mut from = 0;
    while from < bytes.len() {
        // Up to the next boundary of blocks in the file.
        let rest = HOLE - (offset + from as u64) % HOLE;
        let to = usize::try_from(rest).map_or(bytes.len(), |rest| bytes.len().min(from + rest));
        let hole = (to - from) as u64 == HOLE && is_zero(&bytes[from..to]);
        if hole && !data.is_empty() {
            file.write_all_at(&bytes[data.clone()], offset + data.start as u64)?;
        }
        data = if hole { to..to } else { data.start..to };
        from = to;
    }
    if data.is_empty() {
        return Ok(());
    }
    file.write_all_at(&bytes[data.clone()], offset + data.start as u64)
}

/// Copies a file from its beginning, and says how long it is.
pub(super) fn copy(from: &File, to: &File) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        match from.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(offset),
            Ok(count) => {
                run(to, offset, &buffer[..count])?;
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether there is nothing but zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Each byte equal to the one before it, compared in bulk.
    bytes.split_first().is_none_or(|(first, rest)| *first == 0 && rest == &bytes[..rest.len()])
}

/// Gives a file whose bytes are all written its length and its metadata.
pub(super) fn finish(
    file: &OwnedFd,
    entry: &Entry,
    length: u64,
    prior: Prior,
) -> Result<Vec<(Loss, String)>, Errno> {
    let stat = rustix::fs::fstat(file)?;
    if u64::try_from(stat.st_size) != Ok(length) {
        rustix::fs::ftruncate(file, length)?;
    }
    metadata::set(At::Open(file.as_fd()), entry, &stat, prior)
}
