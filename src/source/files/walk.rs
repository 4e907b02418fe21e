//! Walks a directory tree in the order of keys: depth first, names sorted, through directory
//! descriptors, so that a directory moved or replaced by a link meanwhile leads nowhere else, and
//! a path may be longer than the kernel takes.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::FilesError;
use super::entry::file_type;
use super::listing::Listing;
use super::path::{LONGEST_KEY, display_key};
use super::select::{Choice, Selection};
use crate::context::Context;
use crate::report::Event;
use crate::tree::Key;

/// Names at the root that begin so are staging folders of a restore, never content.
pub(super) const STAGING_PREFIX: &str = ".coeval-restore-";

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How many directories are held open: the root and the deepest ones.
const OPEN: usize = 64;
/// Bytes of names that are kept in memory, for all directories on the way together.
const NAMES: usize = 64 << 20;
/// Bytes of names of one directory that always are.
const NAMES_OF_ONE: usize = 64 << 10;
/// What the kernel fills with names at once.
const BUFFER: usize = 64 << 10;

/// Something that the walk came to. Its key is [`Walk::key`] until the walk goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) stat: Stat,
    /// Whether it belongs to the source, its type aside.
    wanted: bool,
    /// Whether the walk goes into it.
    descend: bool,
}

#[derive(Debug)]
pub(super) struct Walk<'a> {
    ctx: &'a Context,
    choice: Choice<'a>,
    /// The directories from the root to where the walk is.
    levels: Vec<Level>,
    /// Bytes of names that they hold.
    names: usize,
    /// The key of what the walk is at.
    key: Key,
    current: Option<Found>,
    buffer: Box<[MaybeUninit<u8>]>,
}

#[derive(Debug)]
struct Level {
    /// `None` while the walk is far below.
    fd: Option<OwnedFd>,
    /// Device and inode.
    identity: (u64, u64),
    /// How much of the walk's key is that of the directory.
    key: usize,
    names: Listing,
    /// Bytes of names that were there in the beginning.
    memory: usize,
}

