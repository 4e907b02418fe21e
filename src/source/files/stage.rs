//! Stages a plan: makes everything that it wants below the staging folder, under the paths of the
//! target. A walk in the order of keys makes folders and gathers files; the files of a batch are
//! written by several threads, in the order in which their contents are quickest to get.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::entry::file_type;
use super::losses::Loss;
use super::metadata::{self, At, Prior};
use super::path::{child, display_key, names};
use super::select::Selection;
use super::staging::{Staging, decode, open_directory, open_parent};
use super::{Device, Entry, EntryKind, FilesError, write};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::{Applied, Plan};
use crate::tree::{Change, Content, Key, Place, Stream};

/// Files that are fetched at once.
const FILES: usize = 8 << 10;
/// Folders that are open at once for the files of a batch.
const FOLDERS: usize = 256;
/// Bytes of short contents, which come with the plan, that a batch holds.
const INLINE: usize = 4 << 20;

pub(super) struct Stage<'a> {
    staging: &'a mut Staging,
    plan: &'a dyn Plan,
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
    live: Option<OwnedFd>,
    /// Its mirror, once something is staged in it.
    staged: Option<Arc<OwnedFd>>,
    /// What it is to become, if it is new.
    entry: Option<Entry>,
}

/// What is written together.
#[derive(Default)]
struct Batch {
    files: Vec<Staged>,
    /// Short contents, by the number of the file.
    inline: Vec<(usize, Vec<u8>)>,
    inline_bytes: usize,
    /// Further names, to be linked when the files are there.
    links: Vec<(Staged, Content)>,
    /// New folders that the walk has left: they get their metadata after all that is in them.
    folders: Vec<(Arc<OwnedFd>, Key, Entry)>,
    open: usize,
}

/// A regular file in the making.
struct Staged {
    folder: Arc<OwnedFd>,
    name: CString,
    key: Key,
    entry: Entry,
    stream: Option<Stream>,
    length: u64,
    /// Bytes that are still to come.
    left: AtomicU64,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        staging: &'a mut Staging,
        plan: &'a dyn Plan,
        ctx: &'a Context,
    ) -> Result<Self, FilesError> {
        let open = |fd: &OwnedFd| fd.try_clone().map_err(|e| staging.error(b"", "open", e));
        let top = Level {
            name: c".".to_owned(),
            key: Key::new(),
            live: Some(open(&staging.root)?),
            staged: Some(Arc::new(open(&staging.folder)?)),
            entry: None,
        };
        let (batch, applied) = (Batch::default(), Applied::default());
        Ok(Self { staging, plan, ctx, levels: vec![top], batch, applied, taken: 0 })
    }

    /// Refuses to replace what the snapshot before the restore does not hold.
    pub(super) fn refuse_unsaved(
        &self,
        selection: &Selection,
        change: &Change,
    ) -> Result<(), FilesError> {
        let Staging { root, .. } = &*self.staging;
        let is_put = change.value.is_some() && !change.key.is_empty();
        let lost = |error| self.staging.error(&change.key, "look at", error);
        if is_put && selection.has_lost(root, &change.key).map_err(lost)? {
            return Err(FilesError::Unsaved { path: self.staging.at(&change.key) });
        }
        Ok(())
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
                self.add_file(name, key, entry, value.content)?;
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
        let live = live.and_then(|fd| open_directory(fd.as_fd(), name.as_c_str()).ok());
        self.levels.push(Level { name, key, live, staged: None, entry });
    }

    fn leave(&mut self) {
        let Some(Level { live, staged: Some(folder), entry, key, .. }) = self.levels.pop() else {
            return;
        };
        self.batch.open += 1;
        // One that is moved into place gets its metadata there: with the wrong mode its owner
        // could not move it.
        let moved = self.levels.last().is_none_or(|above| above.live.is_some());
        if let (None, Some(entry), false) = (live, entry, moved) {
            self.batch.folders.push((folder, key, entry));
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
    ) -> Result<(), Failure> {
        let folder = self.mirror()?;
        if entry.link.is_none() && self.take_over(&folder, &name, &key, &entry, &content)? {
            return Ok(());
        }
        let stream = match &content {
            Content::Stored(stream) => Some(*stream),
            Content::Inline(_) => None,
            Content::Reader(_) => {
                let reason = "its content is not where it can be fetched from";
                return Err(FilesError::Contract { path: display_key(&key), reason }.into());
            }
        };
        let length = match &content {
            Content::Inline(bytes) => bytes.len() as u64,
            _ => stream.map_or(0, |stream| stream.length),
        };
        let left = AtomicU64::new(length);
        let file = Staged { folder, name, key, entry, stream, length, left };
        if file.entry.link.is_some() {
            self.batch.links.push((file, content));
        } else {
            self.batch.add(file, content);
        }
        Ok(())
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
        let mut batch = std::mem::take(&mut self.batch);
        self.write(&batch)?;
        let mut alone = Batch::default();
        for (file, content) in std::mem::take(&mut batch.links) {
            let Staged { folder, name, key, entry, .. } = &file;
            let first = entry.link.as_deref().unwrap_or_default();
            match link(self.staging, first, entry, folder.as_fd(), name) {
                Ok(()) => {
                    note_linked(self.staging, key, entry, folder.as_fd(), name)?;
                    self.count(1);
                }
                Err(reason) => {
                    self.staging.note(key, [(Loss::Link, reason)])?;
                    alone.add(file, content);
                }
            }
        }
        self.write(&alone)?;
        for (folder, key, entry) in &batch.folders {
            let at = At::Open(folder.as_fd());
            let losses = at
                .stat()
                .and_then(|stat| metadata::set(at, entry, &stat, Prior::Fresh))
                .map_err(|e| self.staging.error(key, "set the metadata of", e))?;
            self.staging.note(key, losses)?;
        }
        Ok(())
    }

    /// Writes the files of a batch, from several threads.
    fn write(&self, batch: &Batch) -> Result<(), Failure> {
        let staging = &*self.staging;
        for (index, bytes) in &batch.inline {
            batch.files[*index].write(0, bytes, write::is_zero(bytes), staging)?;
        }
        let stored = batch.files.iter().filter(|file| file.stream.is_some());
        let stored: Vec<&Staged> = stored.collect();
        let streams: Vec<Stream> = stored.iter().filter_map(|file| file.stream).collect();
        let each = |bytes: &Bytes, places: &[Place]| {
            self.ctx.check_cancelled()?;
            let zero = write::is_zero(bytes);
            for place in places {
                stored[place.stream].write(place.offset, bytes, zero, staging)?;
                self.ctx.report(Event::Progress { items: 0, bytes: bytes.len() as u64 });
            }
            Ok(())
        };
        self.plan.fetch(&streams, self.ctx, &each)?;
        self.count(batch.files.len() as u64);
        Ok(())
    }

    fn count(&self, items: u64) {
        self.ctx.report(Event::Progress { items, bytes: 0 });
    }
}

