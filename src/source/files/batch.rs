//! Files that are staged together: written by several threads, in the order in which their
//! contents are quickest to get; where the target has a part of a content already, that is copied
//! and not fetched.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::entry::{change_time, file_type, size};
use super::losses::Loss;
use super::metadata::{self, At, Prior, mtime_of};
use super::path::display_key;
use super::staging::{Staging, open_parent};
use super::{Device, Entry, EntryKind, FilesError, write};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::Plan;
use crate::time::Timestamp;
use crate::tree::{Content, Key, Run, Sought, Stream};

/// Files that are fetched at once.
const FILES: usize = 8 << 10;
/// Folders that are open at once for the files of a batch.
const FOLDERS: usize = 256;
/// Bytes of short contents, which come with the plan, that a batch holds.
const INLINE: usize = 4 << 20;

/// What is written together.
#[derive(Default)]
pub(super) struct Batch {
    /// With contents that are to be fetched.
    stored: Vec<(Staged, Stream, Option<AtHand>)>,
    /// With contents that came with the plan.
    inline: Vec<(Staged, Vec<u8>)>,
    inline_bytes: usize,
    /// Further names, to be linked when the files are there.
    links: Vec<(Staged, Content)>,
    /// New folders that the walk has left: they get their metadata after all that is in them.
    folders: Vec<(Arc<OwnedFd>, Key, Entry)>,
    open: usize,
}

/// A file of the target.
pub(super) struct AtHand {
    pub(super) folder: Arc<OwnedFd>,
    /// Its content when it was captured.
    pub(super) stream: Stream,
    pub(super) mtime: Timestamp,
}

/// A regular file in the making.
pub(super) struct Staged {
    folder: Arc<OwnedFd>,
    name: CString,
    key: Key,
    entry: Entry,
    length: u64,
    /// Bytes that are still to come.
    left: AtomicU64,
    /// Whether what was at hand turned out to be no longer what was captured.
    stale: AtomicBool,
}

impl Batch {
    /// Adds a file; one that is another name of a file will be a link to that.
    pub(super) fn add(
        &mut self,
        mut file: Staged,
        content: Content,
        at_hand: Option<AtHand>,
    ) -> Result<(), Failure> {
        if file.entry.link.is_some() {
            self.links.push((file, content));
            return Ok(());
        }
        match content {
            Content::Stored(stream) => {
                file.expect(stream.length);
                self.stored.push((file, stream, at_hand));
            }
            Content::Inline(bytes) => {
                file.expect(bytes.len() as u64);
                self.inline_bytes += bytes.len();
                self.inline.push((file, bytes));
            }
            Content::Reader(_) => {
                let reason = "its content is not where it can be fetched from";
                return Err(FilesError::Contract { path: display_key(&file.key), reason }.into());
            }
        }
        Ok(())
    }

    /// Adds a new folder in which everything is staged.
    pub(super) fn add_folder(&mut self, folder: Arc<OwnedFd>, key: Key, entry: Entry) {
        self.folders.push((folder, key, entry));
    }

    /// Counts a folder that stays open as long as the batch.
    pub(super) fn count_open(&mut self) {
        self.open += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.stored.len() + self.inline.len() + self.links.len() >= FILES
            || self.open >= FOLDERS
            || self.inline_bytes >= INLINE
    }

    /// Writes the files, links further names to them, and finishes the folders.
    pub(super) fn write(
        mut self,
        staging: &Staging,
        plan: &dyn Plan,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let mut again = self.write_files(staging, plan, ctx)?;
        for (mut file, content) in std::mem::take(&mut self.links) {
            let Staged { folder, name, key, entry, .. } = &mut file;
            let first = entry.link.take().unwrap_or_default();
            match link(staging, &first, entry, folder.as_fd(), name) {
                Ok(()) => {
                    note_linked(staging, key, entry, folder.as_fd(), name)?;
                    ctx.report(Event::Progress { items: 1, bytes: 0 });
                }
                Err(reason) => {
                    staging.note(key, [(Loss::Link, reason)])?;
                    again.add(file, content, None)?;
                }
            }
        }
        // With nothing at hand nothing is left over.
        again.write_files(staging, plan, ctx)?;
        for (folder, key, entry) in &self.folders {
            let at = At::Open(folder.as_fd());
            let losses = at
                .stat()
                .and_then(|stat| metadata::set(at, entry, &stat, Prior::Fresh))
                .map_err(|e| staging.error(key, "set the metadata of", e))?;
            staging.note(key, losses)?;
        }
        Ok(())
    }

