//! The folder in which a restore gets everything ready: a mirror of the target, in which each new
//! file and folder lies under the path that it will have.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::spool::Spool;
use super::entry::file_type;
use super::losses::{Loss, Losses};
use super::metadata::{self, At, modified, mtime_of};
use super::path::{display_key, names, path_bytes};
use super::walk::{STAGING_PREFIX, open_root};
use super::{Entry, FilesError};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::hex;

/// A restore under way.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) path: PathBuf,
    pub(super) root: OwnedFd,
    /// The root as it was before the staging folder was made.
    pub(super) before: Stat,
    made_root: bool,
    pub(super) name: String,
    pub(super) folder: OwnedFd,
    /// That of a restore that was cut short.
    pub(super) left: Option<Left>,
    /// What to do, in the order of keys. What is put and is no folder is staged.
    pub(super) journal: Spool,
    /// What the target does not take.
    pub(super) losses: Losses,
}

/// The staging folder that a dead restore left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) name: String,
    /// Locked, so that nobody else takes it.
    pub(super) folder: OwnedFd,
}

impl Staging {
    pub(super) fn new(root: &Path, ctx: &Context) -> Result<Self, FilesError> {
        let error = |doing| {
            let path = root.to_owned();
            move |source| FilesError::Target { doing, path, source }
        };
        let made_root = fs::symlink_metadata(root).is_err();
        fs::create_dir_all(root).map_err(error("create"))?;
        let fd = open_root(root)?;
        let before = rustix::fs::fstat(&fd).map_err(|e| error("look at")(e.into()))?;
        let left = find_left(root, &fd)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|source| error("stage in")(io::Error::other(source)))?;
        let name = format!("{STAGING_PREFIX}{}", hex(&random));
        let folder = rustix::fs::mkdirat(&fd, name.as_str(), Mode::RWXU)
            .and_then(|()| {
                let folder = open_directory(fd.as_fd(), name.as_str())?;
                rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
                metadata::hand_nothing_down(folder.as_fd())?;
                // The folder must not show in what `as_source` says of the root.
                rustix::fs::futimens(&fd, &modified(mtime_of(&before)))?;
                Ok(folder)
            })
            .map_err(|e| error("stage in")(e.into()))?;
        Ok(Self {
            path: root.to_owned(),
            root: fd,
            before,
            made_root,
            name,
            folder,
            left,
            journal: Spool::new(),
            losses: Losses::new(ctx),
        })
    }

    /// The path of a key in the target.
    pub(super) fn at(&self, key: &[u8]) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(&path_bytes(key)))
    }

    pub(super) fn error(
        &self,
        key: &[u8],
        doing: &'static str,
        source: impl Into<io::Error>,
    ) -> FilesError {
        FilesError::Target { doing, path: self.at(key), source: source.into() }
    }

    /// Notes what the target refused of an entry.
    pub(super) fn note(
        &self,
        key: &[u8],
        losses: impl IntoIterator<Item = (Loss, String)>,
    ) -> Result<(), FilesError> {
        losses.into_iter().try_for_each(|(loss, reason)| self.losses.add(key, &loss, &reason))
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<(), FilesError> {
        rustix::fs::syncfs(&self.root).map_err(|error| FilesError::Target {
            doing: "sync",
            path: self.path.clone(),
            source: error.into(),
        })
    }

    /// Removes what a dead restore left, when all that was of use has been taken over.
    pub(super) fn remove_left(&mut self) -> Result<(), FilesError> {
        let Some(Left { name, folder }) = self.left.take() else { return Ok(()) };
        remove_tree(&self.root, &name, &folder)
            .and_then(|()| rustix::fs::futimens(&self.root, &modified(mtime_of(&self.before))))
            .map_err(|error| self.error(b"", "remove an old staging folder in", error))
    }

    /// Removes the staging folder and gives the root its time back.
    pub(super) fn remove(&self) -> Result<(), FilesError> {
        remove_tree(&self.root, &self.name, &self.folder)
            .and_then(|()| rustix::fs::futimens(&self.root, &modified(mtime_of(&self.before))))
            .map_err(|error| FilesError::Target {
                doing: "remove the staging folder in",
                path: self.path.clone(),
                source: error.into(),
            })
    }

    /// Leaves the target as it was before.
    pub(super) fn abandon(&self) -> Result<(), Failure> {
        self.remove()?;
        if self.made_root {
            fs::remove_dir(&self.path).map_err(|source| FilesError::Target {
                doing: "remove",
                path: self.path.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

pub(super) fn decode(key: &[u8], head: &[u8]) -> Result<Entry, FilesError> {
    Entry::decode(head).map_err(|source| FilesError::Entry { path: display_key(key), source })
}

/// Opens a directory, but never through a link.
pub(super) fn open_directory(
    folder: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// The directory that a key lies in, below `root` and reached without links, and the key's name
/// in it; `None` for the root itself, which lies in none.
pub(super) fn open_parent(
    root: BorrowedFd<'_>,
    key: &[u8],
) -> Result<Option<(OwnedFd, CString)>, Errno> {
    let Ok(mut path) = names(key) else { return Err(Errno::INVAL) };
    let Some(name) = path.pop() else { return Ok(None) };
    let mut folder = open_directory(root, c".")?;
    for name in path {
        folder = open_directory(folder.as_fd(), name.as_c_str())?;
    }
    Ok(Some((folder, name)))
}

/// Finds the staging folder of a restore that was cut short; fails if the restore is alive. There
/// can be several if such folders were copied: all but one are removed.
fn find_left(path: &Path, root: &OwnedFd) -> Result<Option<Left>, FilesError> {
    let error = |source: io::Error| FilesError::Target {
        doing: "look for an old staging folder in",
        path: path.to_owned(),
        source,
    };
    let mut left: Option<Left> = None;
    for entry in Dir::read_from(root).map_err(|e| error(e.into()))? {
        let entry = entry.map_err(|e| error(e.into()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(STAGING_PREFIX) {
            continue;
        }
        let folder = open_directory(root.as_fd(), name.as_str()).map_err(|e| error(e.into()))?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if left.is_none() => left = Some(Left { name, folder }),
            Ok(()) => remove_tree(root, &name, &folder).map_err(|e| error(e.into()))?,
            Err(Errno::WOULDBLOCK) => return Err(FilesError::Busy { path: path.to_owned() }),
            Err(e) => return Err(error(e.into())),
        }
    }
    Ok(left)
}

/// Removes a folder with all that is in it, whatever flags and modes stand in the way.
fn remove_tree(parent: &OwnedFd, name: &str, folder: &OwnedFd) -> rustix::io::Result<()> {
    let mut path = vec![(Dir::read_from(folder)?, CString::default())];
    while let Some((dir, _)) = path.last_mut() {
        let Some(entry) = dir.next() else {
            let name = path.pop().map(|(_, name)| name).unwrap_or_default();
            if let Some((dir, _)) = path.last() {
                rustix::fs::unlinkat(dir.fd()?, &name, AtFlags::REMOVEDIR)?;
            }
            continue;
        };
        let (entry, here) = (entry?, dir.fd()?);
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match open_removable(here, name)? {
            Some(below) => {
                let below = Dir::new(below)?;
                path.push((below, name.to_owned()));
            }
            None => unlink(here, name)?,
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Opens a directory so that its entries can be removed; `None` if it is not one.
fn open_removable(folder: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Option<OwnedFd>> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !file_type(&stat).is_dir() {
        return Ok(None);
    }
    if stat.st_mode & 0o700 != 0o700 {
        rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
    }
    let below = open_directory(folder, name)?;
    metadata::unlock(At::Open(below.as_fd()))?;
    Ok(Some(below))
}

/// Removes a file, even one that is locked against it.
fn unlink(folder: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::PERM) if metadata::unlock(At::Named(folder, name))? != 0 => {
            rustix::fs::unlinkat(folder, name, AtFlags::empty())
        }
        result => result,
    }
}
