//! Writes single files with all that an entry says of them.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::path::display_key;
use super::{Entry, EntryKind, FilesError};

/// Writing a file failed: on one side or the other.
pub(super) enum WriteError {
    Read(io::Error),
    Write(io::Error),
}

impl WriteError {
    pub(super) fn at(self, key: &[u8], path: PathBuf) -> FilesError {
        match self {
            Self::Read(source) => FilesError::Content { path: display_key(key), source },
            Self::Write(source) => FilesError::Target { doing: "write", path, source },
        }
    }
}

impl From<Errno> for WriteError {
    fn from(error: Errno) -> Self {
        Self::Write(error.into())
    }
}

/// Writes files, and remembers whether owners could be set, which only the superuser may do.
#[derive(Debug)]
pub(super) struct FileWriter {
    buffer: Vec<u8>,
    pub(super) owners_refused: bool,
}

impl FileWriter {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; 256 * 1024], owners_refused: false }
    }

    /// Creates a file or link of this name, with owner, mode and times.
    pub(super) fn write(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &str,
        entry: &Entry,
        mut bytes: impl Read,
    ) -> Result<(), WriteError> {
        if let EntryKind::Symlink { target } = &entry.kind {
            rustix::fs::symlinkat(target.as_slice(), folder, name)?;
            let (uid, gid) = owner(entry);
            self.note(rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
            let times = modified(time_of(entry));
            return Ok(rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?);
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(folder, name, flags, mode)?);
        loop {
            match bytes.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => file.write_all(&self.buffer[..count]).map_err(WriteError::Write)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WriteError::Read(error)),
            }
        }
        Ok(self.set_metadata(file.as_fd(), entry)?)
    }

    /// Gives an open file or directory the owner, mode and time of `entry`, in this order: a
    /// change of owner clears set-user-id, and any change of content the time.
    pub(super) fn set_metadata(
        &mut self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
    ) -> rustix::io::Result<()> {
        let (uid, gid) = owner(entry);
        let owned = self.note(rustix::fs::fchown(fd, uid, gid))?;
        // Set-user-id with another owner than the snapshot's would grant what was never granted.
        let mode = if owned { entry.mode } else { entry.mode & 0o1777 };
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode.into()))?;
        rustix::fs::futimens(fd, &modified(time_of(entry)))
    }

    /// Whether the owner was set; being refused is no failure.
    fn note(&mut self, result: rustix::io::Result<()>) -> rustix::io::Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::INVAL) => {
                self.owners_refused = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
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

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    // The largest number means "leave it as it is" to the kernel, and is nobody's.
    let known = |id: u32| (id != u32::MAX).then_some(id);
    (known(entry.uid).map(Uid::from_raw), known(entry.gid).map(Gid::from_raw))
}