    /// Writes the files, and gives back those for which what was at hand did not serve.
    fn write_files(
        &mut self,
        staging: &Staging,
        plan: &dyn Plan,
        ctx: &Context,
    ) -> Result<Self, Failure> {
        let items = (self.inline.len() + self.stored.len()) as u64;
        for (file, bytes) in std::mem::take(&mut self.inline) {
            file.write(0, &bytes, write::is_zero(&bytes), staging)?;
        }
        let stored = std::mem::take(&mut self.stored);
        let sought = stored.iter().map(|(_, stream, at_hand)| Sought {
            stream: *stream,
            at_hand: at_hand.as_ref().map(|at_hand| at_hand.stream),
        });
        let sought: Vec<Sought> = sought.collect();
        let each = |run: Run<'_>| {
            ctx.check_cancelled()?;
            match run {
                Run::Bytes(bytes, places) => {
                    let zero = write::is_zero(bytes);
                    for place in places {
                        let (file, ..) = &stored[place.stream];
                        file.write(place.offset, bytes, zero, staging)?;
                        ctx.report(Event::Progress { items: 0, bytes: bytes.len() as u64 });
                    }
                }
                Run::AtHand { place, from, length } => {
                    if let (file, _, Some(at_hand)) = &stored[place.stream] {
                        file.copy(at_hand, from, place.offset, length, staging)?;
                        ctx.report(Event::Progress { items: 0, bytes: length });
                    }
                }
            }
            Ok(())
        };
        plan.fetch(&sought, ctx, &each)?;
        let mut again = Self::default();
        for (file, stream, _) in stored.into_iter().filter(|(file, ..)| file.is_stale()) {
            let Staged { folder, name, key, entry, .. } = file;
            match rustix::fs::unlinkat(&folder, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(staging.error(&key, "write", error).into()),
            }
            again.add(Staged::new(folder, name, key, entry), Content::Stored(stream), None)?;
        }
        let items = items - again.stored.len() as u64;
        ctx.report(Event::Progress { items, bytes: 0 });
        Ok(again)
    }
}

impl Staged {
    pub(super) fn new(folder: Arc<OwnedFd>, name: CString, key: Key, entry: Entry) -> Self {
        let (left, stale) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { folder, name, key, entry, length: 0, left, stale }
    }

    fn expect(&mut self, length: u64) {
        (self.length, self.left) = (length, AtomicU64::new(length));
    }

    fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Writes a run of bytes, unless it is `zero`, and finishes the file if it was the last.
    #[expect(clippy::fn_params_excessive_bools, reason = "there is one, and it is explained")]
    fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        zero: bool,
        staging: &Staging,
    ) -> Result<(), FilesError> {
        let length = bytes.len() as u64;
        let mut file = None;
        if !zero {
            let opened = self.open(length, staging)?;
            write::run(&opened, offset, bytes)
                .map_err(|error| staging.error(&self.key, "write", error))?;
            file = Some(opened);
        }
        self.written(length, file, staging)
    }

    /// Copies a run of bytes from the target, unless it is no longer what was captured.
    fn copy(
        &self,
        at_hand: &AtHand,
        from: u64,
        offset: u64,
        length: u64,
        staging: &Staging,
    ) -> Result<(), FilesError> {
        if self.is_stale() {
            return Ok(());
        }
        let Some((live, stat)) = at_hand.open(&self.name) else {
            self.stale.store(true, Ordering::Release);
            return Ok(());
        };
        let file = self.open(length, staging)?;
        let copied = write::copy_range(&live, from, &file, offset, length);
        let after = rustix::fs::fstat(&live).map(|after| change_time(&after));
        match copied {
            Ok(()) if after == Ok(change_time(&stat)) => self.written(length, Some(file), staging),
            Ok(()) => {
                self.stale.store(true, Ordering::Release);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.stale.store(true, Ordering::Release);
                Ok(())
            }
            Err(error) => Err(staging.error(&self.key, "write", error)),
        }
    }

    /// Opens the file for a part of this length.
    fn open(&self, length: u64, staging: &Staging) -> Result<File, FilesError> {
        // Who opens it again must be allowed to.
        let mode = if length == self.length { self.entry.mode } else { 0o600 };
        write::open(self.folder.as_fd(), &self.name, mode)
            .map_err(|error| staging.error(&self.key, "write", error))
    }

    /// Finishes the file if these were the last bytes.
    fn written(
        &self,
        length: u64,
        file: Option<File>,
        staging: &Staging,
    ) -> Result<(), FilesError> {
        if self.left.fetch_sub(length, Ordering::AcqRel) != length {
            return Ok(());
        }
        let file: OwnedFd = file.map_or_else(|| self.open(length, staging), Ok)?.into();
        let losses = write::finish(&file, &self.entry, self.length, Prior::Fresh);
        let losses = losses.map_err(|error| staging.error(&self.key, "write", error))?;
        staging.note(&self.key, losses)
    }
}

impl AtHand {
    /// Opens the file, if it still is what was captured.
    fn open(&self, name: &CStr) -> Option<(File, Stat)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.folder, name, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let mtime = mtime_of(&stat);
        let same = file_type(&stat).is_file()
            && size(&stat) == self.stream.length
            && mtime.tv_sec == self.mtime.seconds
            && mtime.tv_nsec == i64::from(self.mtime.nanoseconds);
        same.then(|| (file.into(), stat))
    }
}

/// Gives a file that is staged, or in the target as it is wanted, a further name in a staged
/// folder. The error says why not.
pub(super) fn link(
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
pub(super) fn is_like(entry: &Entry, stat: &Stat) -> bool {
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
pub(super) fn note_linked(
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
