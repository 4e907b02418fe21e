//! Moves staged files into place: one pass over the journal, in the order of keys, which is a
//! walk of the tree. The directories on the way are held open, entered without following links,
//! and finished when the walk leaves them: children before parents, in memory that depends on the
//! depth alone.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::directory::{Staging, decode};
use super::entry::file_type;
use super::path::{child, display_key, names};
use super::spool::Spool;
use super::write::{modified, mtime_of};
use super::{Entry, FilesError};
use crate::report::Event;
use crate::tree::Key;

/// Does all that is in the journal, and removes the staging folder.
pub(super) fn run(staging: &mut Staging) -> Result<(), FilesError> {
    let mut journal = std::mem::replace(&mut staging.journal, Spool::new());
    let root = staging.root.try_clone().map_err(|source| FilesError::Target {
        doing: "open",
        path: staging.path.clone(),
        source,
    })?;
    let before = staging.before;
    let top = Level {
        fd: root,
        key: Key::new(),
        name: c".".to_owned(),
        before,
        touched: true,
        then: Then::Leave,
    };
    let mut commit = Commit { staging, levels: vec![top], staged: 0 };
    let error = |source| FilesError::Spool { source };
    for step in journal.changes().map_err(error)? {
        let (key, head) = step.map_err(error)?;
        let entry = head.map(|head| decode(&key, &head)).transpose()?;
        commit.step(&key, entry)?;
    }
    commit.finish()
}

struct Commit<'a> {
    staging: &'a mut Staging,
    /// From the root to where the walk is; never empty until the end.
    levels: Vec<Level>,
    /// How many staged files have been passed: the name of the next.
    staged: u64,
}

/// A directory that the walk is in.
struct Level {
    fd: OwnedFd,
    key: Key,
    name: CString,
    before: Stat,
    /// Whether its entries, and so its times, are changed.
    touched: bool,
    then: Then,
}

/// What to do on leaving a directory.
enum Then {
    /// Nothing of its own was asked: it gets back the time that changes in it have taken.
    Leave,
    /// Gives it this metadata.
    Set(Entry),
    /// Removes it.
    Remove,
    /// Puts the staged file with this number in its place.
    Replace(u64, Entry),
}

impl Commit<'_> {
    fn step(&mut self, key: &[u8], entry: Option<Entry>) -> Result<(), FilesError> {
        let number = self.staged;
        if entry.as_ref().is_some_and(|entry| !entry.is_directory()) {
            self.staged += 1;
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
                if !is_directory {
                    self.make_directory(&name, key, Mode::RWXU)?;
                }
                self.enter(name, key, Then::Set(entry))
            }
            Some(entry) if is_directory => self.enter(name, key, Then::Replace(number, entry)),
            Some(entry) => self.place(&name, key, number, &entry),
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
    /// which it is not if one is missing that was not to be made.
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
                    self.make_directory(name, &key, mode)?;
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
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.fd(), &name, flags, Mode::empty()).and_then(|fd| {
            let before = rustix::fs::fstat(&fd)?;
            // The owner, unless root, needs all three permissions to change what is inside.
            let mode = Mode::from_raw_mode(before.st_mode);
            if !mode.contains(Mode::RWXU) {
                rustix::fs::fchmod(&fd, mode | Mode::RWXU)?;
            }
            Ok((fd, before))
        });
        let (fd, before) = opened.map_err(|error| self.error(key, "enter", error))?;
        self.levels.push(Level { fd, key: key.to_vec(), name, before, touched: false, then });
        Ok(())
    }

    /// Finishes the deepest directory that the walk is in.
    fn leave(&mut self) -> Result<(), FilesError> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        match level.then {
            Then::Leave => self.restore_metadata(&level),
            Then::Set(entry) => self
                .staging
                .writer
                .set_metadata(level.fd.as_fd(), &entry)
                .map_err(|error| self.error(&level.key, "set the metadata of", error)),
            Then::Remove => {
                self.remove_directory(&level)?;
                Ok(())
            }
            Then::Replace(number, ref entry) => {
                if self.remove_directory(&level)? {
                    self.place(&level.name, &level.key, number, entry)?;
                }
                Ok(())
            }
        }
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
                self.staging.ctx.report(Event::Skipped {
                    item: display_key(&level.key),
                    reason: "kept: it holds files that are not part of the snapshot".to_owned(),
                });
                Ok(false)
            }
            Err(error) => Err(self.error(&level.key, "remove", error)),
        }
    }

    fn unlink(&mut self, name: &CStr, key: &[u8]) -> Result<(), FilesError> {
        rustix::fs::unlinkat(self.fd(), name, AtFlags::empty())
            .map_err(|error| self.error(key, "remove", error))?;
        self.touch();
        Ok(())
    }

    fn make_directory(&mut self, name: &CStr, key: &[u8], mode: Mode) -> Result<(), FilesError> {
        rustix::fs::mkdirat(self.fd(), name, mode)
            .map_err(|error| self.error(key, "create", error))?;
        self.touch();
        Ok(())
    }

    /// Renames a staged file to its place.
    fn place(
        &mut self,
        name: &CStr,
        key: &[u8],
        number: u64,
        entry: &Entry,
    ) -> Result<(), FilesError> {
        let staged = number.to_string();
        match rustix::fs::renameat(&self.staging.folder, staged.as_str(), self.fd(), name) {
            Ok(()) => {}
            Err(Errno::XDEV) => self.place_across(name, key, &staged, entry)?,
            Err(error) => return Err(self.error(key, "replace", error)),
        }
        self.touch();
        Ok(())
    }

    /// Places a staged file in a directory of another file system, mounted below the root.
    fn place_across(
        &mut self,
        name: &CStr,
        key: &[u8],
        staged: &str,
        entry: &Entry,
    ) -> Result<(), FilesError> {
        let bytes: Box<dyn io::Read> = if matches!(entry.kind, super::EntryKind::File) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.staging.folder, staged, flags, Mode::empty());
            let file = file.map_err(|error| self.error(key, "read the staged", error))?;
            Box::new(std::fs::File::from(file))
        } else {
            Box::new(io::empty())
        };
        let copy = format!("{}-{staged}", self.staging.name);
        let folder = self.levels.last().map_or(self.staging.root.as_fd(), |level| level.fd.as_fd());
        self.staging
            .writer
            .write(folder, &copy, entry, bytes)
            .map_err(|error| error.at(key, self.staging.at(key)))?;
        rustix::fs::syncfs(folder)
            .and_then(|()| rustix::fs::renameat(folder, copy.as_str(), folder, name))
            .map_err(|error| self.error(key, "replace", error))
    }

    fn finish(mut self) -> Result<(), FilesError> {
        while self.levels.len() > 1 {
            self.leave()?;
        }
        // Before the root gets its times: removing the folder changes them.
        self.staging.remove()?;
        self.leave()?;
        if self.staging.writer.owners_refused {
            self.staging.ctx.report(Event::Note(
                "owners were not restored: only root may give files to others".to_owned(),
            ));
        }
        Ok(())
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

    fn error(&self, key: &[u8], doing: &'static str, error: Errno) -> FilesError {
        FilesError::Target { doing, path: self.staging.at(key), source: error.into() }
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
