//! Moves what is staged into place: one pass over the journal, in the order of keys, which is a
//! walk of the tree. A new folder is moved with all that is in it, a file below a folder that
//! exists by itself. The directories on the way are held open, entered without following links,
//! and finished when the walk leaves them: children before parents, in memory that depends on the
//! depth alone.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::spool::Spool;
use super::entry::file_type;
use super::losses::Loss;
use super::metadata::{self, At, LOCKS, Prior, modified, mtime_of};
use super::path::{child, display_key, is_below, names};
use super::staging::{Staging, decode, open_directory, open_parent};
use super::{Entry, EntryKind, FilesError, write};
use crate::tree::Key;

/// Does all that is in the journal, and removes the staging folder.
pub(super) fn run(staging: &mut Staging) -> Result<(), FilesError> {
    let mut journal = std::mem::replace(&mut staging.journal, Spool::new());
    let done = place_all(staging, &mut journal);
    staging.journal = journal;
    done
}

fn place_all(staging: &Staging, journal: &mut Spool) -> Result<(), FilesError> {
    let open = |fd: &OwnedFd| fd.try_clone().map_err(|e| staging.error(b"", "open", e));
    let top = Level {
        fd: open(&staging.root)?,
        staged: Some(open(&staging.folder)?),
        key: Key::new(),
        name: c".".to_owned(),
        before: staging.before,
        locks: 0,
        touched: true,
        then: Then::Leave,
    };
    let mut commit = Commit { staging, levels: vec![top], moved: None, locked: false };
    let spool = |source| FilesError::Spool { source };
    for step in journal.read().map_err(spool)? {
        let (key, head) = step.map_err(spool)?;
        let entry = head.map(|head| decode(&key, &head)).transpose()?;
        commit.step(&key, entry)?;
    }
    let locked = commit.locked;
    commit.finish()?;
    if locked {
        lock_all(staging, journal)?;
    }
    staging.losses.report_owners();
    Ok(())
}

/// Sets the flags that forbid changes, now that there are no more.
fn lock_all(staging: &Staging, journal: &mut Spool) -> Result<(), FilesError> {
    let spool = |source| FilesError::Spool { source };
    for step in journal.read().map_err(spool)? {
        let (key, Some(head)) = step.map_err(spool)? else { continue };
        let entry = decode(&key, &head)?;
        if entry.flags & LOCKS == 0 {
            continue;
        }
        let lost = open_parent(staging.root.as_fd(), &key).and_then(|place| match place {
            Some((folder, name)) => metadata::lock(At::Named(folder.as_fd(), &name), &entry),
            None => metadata::lock(At::Open(staging.root.as_fd()), &entry),
        });
        staging.note(&key, lost.map_err(|e| staging.error(&key, "set the flags of", e))?)?;
    }
    Ok(())
}

struct Commit<'a> {
    staging: &'a Staging,
    /// From the root to where the walk is; never empty until the end.
    levels: Vec<Level>,
    /// The folder that was moved last, with all that is below it.
    moved: Option<Key>,
    /// Whether there are entries with flags that forbid changes.
    locked: bool,
}

/// A directory that the walk is in.
struct Level {
    fd: OwnedFd,
    /// Its mirror, if anything is staged in it.
    staged: Option<OwnedFd>,
    key: Key,
    name: CString,
    before: Stat,
    /// Flags that had to be taken away for the changes.
    locks: u32,
    /// Whether its entries, and so its times, are changed.
    touched: bool,
    then: Then,
}

/// What to do on leaving a directory.
enum Then {
    /// Nothing of its own was asked: it gets back the time that changes in it have taken.
    Leave,
    /// Gives it this metadata, which is all it has if it is new.
    Set(Entry),
    /// Removes it.
    Remove,
    /// Puts what is staged in its place.
    Replace(Entry),
}

