//! Turns a walk into changes: what is new or different since the fingerprints of the capture
//! before, and what is gone.

use std::cmp::Ordering;
use std::io;
use std::iter::Peekable;

use rustix::fs::FileType;

use super::FilesError;
use super::entry::{Entry, EntryKind, Fingerprint, file_type, size};
use super::reading::{FileReader, Unread};
use super::spool::Spool;
use super::walk::{Found, Walk};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::time::Timestamp;
use crate::tree::{Change, Changes, Content, Key, Value};

/// Items between two progress reports.
const PROGRESS_ITEMS: u64 = 256;

/// The changes since the fingerprints in `before`. Puts the changed fingerprints into `spool`.
pub(super) struct Capture<'a> {
    walk: Walk<'a>,
    before: Peekable<Changes<'a>>,
    spool: &'a mut Spool,
    unread: Unread,
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
        spool: &'a mut Spool,
        unread: Unread,
        start: Timestamp,
        ctx: &'a Context,
    ) -> Self {
        let before = before.unwrap_or_else(|| Box::new(std::iter::empty())).peekable();
        Self { walk, before, spool, unread, ctx, start, items: 0, bytes: 0, done: false }
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
            _ => Content::Reader(Box::new(FileReader::new(
                file,
                &stat,
                found.key.clone(),
                self.unread.clone(),
                self.ctx.clone(),
            ))),
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
        Ok(self.spool.push(key, fingerprint).map_err(|source| FilesError::Spool { source })?)
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
