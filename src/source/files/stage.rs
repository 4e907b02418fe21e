//! Stages a plan: makes everything that it wants below the staging folder, under the paths of the
//! target. A walk in the order of keys makes folders and gathers files into batches.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::batch::{Batch, Present, Staged, is_like, link, note_linked};
use super::losses::Loss;
use super::metadata::{self, At, Prior};
use super::path::{child, names};
use super::staging::{Staging, decode, open_directory, open_parent};
use super::{Entry, EntryKind, FilesError, write};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::{Applied, Plan, TreeInfo};
use crate::tree::{Change, Content, Key};

pub(super) struct Stage<'a> {
    staging: &'a mut Staging,
    plan: &'a dyn Plan,
    tree: &'a TreeInfo,
    ctx: &'a Context,
    /// From the root to where the walk is; never empty.
    levels: Vec<Level>,
    batch: Batch,
    applied: Applied,
    /// Files taken over from a restore that was cut short.
    taken: u64,
}

/// A directory that the walk is in.
struct Level {
    name: CString,
    key: Key,
    /// The directory in the target, if there is one.
    live: Option<Arc<OwnedFd>>,
    /// Its mirror, once something is staged in it.
    staged: Option<Arc<OwnedFd>>,
    /// What it is to become, if it is new.
    entry: Option<Entry>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        staging: &'a mut Staging,
        plan: &'a dyn Plan,
        tree: &'a TreeInfo,
        ctx: &'a Context,
    ) -> Result<Self, FilesError> {
        let open = |fd: &OwnedFd| fd.try_clone().map_err(|e| staging.error(b"", "open", e));
        let top = Level {
            name: c".".to_owned(),
            key: Key::new(),
            live: Some(Arc::new(open(&staging.root)?)),
            staged: Some(Arc::new(open(&staging.folder)?)),
            entry: None,
        };
        let (batch, applied) = (Batch::default(), Applied::default());
        Ok(Self { staging, plan, tree, ctx, levels: vec![top], batch, applied, taken: 0 })
    }

    /// Gets one change ready.
    pub(super) fn step(&mut self, change: Change) -> Result<(), Failure> {
        let Change { key, value } = change;
        let mut path = names(&key)?;
        let Some(name) = path.pop() else {
            self.applied.updated += 1;
            return Ok(self.journal(&key, value.map(|value| value.head).as_deref())?);
        };
        self.enter_parents(&path)?;
        let Some(value) = value else {
            self.applied.deleted += 1;
            return Ok(self.journal(&key, None)?);
        };
        let entry = decode(&key, &value.head)?;
        let live = self.live(&name);
        if live {
            self.applied.updated += 1;
        } else {
            self.applied.inserted += 1;
        }
        match entry.kind {
            EntryKind::Directory => {
                self.journal(&key, Some(&value.head))?;
                self.enter(name, key, Some(entry));
                if self.levels.last().is_some_and(|level| level.live.is_none()) {
                    self.mirror()?;
                }
                self.count(1);
            }
            EntryKind::File => {
                self.journal(&key, Some(&value.head))?;
                let present = if live { self.present(&name, &key, &value.content)? } else { None };
                self.add_file(name, key, entry, value.content, present)?;
            }
            _ => {
                if self.make_special(&name, &key, &entry)? {
                    self.journal(&key, Some(&value.head))?;
                }
                self.count(1);
            }
        }
        Ok(())
    }

    /// Writes what is still to be written.
    pub(super) fn finish(mut self) -> Result<Applied, Failure> {
        while self.levels.len() > 1 {
            self.leave();
        }
        self.flush()?;
        if self.taken > 0 {
            let text = format!("{} files were ready from a restore that was cut short", self.taken);
            self.ctx.report(Event::Note(text));
        }
        Ok(self.applied)
    }

    fn journal(&mut self, key: &[u8], head: Option<&[u8]>) -> Result<(), FilesError> {
        self.staging.journal.push(key, head).map_err(|source| FilesError::Spool { source })
    }

    /// Whether something is in the target where the walk is. Only to count: a wrong answer does
    /// no harm.
    fn live(&self, name: &CString) -> bool {
        self.levels
            .last()
            .and_then(|level| level.live.as_ref())
            .is_some_and(|live| rustix::fs::statat(live, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    fn enter_parents(&mut self, path: &[CString]) -> Result<(), Failure> {
        let shared = self.levels[1..].iter().zip(path).take_while(|(l, name)| l.name == **name);
        let shared = shared.count();
        while self.levels.len() > 1 + shared {
            self.leave();
        }
        if self.batch.is_full() {
            self.flush()?;
        }
        for name in &path[shared..] {
            let above = self.levels.last().map_or(&[][..], |level| &level.key);
            let key = child(above, name.to_bytes());
            self.enter(name.clone(), key, None);
        }
        Ok(())
    }

    fn enter(&mut self, name: CString, key: Key, entry: Option<Entry>) {
        let live = self.levels.last().and_then(|level| level.live.as_ref());
        // What is no directory there, or may not be entered, is the business of the commit.
        let live =
            live.and_then(|fd| open_directory(fd.as_fd(), name.as_c_str()).ok()).map(Arc::new);
        self.levels.push(Level { name, key, live, staged: None, entry });
    }

    fn leave(&mut self) {
        let Some(Level { live, staged: Some(folder), entry, key, .. }) = self.levels.pop() else {
            return;
        };
        self.batch.count_open();
        // One that is moved into place gets its metadata there: with the wrong mode its owner
        // could not move it.
        let moved = self.levels.last().is_none_or(|above| above.live.is_some());
        if let (None, Some(entry), false) = (live, entry, moved) {
            self.batch.add_folder(folder, key, entry);
        }
    }

    /// The mirror of the directory that the walk is in.
    fn mirror(&mut self) -> Result<Arc<OwnedFd>, FilesError> {
        let made = self.levels.iter().rposition(|level| level.staged.is_some()).unwrap_or(0);
        for index in made + 1..self.levels.len() {
            let (above, level) = (&self.levels[index - 1], &self.levels[index]);
            // One that is missing in the target and that nobody described becomes an ordinary one.
            let ordinary = level.live.is_none() && level.entry.is_none();
            let mode = Mode::from_raw_mode(if ordinary { 0o755 } else { 0o700 });
            let above = above.staged.as_ref().ok_or(Errno::NOENT);
            let folder = above.and_then(|above| {
                rustix::fs::mkdirat(above, &level.name, mode)?;
                open_directory(above.as_fd(), level.name.as_c_str())
            });
            let folder = folder.map_err(|e| self.staging.error(&level.key, "stage", e))?;
            self.levels[index].staged = Some(Arc::new(folder));
        }
        let here = self.levels.last().and_then(|level| level.staged.as_ref());
        here.map(Arc::clone).ok_or_else(|| self.staging.error(b"", "stage in", Errno::NOENT))
    }

    fn add_file(
        &mut self,
        name: CString,
        key: Key,
        entry: Entry,
        content: Content,
        present: Option<Present>,
    ) -> Result<(), Failure> {
        let folder = self.mirror()?;
        if entry.link.is_none() && self.take_over(&folder, &name, &key, &entry, &content)? {
            return Ok(());
        }
        self.batch.add(Staged::new(folder, name, key, entry), content, present)
    }

    /// The file of the target that a long content is to replace, if that had a long one, too.
    fn present(
        &self,
        name: &CString,
        key: &[u8],
        content: &Content,
    ) -> Result<Option<Present>, Failure> {
        let live = self.levels.last().and_then(|level| level.live.as_ref());
        let (Content::Stored(_), Some(folder)) = (content, live) else { return Ok(None) };
        let Some(present) = self.plan.present(self.tree, key)? else { return Ok(None) };
        let Content::Stored(stream) = present.content else { return Ok(None) };
        Ok(Some(Present { folder: Arc::clone(folder), name: name.clone(), stream }))
    }

    /// Takes a file over from a restore that was cut short, if that had it ready; says whether.
    fn take_over(
        &mut self,
        folder: &OwnedFd,
        name: &CString,
        key: &[u8],
        entry: &Entry,
        content: &Content,
    ) -> Result<bool, Failure> {
        let Some(left) = &self.staging.left else { return Ok(false) };
        if !matches!(content, Content::Stored(_)) || !self.plan.is_left(key, content)? {
            return Ok(false);
        }
        let error = |errno: Errno| self.staging.error(key, "take over", errno);
        let place = open_parent(left.folder.as_fd(), key).map_err(error)?;
        let Some((from, old)) = place else { return Ok(false) };
        let stat = rustix::fs::statat(&from, &old, AtFlags::SYMLINK_NOFOLLOW).map_err(error)?;
        // With another name it may be the same file as one in the target.
        if !is_like(entry, &stat) || stat.st_nlink != 1 {
            return Ok(false);
        }
        let losses = rustix::fs::renameat(&from, &old, folder, name)
            .and_then(|()| metadata::set(At::Named(folder.as_fd(), name), entry, &stat, Prior::Any))
            .map_err(error)?;
        self.staging.note(key, losses)?;
        self.taken += 1;
        self.count(1);
        Ok(true)
    }

    /// Makes what is neither a file nor a directory, at once; says whether that was possible.
    fn make_special(
        &mut self,
        name: &CString,
        key: &[u8],
        entry: &Entry,
    ) -> Result<bool, FilesError> {
        let folder = self.mirror()?;
        if let Some(first) = &entry.link {
            match link(self.staging, first, entry, folder.as_fd(), name) {
                Ok(()) => {
                    note_linked(self.staging, key, entry, folder.as_fd(), name)?;
                    return Ok(true);
                }
                Err(reason) => self.staging.note(key, [(Loss::Link, reason)])?,
            }
        }
        let losses = write::special(folder.as_fd(), name, entry)
            .map_err(|e| self.staging.error(key, "make", e))?;
        let made = !losses.iter().any(|(loss, _)| *loss == Loss::Entry);
        self.staging.note(key, losses)?;
        Ok(made)
    }

    /// Writes the files of the batch, links further names to them, and finishes folders.
    fn flush(&mut self) -> Result<(), Failure> {
        std::mem::take(&mut self.batch).write(self.staging, self.plan, self.ctx)
    }

    fn count(&self, items: u64) {
        self.ctx.report(Event::Progress { items, bytes: 0 });
    }
}