impl Batch {
    fn add(&mut self, file: Staged, content: Content) {
        if let Content::Inline(bytes) = content {
            self.inline_bytes += bytes.len();
            self.inline.push((self.files.len(), bytes));
        }
        self.files.push(file);
    }

    fn is_full(&self) -> bool {
        self.files.len() + self.links.len() >= FILES
            || self.open >= FOLDERS
            || self.inline_bytes >= INLINE
    }
}

impl Staged {
    /// Writes a run of bytes, unless it is `zero`, and finishes the file if it was the last.
    #[expect(clippy::fn_params_excessive_bools, reason = "there is one, and it is explained")]
    fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        zero: bool,
        staging: &Staging,
    ) -> Result<(), FilesError> {
        let error = |error: io::Error| staging.error(&self.key, "write", error);
        let whole = bytes.len() as u64 == self.length;
        let open = || {
            // Who opens it again must be allowed to.
            let mode = if whole { self.entry.mode } else { 0o600 };
            write::open(self.folder.as_fd(), &self.name, mode).map_err(|e| error(e.into()))
        };
        let file = if zero { None } else { Some(open()?) };
        if let Some(file) = &file {
            write::run(file, offset, bytes).map_err(error)?;
        }
        let length = bytes.len() as u64;
        if self.left.fetch_sub(length, Ordering::AcqRel) != length {
            return Ok(());
        }
        let file: OwnedFd = file.map_or_else(open, Ok)?.into();
        let losses = write::finish(&file, &self.entry, self.length, Prior::Fresh);
        staging.note(&self.key, losses.map_err(|e| error(e.into()))?)
    }
}

/// Gives a file that is staged, or in the target as it is wanted, a further name in a staged
/// folder. The error says why not.
fn link(
    staging: &Staging,
    first: &[u8],
    entry: &Entry,
    folder: BorrowedFd<'_>,
    name: &CString,
) -> Result<(), String> {
    let make = |root: BorrowedFd<'_>| {
        let (parent, first) = open_parent(root, first)?.ok_or(Errno::ISDIR)?;
        let stat = rustix::fs::statat(&parent, &first, AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_like(entry, &stat) {
            return Err(Errno::NOENT);
        }
        rustix::fs::linkat(&parent, &first, folder, name, AtFlags::empty())
    };
    let made = match make(staging.folder.as_fd()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => make(staging.root.as_fd()),
        made => made,
    };
    made.map_err(|error| {
        let first = display_key(first);
        format!("is a file of its own and no link to {first}: {}", io::Error::from(error))
    })
}

/// Whether a file is of the kind of an entry.
fn is_like(entry: &Entry, stat: &Stat) -> bool {
    let device = |device: &Device| stat.st_rdev == rustix::fs::makedev(device.major, device.minor);
    match (&entry.kind, file_type(stat)) {
        (EntryKind::File, FileType::RegularFile)
        | (EntryKind::Symlink { .. }, FileType::Symlink)
        | (EntryKind::Fifo, FileType::Fifo)
        | (EntryKind::Socket, FileType::Socket) => true,
        (EntryKind::CharacterDevice(number), FileType::CharacterDevice)
        | (EntryKind::BlockDevice(number), FileType::BlockDevice) => device(number),
        _ => false,
    }
}

/// What the first name lost, a further one has lost too.
fn note_linked(
    staging: &Staging,
    key: &[u8],
    entry: &Entry,
    folder: BorrowedFd<'_>,
    name: &CString,
) -> Result<(), FilesError> {
    if !staging.losses.any() {
        return Ok(());
    }
    let at = At::Named(folder, name);
    let losses = at
        .stat()
        .and_then(|stat| metadata::set(at, entry, &stat, Prior::Any))
        .map_err(|e| staging.error(key, "set the metadata of", e))?;
    staging.note(key, losses)
}
