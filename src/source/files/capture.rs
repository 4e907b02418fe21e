//! Turns a walk into changes: what is new or different since the fingerprints of the capture
//! before, and what is gone.

use std::cmp::Ordering;
use std::io;
use std::iter::Peekable;
use std::os::fd::AsFd as _;

use rustix::fs::{FileType, Stat};

use super::attributes::{Attributes, Place};
use super::entry::{Device, Entry, EntryKind, Fingerprint, file_type, size};
use super::links::Links;
use super::path::display_key;
use super::reading::{FileReader, Unread};
use super::walk::{Found, Walk};
use super::{FilesError, Seen};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::time::Timestamp;
use crate::tree::{Change, Changes, Content, Key, Value};

/// Items between two progress reports.
const PROGRESS_ITEMS: u64 = 256;

/// The changes since the fingerprints in `before`. Puts what the aids need into `seen`.
pub(super) struct Capture<'a> {
    walk: Walk<'a>,
    before: Peekable<Changes<'a>>,
    seen: &'a mut Seen,
    unread: Unread,
    ctx: &'a Context,
    start: Timestamp,
    links: Links,
    attributes: Attributes,
    /// The fingerprint of what is looked at.
    now: Vec<u8>,
    /// Items not yet reported, and bytes of those among them that were not read.
    items: u64,
    bytes: u64,
    /// Files, and folders, that nothing has changed about.
    unchanged: [u64; 2],
    done: bool,
}

/// What was taken from the walk and read.
struct Taken {
    value: Value,
    /// What `stat` said of exactly what was read.
    stat: Stat,
    link: Option<Key>,
}

impl<'a> Capture<'a> {
    pub(super) fn new(
        walk: Walk<'a>,
        before: Option<Changes<'a>>,
        seen: &'a mut Seen,
        unread: Unread,
        start: Timestamp,
        ctx: &'a Context,
    ) -> Self {
        let before = before.unwrap_or_else(|| Box::new(std::iter::empty())).peekable();
        Self {
            walk,
            before,
            seen,
            unread,
            ctx,
            start,
            links: Links::new(),
            attributes: Attributes::new(),
            now: Vec::new(),
            items: 0,
            bytes: 0,
            unchanged: [0; 2],
            done: false,
        }
    }

