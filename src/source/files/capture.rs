//! Turns a walk into changes: what is new or different since the fingerprints of the capture
//! before, and what is gone.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read};
use std::iter::Peekable;

use rustix::fs::FileType;

use super::entry::{Entry, EntryKind, Fingerprint, file_type, size};
use super::path::display_key;
use super::walk::{Found, Walk};
use super::{FilesError, Seen};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::time::Timestamp;
use crate::tree::{Change, Changes, Content, Key, Value};

/// Items between two progress reports.
const PROGRESS_ITEMS: u64 = 256;
/// Bytes between two progress reports.
const PROGRESS_BYTES: u64 = 1 << 20;

/// The changes since the fingerprints in `before`. Puts what the aids need into `seen`.
pub(super) struct Capture<'a> {
    walk: Walk<'a>,
    before: Peekable<Changes<'a>>,
    seen: &'a mut Seen,
    ctx: &'a Context,
    start: Timestamp,
    /// Items not yet reported, and bytes of those among them that were not read.
    items: u64,
    bytes: u64,
    done: bool,
}

impl<'a> Capture<'a> {
    pub(super) fn new(
        walk: Walk<'a>,
        before: Option<Changes<'a>>,
        seen: &'a mut Seen,
        start: Timestamp,
        ctx: &'a Context,
    ) -> Self {
        let before = before.unwrap_or_else(|| Box::new(std::iter::empty())).peekable();
        Self { walk, before, seen, ctx, start, items: 0, bytes: 0, done: false }
    }

    /// The next change; `None` at the end.
    fn advance(&mut self) -> Result<Option<Change>, Failure> {
        loop {
            self.ctx.check_cancelled()?;
            let old = match self.before.peek() {
                None => None,
                Some(Ok(change)) => Some(&change.key),
                Some(Err(_)) => return self.old().map(|_| None),
            };
            let found = self.walk.peek().map(|found| &found.key);
            let order = match (old, found) {
                (None, None) => {
                    self.finish();
                    return Ok(None);
                }
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(found)) => old.cmp(found),
            };
            let old = if order == Ordering::Greater { None } else { self.old()? };
            let change = match (order, old) {
                (Ordering::Less, Some((key, _))) => Some(self.delete(key)?),
                (_, old) => self.visit(old.map(|(_, fingerprint)| fingerprint))?,
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

    /// What becomes of the entry that the walk is at, of which `before` was the fingerprint.
    fn visit(&mut self, before: Option<Vec<u8>>) -> Result<Option<Change>, Failure> {
        let Some(found) = self.walk.take() else { return Ok(None) };
        self.count();
        self.seen.numbers.note(found.stat.st_uid, found.stat.st_gid);
        let now = Fingerprint::of(&found.stat).encode(self.start);
        if !now.is_empty() && before.as_ref() == Some(&now) {
            if file_type(&found.stat) == FileType::RegularFile {
                self.bytes += size(&found.stat);
            }
            self.walk.pass(&found);
            return Ok(None);
        }
        let change = match self.read(&found) {
            Ok((value, fingerprint)) => {
                let fingerprint = fingerprint.encode(self.start);
                if before.as_ref() != Some(&fingerprint) {
                    self.remember(&found.key, Some(&fingerprint))?;
                }
                Some(Change { key: found.key.clone(), value: Some(value) })
            }
            Err(error) => {
                // What was deleted since it was found is no more missed than what was never there.
                if error.kind() != io::ErrorKind::NotFound {
                    self.walk.skip(&found.key, &format!("cannot be read: {error}"));
                }
                before.map(|_| self.delete(found.key.clone())).transpose()?
            }
        };
        self.walk.pass(&found);
        Ok(change)
    }

    /// The value of what was found, with the fingerprint of what exactly was opened.
    fn read(&self, found: &Found) -> io::Result<(Value, Fingerprint)> {
        let fingerprint = Fingerprint::of(&found.stat);
        let kind = match file_type(&found.stat) {
            FileType::RegularFile => return self.read_file(found),
            FileType::Symlink => EntryKind::Symlink { target: self.walk.read_link(found)? },
            _ => EntryKind::Directory,
        };
        let head = Entry::from_stat(kind, &found.stat).encode();
        Ok((Value { head, content: Content::empty() }, fingerprint))
    }

    fn read_file(&self, found: &Found) -> io::Result<(Value, Fingerprint)> {
        let file = self.walk.open(found)?;
        let stat = rustix::fs::fstat(&file)?;
        if file_type(&stat) != FileType::RegularFile {
            return Err(io::Error::other("something else took its place"));
        }
        let fingerprint = Fingerprint::of(&stat);
        let content = match size(&stat) {
            0 => Content::empty(),
            left => Content::Reader(Box::new(FileReader {
                file,
                item: display_key(&found.key),
                fingerprint,
                left,
                unreported: 0,
                ctx: self.ctx.clone(),
            })),
        };
        Ok((
            Value { head: Entry::from_stat(EntryKind::File, &stat).encode(), content },
            fingerprint,
        ))
    }

    fn delete(&mut self, key: Key) -> Result<Change, Failure> {
        self.remember(&key, None)?;
        Ok(Change::delete(key))
    }

    fn remember(&mut self, key: &[u8], fingerprint: Option<&[u8]>) -> Result<(), Failure> {
        Ok(self.seen.spool.push(key, fingerprint).map_err(|source| FilesError::Spool { source })?)
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

    fn finish(&mut self) {
        self.report_items();
        self.walk.report_unmatched();
    }
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

/// Reads an open file, no further than its size when it was opened: a log that grows faster than
/// it is read has an end. Says so if the file was changed meanwhile.
struct FileReader {
    file: File,
    item: String,
    fingerprint: Fingerprint,
    left: u64,
    unreported: u64,
    ctx: Context,
}

impl FileReader {
    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read(&mut buffer[..length])?;
        // The file is shorter than it was: that is all there is.
        self.left = if count == 0 { 0 } else { self.left.saturating_sub(count as u64) };
        self.unreported += count as u64;
        if self.left == 0 && Fingerprint::of(&rustix::fs::fstat(&self.file)?) != self.fingerprint {
            let (item, reason) = (self.item.clone(), "changed while it was read".to_owned());
            self.ctx.report(Event::Skipped { item, reason });
        }
        if self.left == 0 || self.unreported >= PROGRESS_BYTES {
            let bytes = std::mem::take(&mut self.unreported);
            self.ctx.report(Event::Progress { items: 0, bytes });
        }
        Ok(count)
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        self.read_some(buffer)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.item)))
    }
}