impl Commit<'_> {
    fn step(&mut self, key: &[u8], entry: Option<Entry>) -> Result<(), FilesError> {
        self.locked |= entry.as_ref().is_some_and(|entry| entry.flags & LOCKS != 0);
        if self.moved.as_ref().is_some_and(|moved| is_below(key, moved)) {
            return Ok(());
        }
        let mut path = names(key)?;
        let Some(name) = path.pop() else { return self.step_root(entry) };
        if !self
            .enter_parents(&path, if entry.is_some() { Missing::Make } else { Missing::Leave })?
        {
            return Ok(());
        }
        let at = |error: Errno| self.error(key, "change", error);
        let present = match rustix::fs::statat(self.fd(), &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(at(error)),
        };
        let is_directory = present.is_some_and(|stat| file_type(&stat).is_dir());
        match entry {
            None if is_directory => self.enter(name, key, Then::Remove),
            None => match present {
                None => Ok(()),
                Some(_) => self.unlink(&name, key),
            },
            Some(entry) if entry.is_directory() => {
                if present.is_some() && !is_directory {
                    self.unlink(&name, key)?;
                }
                if !is_directory && self.place_directory(&name, key, Mode::RWXU)? {
                    return self.set_moved(&name, key, &entry);
                }
                self.enter(name, key, Then::Set(entry))
            }
            Some(entry) if is_directory => self.enter(name, key, Then::Replace(entry)),
            Some(entry) => self.place(&name, key, &entry),
        }
    }

    /// The root itself can be changed but neither removed nor replaced.
    fn step_root(&mut self, entry: Option<Entry>) -> Result<(), FilesError> {
        match (entry, self.levels.first_mut()) {
            (Some(entry), Some(root)) if entry.is_directory() => root.then = Then::Set(entry),
            (Some(_), _) => {
                let reason = "the root of a directory must be a directory";
                return Err(FilesError::Contract { path: display_key(b""), reason });
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// Leaves and enters directories until the walk is in that of `path`. Says whether it is,
    /// which it is not if one is missing that was not to be made, or was moved into place with
    /// all that is below it.
    fn enter_parents(&mut self, path: &[CString], missing: Missing) -> Result<bool, FilesError> {
        let shared = self.levels[1..].iter().zip(path).take_while(|(l, name)| l.name == **name);
        let shared = shared.count();
        while self.levels.len() > 1 + shared {
            self.leave()?;
        }
        for name in &path[shared..] {
            let key = child(&self.top().key, name.to_bytes());
            match self.stat_directory(name, &key)? {
                Present::Directory => {}
                Present::Nothing if missing == Missing::Make => {
                    let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
                    if self.place_directory(name, &key, mode)? {
                        return Ok(false);
                    }
                }
                Present::Other if missing == Missing::Make => {
                    return Err(FilesError::NotADirectory { path: self.staging.at(&key) });
                }
                Present::Nothing | Present::Other => return Ok(false),
            }
            self.enter(name.clone(), &key, Then::Leave)?;
        }
        Ok(true)
    }

    fn stat_directory(&self, name: &CStr, key: &[u8]) -> Result<Present, FilesError> {
        match rustix::fs::statat(self.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if file_type(&stat).is_dir() => Ok(Present::Directory),
            Ok(_) => Ok(Present::Other),
            Err(Errno::NOENT) => Ok(Present::Nothing),
            Err(error) => Err(self.error(key, "look at", error)),
        }
    }

    fn enter(&mut self, name: CString, key: &[u8], then: Then) -> Result<(), FilesError> {
        let opened = open_directory(self.fd(), name.as_c_str()).and_then(|fd| {
            let before = rustix::fs::fstat(&fd)?;
            // The owner, unless root, needs all three permissions to change what is inside.
            let mode = Mode::from_raw_mode(before.st_mode);
            if !mode.contains(Mode::RWXU) {
                rustix::fs::fchmod(&fd, mode | Mode::RWXU)?;
            }
            let locks = metadata::unlock(At::Open(fd.as_fd()))?;
            Ok((fd, before, locks))
        });
        let (fd, before, locks) = opened.map_err(|error| self.error(key, "enter", error))?;
        // Where nothing is staged there is no mirror.
        let staged = self.top().staged.as_ref();
        let staged = staged.and_then(|fd| open_directory(fd.as_fd(), name.as_c_str()).ok());
        let (key, touched) = (key.to_vec(), false);
        self.levels.push(Level { fd, staged, key, name, before, locks, touched, then });
        Ok(())
    }

    /// Finishes the deepest directory that the walk is in.
    fn leave(&mut self) -> Result<(), FilesError> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        match &level.then {
            Then::Leave => self.restore_metadata(&level),
            Then::Set(entry) => self.set_metadata(&level.key, level.fd.as_fd(), entry, Prior::Any),
            Then::Remove => {
                self.remove_directory(&level)?;
                Ok(())
            }
            Then::Replace(entry) => {
                if self.remove_directory(&level)? {
                    self.place(&level.name, &level.key, entry)?;
                }
                Ok(())
            }
        }
    }

    fn set_metadata(
        &self,
        key: &[u8],
        fd: BorrowedFd<'_>,
        entry: &Entry,
        prior: Prior,
    ) -> Result<(), FilesError> {
        let at = At::Open(fd);
        let losses = at
            .stat()
            .and_then(|stat| metadata::set(at, entry, &stat, prior))
            .map_err(|error| self.error(key, "set the metadata of", error))?;
        self.staging.note(key, losses)
    }

    /// Gives a folder that was moved into place its metadata.
    fn set_moved(&self, name: &CStr, key: &[u8], entry: &Entry) -> Result<(), FilesError> {
        let fd = open_directory(self.fd(), name)
            .map_err(|error| self.error(key, "set the metadata of", error))?;
        self.set_metadata(key, fd.as_fd(), entry, Prior::Fresh)
    }

    fn restore_metadata(&self, level: &Level) -> Result<(), FilesError> {
        let mode = Mode::from_raw_mode(level.before.st_mode);
        let mut result = Ok(());
        if !mode.contains(Mode::RWXU) {
            result = rustix::fs::fchmod(&level.fd, mode);
        }
        if level.touched {
            let times = modified(mtime_of(&level.before));
            result = result.and_then(|()| rustix::fs::futimens(&level.fd, &times));
        }
        if level.locks != 0 {
            let at = At::Open(level.fd.as_fd());
            result = result.and_then(|()| metadata::relock(at, level.locks));
        }
        result.map_err(|error| self.error(&level.key, "set the times of", error))
    }

    /// Removes an emptied directory; says `false`, and tells the user, if something that is not
    /// part of the source is still in it.
    fn remove_directory(&mut self, level: &Level) -> Result<bool, FilesError> {
        match rustix::fs::unlinkat(self.fd(), &level.name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.touch();
                Ok(true)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {
                self.restore_metadata(level)?;
                let reason = "kept: it holds files that are not part of the snapshot".to_owned();
                self.staging.note(&level.key, [(Loss::Entry, reason)])?;
                Ok(false)
            }
            Err(error) => Err(self.error(&level.key, "remove", error)),
        }
    }

    fn unlink(&mut self, name: &CStr, key: &[u8]) -> Result<(), FilesError> {
        let fd = self.fd();
        unlocked(At::Named(fd, name), || rustix::fs::unlinkat(fd, name, AtFlags::empty()))
            .map_err(|error| self.error(key, "remove", error))?;
        self.touch();
        Ok(())
    }

    /// Moves a staged folder into place with all that is in it, and says so; where that is not
    /// possible, because another file system is mounted there, makes an empty one.
    fn place_directory(&mut self, name: &CStr, key: &[u8], mode: Mode) -> Result<bool, FilesError> {
        let error = |error| self.error(key, "create", error);
        let staged = self.top().staged.as_ref().ok_or_else(|| error(Errno::NOENT))?;
        let moved = match rustix::fs::renameat(staged, name, self.fd(), name) {
            Ok(()) => true,
            Err(Errno::XDEV) => {
                rustix::fs::mkdirat(self.fd(), name, mode).map_err(error)?;
                false
            }
            Err(errno) => return Err(error(errno)),
        };
        if moved {
            self.moved = Some(key.to_vec());
        }
        self.touch();
        Ok(moved)
    }

    /// Renames a staged file to its place.
    fn place(&mut self, name: &CStr, key: &[u8], entry: &Entry) -> Result<(), FilesError> {
        let error = |error| self.error(key, "replace", error);
        let (staged, fd) =
            (self.top().staged.as_ref().ok_or_else(|| error(Errno::NOENT))?, self.fd());
        let at = At::Named(fd, name);
        match unlocked(at, || rustix::fs::renameat(staged, name, fd, name)) {
            Ok(()) => {}
            Err(Errno::XDEV) => self.place_across(staged.as_fd(), name, key, entry)?,
            Err(errno) => return Err(error(errno)),
        }
        self.touch();
        Ok(())
    }

    /// Places a staged file in a directory of another file system, mounted below the root.
    fn place_across(
        &self,
        staged: BorrowedFd<'_>,
        name: &CStr,
        key: &[u8],
        entry: &Entry,
    ) -> Result<(), FilesError> {
        let folder = self.fd();
        let copy = CString::new(format!("{}-copy", self.staging.name)).unwrap_or_default();
        let error = |error: io::Error| self.error(key, "replace", error);
        let losses = if entry.kind == EntryKind::File {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = rustix::fs::openat(staged, name, flags, Mode::empty());
            let (from, to) = from
                .and_then(|from| Ok((from, write::open(folder, &copy, 0o600)?)))
                .map_err(|e| error(e.into()))?;
            let length = write::copy(&from.into(), &to).map_err(error)?;
            write::finish(&to.into(), entry, length, Prior::Any)
        } else {
            write::special(folder, &copy, entry)
        };
        self.staging.note(key, losses.map_err(|e| error(e.into()))?)?;
        if entry.link.is_some() {
            let reason = "is a file of its own, on another file system than the first name";
            self.staging.note(key, [(Loss::Link, reason.to_owned())])?;
        }
        rustix::fs::syncfs(folder)
            .and_then(|()| {
                let rename = || rustix::fs::renameat(folder, &copy, folder, name);
                unlocked(At::Named(folder, name), rename)
            })
            .map_err(|e| error(e.into()))
    }

    fn finish(mut self) -> Result<(), FilesError> {
        while self.levels.len() > 1 {
            self.leave()?;
        }
        // Before the root gets its times: removing the folder changes them.
        self.staging.remove()?;
        self.leave()
    }

    fn top(&self) -> &Level {
        &self.levels[self.levels.len() - 1]
    }

    fn touch(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.touched = true;
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.staging.root.as_fd(), |level| level.fd.as_fd())
    }

    fn error(&self, key: &[u8], doing: &'static str, error: impl Into<io::Error>) -> FilesError {
        self.staging.error(key, doing, error)
    }
}

/// Changes a name even if flags of what has it forbid that; if it fails all the same, they are
/// as before.
fn unlocked(at: At<'_>, mut change: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    match change() {
        Err(Errno::PERM) => {}
        result => return result,
    }
    match metadata::unlock(at) {
        Ok(locks) if locks != 0 => {
            let result = change();
            if result.is_err() {
                metadata::relock(at, locks)?;
            }
            result
        }
        _ => Err(Errno::PERM),
    }
}

/// What is at a place where a directory should be.
enum Present {
    Nothing,
    Directory,
    Other,
}

/// What to do about a directory that should be there and is not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}