    /// The next change; `None` at the end.
    fn advance(&mut self) -> Result<Option<Change>, Failure> {
        loop {
            self.ctx.check_cancelled()?;
            let old = match self.before.peek() {
                None => None,
                Some(Ok(change)) => Some(change.key.as_slice()),
                Some(Err(_)) => return self.old().map(|_| None),
            };
            let order = match (old, self.walk.peek()) {
                (None, None) => {
                    self.finish()?;
                    return Ok(None);
                }
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(found)) => old.cmp(found),
            };
            let old = if order == Ordering::Greater { None } else { self.old()? };
            let change = match (order, old) {
                (Ordering::Less, Some((key, _))) => Some(self.delete(key)?),
                (_, old) => self.visit(old)?,
            };
            if change.is_some() {
                return Ok(change);
            }
        }
    }

    /// Takes the next key and fingerprint of the capture before.
    fn old(&mut self) -> Result<Option<(Key, Vec<u8>)>, Failure> {
        let change = self.before.next().transpose()?;
        Ok(change
            .map(|change| (change.key, change.value.map_or_else(Vec::new, |value| value.head))))
    }

    /// What becomes of the entry that the walk is at, of which `before` were key and fingerprint.
    fn visit(&mut self, before: Option<(Key, Vec<u8>)>) -> Result<Option<Change>, Failure> {
        let Some(found) = self.walk.take() else { return Ok(None) };
        self.count();
        self.seen.numbers.note(found.stat.st_uid, found.stat.st_gid);
        self.seen.state.note(self.walk.key(), &found.stat);
        let first = self.links.first(&found.stat).map_err(spool_error)?;
        let first = first.as_ref().map(|first| first.key.as_slice());
        Fingerprint::of(&found.stat).linked_to(first).write_to(&mut self.now);
        if before.as_ref().is_some_and(|(_, before)| *before == self.now) {
            if file_type(&found.stat) == FileType::RegularFile {
                self.bytes += size(&found.stat);
            }
            self.links.note(&found.stat, self.walk.key()).map_err(spool_error)?;
            self.unchanged[usize::from(file_type(&found.stat).is_dir())] += 1;
            self.walk.pass(&found);
            return Ok(None);
        }
        let key = self.walk.key().to_vec();
        match self.read(&found)? {
            Ok(read) => {
                self.links.note(&read.stat, &key).map_err(spool_error)?;
                self.remember(&key, &read, before.as_ref().map(|(_, before)| before.as_slice()))?;
                Ok(Some(Change { key, value: Some(read.value) }))
            }
            Err(error) => {
                // What was deleted since it was found is no more missed than what was never there.
                if error.kind() != io::ErrorKind::NotFound {
                    self.walk.skip(&format!("cannot be read: {error}"));
                }
                before.map(|(key, _)| self.delete(key)).transpose()
            }
        }
    }

    /// The value of what was found, with what `stat` says of what exactly was read. Goes past it.
    /// What only concerns this one entry is the inner error.
    fn read(&mut self, found: &Found) -> Result<io::Result<Taken>, Failure> {
        let kind = match file_type(&found.stat) {
            FileType::RegularFile => return self.read_file(),
            FileType::Directory => return Ok(Ok(self.read_directory(found))),
            FileType::Symlink => match self.walk.read_link() {
                Ok(target) => EntryKind::Symlink { target },
                Err(error) => return Ok(Err(error)),
            },
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            FileType::CharacterDevice => EntryKind::CharacterDevice(Device::of(&found.stat)),
            FileType::BlockDevice => EntryKind::BlockDevice(Device::of(&found.stat)),
            FileType::Unknown => return Ok(Err(io::Error::other("it is of an unknown kind"))),
        };
        let mut entry = Entry::from_stat(kind, &found.stat);
        entry.link = self.link(&found.stat)?;
        let missing = match self.walk.short_path() {
            Ok(path) => self.attributes.read(Place::At(&path), &mut entry),
            Err(error) => return Ok(Err(error)),
        };
        self.lacks(&missing);
        let value = Value { head: entry.encode(), content: Content::empty() };
        Ok(Ok(Taken { value, stat: found.stat, link: entry.link }))
    }

    fn read_directory(&mut self, found: &Found) -> Taken {
        let mut entry = Entry::from_stat(EntryKind::Directory, &found.stat);
        let path = self.walk.short_path();
        let missing = match (self.walk.pass(found), path) {
            (Some(directory), _) => self.attributes.read(Place::Open(directory), &mut entry),
            // Another file system begins here, or the directory cannot be listed.
            (None, Ok(path)) => self.attributes.read(Place::At(&path), &mut entry),
            (None, Err(error)) => vec![format!("its attributes cannot be listed: {error}")],
        };
        self.lacks(&missing);
        let value = Value { head: entry.encode(), content: Content::empty() };
        Taken { value, stat: found.stat, link: None }
    }

    fn read_file(&mut self) -> Result<io::Result<Taken>, Failure> {
        let opened = self.walk.open().and_then(|file| Ok((rustix::fs::fstat(&file)?, file)));
        let (stat, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        if file_type(&stat) != FileType::RegularFile {
            return Ok(Err(io::Error::other("something else took its place")));
        }
        let mut entry = Entry::from_stat(EntryKind::File, &stat);
        entry.link = self.link(&stat)?;
        let missing = self.attributes.read(Place::Open(file.as_fd()), &mut entry);
        self.lacks(&missing);
        let content = match size(&stat) {
            0 => Content::empty(),
            _ => Content::Reader(Box::new(FileReader::new(
                file,
                &stat,
                self.walk.key().to_vec(),
                self.unread.clone(),
                self.ctx.clone(),
            ))),
        };
        Ok(Ok(Taken { value: Value { head: entry.encode(), content }, stat, link: entry.link }))
    }

    /// Reports what is missing of the entry that the walk is at.
    fn lacks(&self, missing: &[String]) {
        for reason in missing {
            self.walk.skip(reason);
        }
    }

    /// The first name of a file of which this is another, unless the two differ.
    fn link(&mut self, stat: &Stat) -> Result<Option<Key>, Failure> {
        let Some(first) = self.links.first(stat).map_err(spool_error)? else { return Ok(None) };
        if first.is_outdated {
            let other = display_key(&first.key);
            self.walk.skip(&format!(
                "changed since its other name, {other}, was read: kept as a file of its own"
            ));
            return Ok(None);
        }
        Ok(Some(first.key))
    }

    fn delete(&mut self, key: Key) -> Result<Change, Failure> {
        self.seen.spool.push(&key, None).map_err(spool_error)?;
        Ok(Change::delete(key))
    }

    /// Keeps the fingerprint of what was read, or that it must be read again, unless `before` is
    /// just that.
    fn remember(&mut self, key: &[u8], read: &Taken, before: Option<&[u8]>) -> Result<(), Failure> {
        let fingerprint = Fingerprint::of(&read.stat).linked_to(read.link.as_deref());
        fingerprint.write_to(&mut self.now);
        if !fingerprint.is_trusted(self.start, self.ctx.clock.now()) {
            self.now.clear();
        }
        if before != Some(&self.now) {
            self.seen.spool.push(key, Some(&self.now)).map_err(spool_error)?;
        }
        Ok(())
    }

    fn count(&mut self) {
        self.items += 1;
        if self.items == PROGRESS_ITEMS {
            self.report_items();
        }
    }

    fn report_items(&mut self) {
        let (items, bytes) = (std::mem::take(&mut self.items), std::mem::take(&mut self.bytes));
        self.ctx.report(Event::Progress { items, bytes });
    }

    fn finish(&mut self) -> Result<(), FilesError> {
        self.report_items();
        let [files, folders] = self.unchanged;
        self.ctx.report(Event::Unchanged { files, folders });
        self.walk.finish()
    }
}

fn spool_error(source: io::Error) -> FilesError {
    FilesError::Spool { source }
}

impl Iterator for Capture<'_> {
    type Item = Result<Change, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let change = self.advance().transpose();
        self.done = !matches!(change, Some(Ok(_)));
        change
    }
}
