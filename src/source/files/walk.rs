//! Walks a directory tree in the order of keys: depth first, names sorted, through directory
//! descriptors, so that a directory moved or replaced by a link meanwhile leads nowhere else.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::FilesError;
use super::entry::file_type;
use super::path::{LONGEST_KEY, child, display_key};
use super::select::{Choice, Selection};
use crate::context::Context;
use crate::report::Event;
use crate::tree::Key;

/// Names at the root that begin so are staging folders of a restore, never content.
pub(super) const STAGING_PREFIX: &str = ".coeval-restore-";

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Something that the walk came to.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    pub(super) stat: Stat,
    /// Its name in the directory that the walk is in.
    name: CString,
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
    current: Option<Found>,
}

#[derive(Debug)]
struct Level {
    fd: OwnedFd,
    key: Key,
    names: std::vec::IntoIter<CString>,
}

impl<'a> Walk<'a> {
    /// Begins at an open root; fails if the root cannot be listed, for then nothing is known.
    pub(super) fn new(
        root: OwnedFd,
        selection: &'a mut Selection,
        ctx: &'a Context,
    ) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&root)?;
        let mut choice = selection.begin(&stat, ctx).map_err(io::Error::other)?;
        let mut names = list(&root, b"", &mut choice)?;
        names.retain(|name| !name.to_bytes().starts_with(STAGING_PREFIX.as_bytes()));
        let level = Level { names: names.into_iter(), fd: root, key: Key::new() };
        // The root itself is an entry only where everything below it belongs to the source.
        let current = choice.has_root().then(|| Found {
            key: Key::new(),
            stat,
            name: c".".to_owned(),
            wanted: true,
            descend: false,
        });
        Ok(Self { ctx, choice, levels: vec![level], current })
    }

    /// What the walk is at, until it is taken; `None` at the end.
    pub(super) fn peek(&mut self) -> Option<&Found> {
        while self.current.is_none() {
            let level = self.levels.last_mut()?;
            match level.names.next() {
                None => drop(self.levels.pop()),
                Some(name) => self.current = self.look_at(name),
            }
        }
        self.current.as_ref()
    }

    /// Goes on past what was found: into it, if it is a directory.
    pub(super) fn pass(&mut self, found: &Found) {
        if !found.descend {
            return;
        }
        let Some(level) = self.levels.last() else { return };
        let opened = rustix::fs::openat(&level.fd, &found.name, DIRECTORY, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|fd| {
                let names = list(&fd, &found.key, &mut self.choice)?.into_iter();
                Ok(Level { names, fd, key: found.key.clone() })
            });
        match opened {
            Ok(level) => self.levels.push(level),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.skip(&found.key, &format!("cannot be listed: {error}")),
        }
    }

    /// Takes what [`Walk::peek`] showed.
    pub(super) fn take(&mut self) -> Option<Found> {
        self.current.take()
    }

    /// Opens the regular file that was found and not yet passed.
    pub(super) fn open(&self, found: &Found) -> io::Result<File> {
        // NONBLOCK: opening a FIFO that took the file's place must not wait for a writer.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(rustix::fs::openat(self.here()?, &found.name, flags, Mode::empty())?.into())
    }

    /// The target of the symbolic link that was found and not yet passed.
    pub(super) fn read_link(&self, found: &Found) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(self.here()?, &found.name, Vec::new())?.into_bytes())
    }

    /// Nothing will be reported that was asked for and is not there.
    pub(super) fn expect_nothing(&mut self) {
        self.choice.expect_nothing();
    }

    /// Reports what was asked for and is not there, and what was left out.
    pub(super) fn finish(&mut self) -> Result<(), FilesError> {
        self.choice.finish()
    }

    pub(super) fn skip(&self, key: &[u8], reason: &str) {
        self.ctx.report(Event::Skipped { item: display_key(key), reason: reason.to_owned() });
    }

    fn here(&self) -> io::Result<BorrowedFd<'_>> {
        self.levels.last().map(|level| level.fd.as_fd()).ok_or(io::ErrorKind::NotFound.into())
    }

    /// The entry with this name, if it belongs to the source.
    fn look_at(&mut self, name: CString) -> Option<Found> {
        let level = self.levels.last()?;
        let key = child(&level.key, name.as_bytes());
        let wanted = self.choice.wanted(&key);
        if !wanted.itself && !wanted.below {
            return None;
        }
        if key.len() > LONGEST_KEY {
            self.skip(&key, "its path is too long");
            return None;
        }
        let stat = match rustix::fs::statat(&level.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Deleted since it was listed.
            Err(rustix::io::Errno::NOENT) => return None,
            Err(error) => {
                self.skip(&key, &format!("cannot be looked at: {}", io::Error::from(error)));
                return None;
            }
        };
        if self.choice.leaves_out(&key, &stat) {
            return None;
        }
        let directory = file_type(&stat) == FileType::Directory;
        let descend = directory && wanted.below && !self.choice.is_beyond(&key, &stat);
        let found = Found { key, stat, name, wanted: wanted.itself, descend };
        if self.is_entry(&found) {
            return Some(found);
        }
        self.pass(&found);
        None
    }

    /// Whether what was found is itself an entry; says why not, where that is no matter of course.
    fn is_entry(&self, found: &Found) -> bool {
        let kind = file_type(&found.stat);
        let by_pattern = self.choice.is_by_pattern();
        match kind {
            _ if !found.wanted => false,
            FileType::Directory if by_pattern && found.descend => false,
            FileType::Directory if by_pattern => {
                self.skip(&found.key, "is a directory; add `/**` for all files in it");
                false
            }
            FileType::Symlink if by_pattern => {
                self.skip(&found.key, "is a symbolic link; name the file it points to");
                false
            }
            FileType::RegularFile | FileType::Directory | FileType::Symlink => true,
            _ => {
                self.skip(&found.key, &format!("not captured: is a {}", special(kind)));
                false
            }
        }
    }
}

/// Opens the root of a walk, itself reached through links if need be.
pub(super) fn open_root(path: &std::path::Path) -> Result<OwnedFd, FilesError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| FilesError::Root { path: path.to_owned(), source: error.into() })
}

/// The names in the directory with this key, sorted.
fn list(fd: &OwnedFd, key: &[u8], choice: &mut Choice<'_>) -> io::Result<Vec<CString>> {
    if let Some(tag) = choice.tag(key, fd) {
        return Ok(vec![tag]);
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "file of an unknown kind",
    }
}
