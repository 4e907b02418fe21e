//! Files that are staged together: written by several threads, in the order in which their
//! contents are quickest to get. What a file in the target has of its new content already is read
//! from there.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::entry::file_type;
use super::losses::Loss;
use super::metadata::{self, At, Prior};
use super::path::display_key;
use super::staging::{Staging, open_parent};
use super::{Device, Entry, EntryKind, FilesError, write};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::Plan;
use crate::tree::{Basis, Content, Key, Place, ReadAt, Sought, Stream};

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
    stored: Vec<(Staged, Stream, Option<Present>)>,
    /// With contents that came with the plan.
    inline: Vec<(Staged, Vec<u8>)>,
    inline_bytes: usize,
    /// Further names, to be linked when the files are there.
    links: Vec<(Staged, Content)>,
    /// New folders that the walk has left: they get their metadata after all that is in them.
    folders: Vec<(Arc<OwnedFd>, Key, Entry)>,
    open: usize,
}

/// A file of the target that is to be replaced.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) folder: Arc<OwnedFd>,
    pub(super) name: CString,
    /// Its content when it was captured.
    pub(super) stream: Stream,
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
}

impl Batch {
    /// Adds a file; one that is another name of a file will be a link to that.
    pub(super) fn add(
        &mut self,
        mut file: Staged,
        content: Content,
        present: Option<Present>,
    ) -> Result<(), Failure> {
        if file.entry.link.is_some() {
            self.links.push((file, content));
            return Ok(());
        }
        match content {
            Content::Stored(stream) => {
                file.expect(stream.length);
                self.stored.push((file, stream, present));
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
        self.write_files(staging, plan, ctx)?;
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
                    self.add(file, content, None)?;
                }
            }
        }
        self.write_files(staging, plan, ctx)?;
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

    /// Writes the files that are in the batch, and takes them out.
    fn write_files(
        &mut self,
        staging: &Staging,
        plan: &dyn Plan,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let (inline, stored) = (std::mem::take(&mut self.inline), std::mem::take(&mut self.stored));
        for (file, bytes) in &inline {
            file.write(0, bytes, write::is_zero(bytes), staging)?;
        }
        let sought = stored.iter().map(|(_, stream, present)| {
            let basis = present.as_ref();
            let basis = basis.map(|present| Basis { stream: present.stream, bytes: present });
            Sought { stream: *stream, basis }
        });
        let sought: Vec<Sought<'_>> = sought.collect();
        let each = |bytes: &[u8], places: &[Place]| {
            ctx.check_cancelled()?;
            let zero = write::is_zero(bytes);
            for place in places {
                stored[place.stream].0.write(place.offset, bytes, zero, staging)?;
                ctx.report(Event::Progress { items: 0, bytes: bytes.len() as u64 });
            }
            Ok(())
        };
        plan.fetch(&sought, ctx, &each)?;
        ctx.report(Event::Progress { items: (inline.len() + stored.len()) as u64, bytes: 0 });
        Ok(())
    }
}

impl Staged {
    pub(super) fn new(folder: Arc<OwnedFd>, name: CString, key: Key, entry: Entry) -> Self {
        Self { folder, name, key, entry, length: 0, left: AtomicU64::new(0) }
    }

    fn expect(&mut self, length: u64) {
        (self.length, self.left) = (length, AtomicU64::new(length));
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

impl ReadAt for Present {
    /// Opens the file for each run: of a batch there would be too many to hold them open.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.folder, &self.name, flags, Mode::empty())?;
        File::from(file).read_exact_at(buffer, offset)
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