impl<'a> Walk<'a> {
    /// Begins at an open root; fails if the root cannot be listed, for then nothing is known.
    pub(super) fn new(
        root: OwnedFd,
        selection: &'a mut Selection,
        ctx: &'a Context,
    ) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&root)?;
        let choice = selection.begin(&stat, ctx).map_err(io::Error::other)?;
        let mut walk = Self {
            ctx,
            levels: Vec::new(),
            names: 0,
            key: Key::new(),
            current: choice.has_root().then_some(Found { stat, wanted: true, descend: false }),
            choice,
            buffer: vec![MaybeUninit::uninit(); BUFFER].into_boxed_slice(),
        };
        walk.push(root, &stat)?;
        Ok(walk)
    }

    /// The key of what the walk is at, until it is taken; `None` at the end.
    pub(super) fn peek(&mut self) -> Option<&[u8]> {
        while self.current.is_none() {
            let level = self.levels.last_mut()?;
            self.key.truncate(level.key);
            if level.key > 0 {
                self.key.push(0);
            }
            let start = self.key.len();
            match level.names.next(&mut self.key) {
                Ok(Some(kind)) => {
                    self.current = self.look_at(start, kind);
                }
                Ok(None) => self.leave(),
                Err(error) => {
                    level.names = Listing::empty();
                    self.key.truncate(level.key);
                    self.skip(&format!("cannot be listed: {error}"));
                }
            }
        }
        Some(&self.key)
    }

    /// Takes what [`Walk::peek`] showed.
    pub(super) fn take(&mut self) -> Option<Found> {
        self.current.take()
    }

    /// The key of what was taken last.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Goes on past what was taken: into it, if it is a directory. Gives the open directory.
    pub(super) fn pass(&mut self, found: &Found) -> Option<BorrowedFd<'_>> {
        if !found.descend {
            // Of all directories only the root is a level before it is passed.
            let is_root = self.key.is_empty() && self.levels.len() == 1;
            return if is_root { self.top() } else { None };
        }
        let opened = self.here().and_then(|(directory, name)| {
            Ok(rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?)
        });
        match opened.and_then(|fd| self.push(fd, &found.stat)) {
            Ok(()) => return self.top(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.skip(&format!("cannot be listed: {error}")),
        }
        None
    }

    /// Opens the regular file that was taken and not yet passed.
    pub(super) fn open(&self) -> io::Result<File> {
        // NONBLOCK: opening a FIFO that took the file's place must not wait for a writer.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let (directory, name) = self.here()?;
        Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?.into())
    }

    /// The target of the symbolic link that was taken and not yet passed.
    pub(super) fn read_link(&self) -> io::Result<Vec<u8>> {
        let (directory, name) = self.here()?;
        Ok(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes())
    }

    /// A short path of what was taken and not yet passed, for calls that know no directories.
    pub(super) fn short_path(&self) -> io::Result<CString> {
        let (directory, name) = self.here()?;
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        Ok(CString::new(path)?)
    }

    #[cfg(test)]
    pub(super) fn open_directories(&self) -> usize {
        self.levels.iter().filter(|level| level.fd.is_some()).count()
    }

    /// Nothing will be reported that was asked for and is not there.
    pub(super) fn expect_nothing(&mut self) {
        self.choice.expect_nothing();
    }

    /// Reports what was asked for and is not there, and what was left out.
    pub(super) fn finish(&mut self) -> Result<(), FilesError> {
        self.choice.finish()
    }

    /// Reports that what the walk is at is missing, or something of it.
    pub(super) fn skip(&self, reason: &str) {
        let item = display_key(&self.key);
        self.ctx.report(Event::Skipped { item, reason: reason.to_owned() });
    }

    /// The directory that the walk is in, and the name there of what it is at.
    fn here(&self) -> io::Result<(BorrowedFd<'_>, &[u8])> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let level = self.levels.last().ok_or_else(gone)?;
        let start = if level.key == 0 { 0 } else { level.key + 1 };
        let name = self.key.get(start..).ok_or_else(gone)?;
        Ok((level.fd.as_ref().ok_or_else(gone)?.as_fd(), name))
    }

    fn top(&self) -> Option<BorrowedFd<'_>> {
        self.levels.last()?.fd.as_ref().map(OwnedFd::as_fd)
    }

    /// Lists an open directory, whose key is the walk's, and goes into it.
    fn push(&mut self, fd: OwnedFd, stat: &Stat) -> io::Result<()> {
        let budget = NAMES.saturating_sub(self.names).max(NAMES_OF_ONE);
        let names = match self.choice.tag(&self.key, &fd) {
            Some(tag) => Listing::only(tag.as_bytes()),
            None => Listing::read(fd.as_fd(), budget, &mut self.buffer)?,
        };
        let memory = names.memory();
        self.names += memory;
        let identity = (stat.st_dev, stat.st_ino);
        self.levels.push(Level { fd: Some(fd), identity, key: self.key.len(), names, memory });
        // The root stays open: a way back from wherever the others were moved.
        if let Some(far) = self.levels.len().checked_sub(OPEN + 1)
            && far > 0
        {
            self.levels[far].fd = None;
        }
        Ok(())
    }

    /// Goes back up from a directory that is done.
    fn leave(&mut self) {
        let Some(done) = self.levels.pop() else { return };
        let Some(level) = self.levels.last() else { return };
        self.names -= done.memory;
        if level.fd.is_some() {
            return;
        }
        self.key.truncate(level.key);
        let reopened = self.reopen(level, done.fd);
        if let Err(error) = &reopened {
            self.skip(&format!("cannot be gone on with: {error}"));
        }
        if let Some(level) = self.levels.last_mut() {
            match reopened {
                Ok(fd) => level.fd = Some(fd),
                Err(_) => level.names = Listing::empty(),
            }
        }
    }

    /// Opens a directory again from one that was found in it, or, if that was moved elsewhere,
    /// from the root.
    fn reopen(&self, level: &Level, below: Option<OwnedFd>) -> io::Result<OwnedFd> {
        let open = |directory: BorrowedFd<'_>, name: &[u8]| {
            rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())
        };
        let is_it = |fd: &OwnedFd| {
            rustix::fs::fstat(fd).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == level.identity)
        };
        let above = below.and_then(|below| open(below.as_fd(), b"..").ok());
        if let Some(above) = above.filter(is_it) {
            return Ok(above);
        }
        let root = self.levels.first().and_then(|root| root.fd.as_ref());
        let root = root.ok_or(io::ErrorKind::NotFound)?;
        let mut fd = open(root.as_fd(), b".")?;
        for name in self.key[..level.key].split(|&byte| byte == 0) {
            fd = open(fd.as_fd(), name)?;
        }
        if is_it(&fd) { Ok(fd) } else { Err(io::Error::other("another took its place")) }
    }

    /// What has this name, from `start` of the key on, if it belongs to the source. `kind` is what
    /// its directory says, if it does.
    fn look_at(&mut self, start: usize, kind: FileType) -> Option<Found> {
        if self.levels.len() == 1 && self.key.starts_with(STAGING_PREFIX.as_bytes()) {
            return None;
        }
        let wanted = self.choice.wanted(&self.key);
        let is_no_directory = !matches!(kind, FileType::Directory | FileType::Unknown);
        if !wanted.itself && (!wanted.below || is_no_directory) {
            return None;
        }
        if self.key.len() > LONGEST_KEY {
            self.skip("its path is too long");
            return None;
        }
        let directory = self.top()?;
        let name = &self.key[start..];
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Deleted since it was listed.
            Err(Errno::NOENT) => return None,
            Err(error) => {
                self.skip(&format!("cannot be looked at: {}", io::Error::from(error)));
                return None;
            }
        };
        if self.choice.leaves_out(&self.key, &stat) {
            return None;
        }
        let descend = file_type(&stat) == FileType::Directory
            && wanted.below
            && !self.choice.is_beyond(&self.key, &stat);
        let found = Found { stat, wanted: wanted.itself, descend };
        if self.is_entry(&found) {
            return Some(found);
        }
        self.pass(&found);
        None
    }

    /// Whether what was found is itself an entry; says why not, where that is no matter of course.
    fn is_entry(&self, found: &Found) -> bool {
        let kind = file_type(&found.stat);
        if !found.wanted {
            return false;
        }
        if !self.choice.is_by_pattern() {
            return true;
        }
        match kind {
            FileType::RegularFile => return true,
            FileType::Directory if found.descend => {}
            FileType::Directory => self.skip("is a directory; add `/**` for all files in it"),
            FileType::Symlink => self.skip("is a symbolic link; name the file it points to"),
            _ => self.skip("is no regular file"),
        }
        false
    }
}

/// Opens the root of a walk, itself reached through links if need be.
pub(super) fn open_root(path: &std::path::Path) -> Result<OwnedFd, FilesError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| FilesError::Root { path: path.to_owned(), source: error.into() })
}
