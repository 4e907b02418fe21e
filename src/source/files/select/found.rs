//! What is left out for what is found: files that are too large, and what is in tagged folders.
//! Tomorrow they may be small, and the tag gone, so a snapshot keeps what it was: a restore leaves
//! out the same, whatever it finds.

use std::io;
use std::iter::Peekable;

use crate::hint::Failure;
use crate::source::files::FilesError;
use crate::source::spool::{Spool, SpoolIter};
use crate::tree::{Change, Changes, Content, Key};

/// The keys of what is left out, in order: of files that are too large, with an empty head, and
/// of tagged folders, with the name of the tag, which alone is not left out.
#[derive(Debug)]
pub(in crate::source::files) struct LeftOutKeys {
    /// What the last walk left out.
    kept: Spool,
    /// What a snapshot that is to be restored left out.
    given: Option<Spool>,
}

impl LeftOutKeys {
    pub(super) fn new() -> Self {
        Self { kept: Spool::new(), given: None }
    }

    /// Takes what a snapshot left out.
    pub(super) fn give(&mut self, entries: Changes<'_>) -> Result<(), Failure> {
        let given = self.given.insert(Spool::new());
        for entry in entries {
            let Change { key, value } = entry?;
            let tag = value.map_or_else(Key::new, |value| value.head);
            given.push(&key, Some(&tag)).map_err(spool_error)?;
        }
        Ok(())
    }

    pub(super) const fn are_given(&self) -> bool {
        self.given.is_some()
    }

    /// What the last walk left out, as the entries of a tree.
    pub(in crate::source::files) fn entries(&mut self) -> Result<Changes<'_>, FilesError> {
        let entries = self.kept.read().map_err(spool_error)?;
        Ok(Box::new(entries.map(|entry| {
            let (key, tag) = entry.map_err(spool_error)?;
            Ok(Change::put(key, tag.unwrap_or_default(), Content::empty()))
        })))
    }

    /// Begins a walk.
    pub(super) fn begin(&mut self) -> Result<Keeping<'_>, FilesError> {
        self.kept = Spool::new();
        let given = self.given.as_mut().map(Spool::read).transpose().map_err(spool_error)?;
        Ok(Keeping { kept: &mut self.kept, given: given.map(Iterator::peekable), failed: None })
    }
}

/// The same during a walk. Keys have to come in their order.
#[derive(Debug)]
pub(super) struct Keeping<'a> {
    kept: &'a mut Spool,
    given: Option<Peekable<SpoolIter<'a>>>,
    /// Why a key could not be kept.
    failed: Option<io::Error>,
}

impl Keeping<'_> {
    /// The tag with which a key was given, if it was; empty for a file that was too large.
    pub(super) fn given(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let given = self.given.as_mut()?;
        let is_before = |entry: &io::Result<(Key, _)>| {
            entry.as_ref().is_ok_and(|(given, _)| given.as_slice() < key)
        };
        while given.next_if(is_before).is_some() {}
        match given.peek() {
            Some(Ok((given, tag))) if given == key => tag.clone(),
            _ => None,
        }
    }

    /// Keeps the key of what is left out.
    pub(super) fn keep(&mut self, key: &[u8], tag: &[u8]) {
        if let Err(error) = self.kept.push(key, Some(tag)) {
            self.failed.get_or_insert(error);
        }
    }

    /// Ends the walk: fails if a key could not be kept or read.
    pub(super) fn finish(&mut self) -> Result<(), FilesError> {
        let unread = |given: &mut Peekable<SpoolIter<'_>>| given.next_if(Result::is_err)?.err();
        let failed = self.failed.take().or_else(|| self.given.as_mut().and_then(unread));
        failed.map_or(Ok(()), |error| Err(spool_error(error)))
    }
}

fn spool_error(source: io::Error) -> FilesError {
    FilesError::Spool { source }
}
