//! What a target cannot hold: the owner of a file where another than root restores, an attribute
//! that its file system does not have. Each loss is told when it happens and kept until the end,
//! when what is in the target is compared with what could be restored into it.

use std::io;
use std::iter::Peekable;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::spool::SpoolIter;
use super::path::display_key;
use super::staging::decode;
use super::{Entry, FilesError};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::Shortfall;
use crate::source::sort::{Duplicates, Sorted, Sorter};
use crate::tree::Key;

/// Bytes of losses that are kept in memory.
const BUDGET: usize = 4 << 20;

/// One thing in which an entry of the target is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// It could not be made: what was there before, if anything, still is.
    Entry,
    /// It belongs to these, and so lacks the right to act as someone else.
    Owner { uid: u32, gid: u32, mode: u16 },
    /// It has this mode.
    Mode(u16),
    /// It lacks the attribute of this name.
    Attribute(Vec<u8>),
    /// It has these flags.
    Flags(u32),
    /// It is a file of its own.
    Link,
    /// It has these flags, after those that forbid changes were tried too.
    Locks(u32),
}

impl Loss {
    /// The bytes in whose order the losses of an entry are applied.
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Entry => vec![0],
            Self::Owner { uid, gid, mode } => {
                let ids = [uid.to_le_bytes(), gid.to_le_bytes()].concat();
                [&[1], &ids[..], &mode.to_le_bytes()].concat()
            }
            Self::Mode(mode) => [&[2], &mode.to_le_bytes()[..]].concat(),
            Self::Attribute(name) => [&[3], &name[..]].concat(),
            Self::Flags(flags) => [&[4], &flags.to_le_bytes()[..]].concat(),
            Self::Link => vec![5],
            Self::Locks(flags) => [&[6], &flags.to_le_bytes()[..]].concat(),
        }
    }

    /// Makes the wanted entry what it became; `None` if it could not be made.
    fn apply(bytes: &[u8], mut entry: Entry) -> Option<Entry> {
        let (tag, rest) = bytes.split_first()?;
        let word = |at: usize| rest.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let half = |at: usize| rest.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
        match tag {
            1 => (entry.uid, entry.gid, entry.mode) = (word(0)?, word(4)?, half(8)?),
            2 => entry.mode = half(0)?,
            3 => entry.attributes.retain(|attribute| attribute.name != rest),
            4 | 6 => entry.flags = word(0)?,
            5 => entry.link = None,
            _ => return None,
        }
        Some(entry)
    }
}

/// Collects losses from all threads of a restore.
#[derive(Debug)]
pub(super) struct Losses {
    ctx: Context,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Keys, each followed by a number where it occurs several times.
    sorter: Sorter,
    any: bool,
    /// How many owners were refused, and for which item first: told once, since the reason lies
    /// in who restores and not in the file.
    owners: u64,
    first_owner: Option<String>,
}

impl Losses {
    pub(super) fn new(ctx: &Context) -> Self {
        let sorter = Sorter::new(BUDGET, Duplicates::Number);
        let inner = Inner { sorter, any: false, owners: 0, first_owner: None };
        Self { ctx: ctx.clone(), inner: Mutex::new(inner) }
    }

    /// Notes a loss and tells it.
    pub(super) fn add(&self, key: &[u8], loss: &Loss, reason: &str) -> Result<(), FilesError> {
        let mut inner = self.lock();
        inner.any = true;
        inner.sorter.push(key, &loss.encode())?;
        if matches!(loss, Loss::Owner { .. }) {
            inner.owners += 1;
            inner.first_owner.get_or_insert_with(|| display_key(key));
        } else {
            drop(inner);
            let reason = reason.to_owned();
            self.ctx.report(Event::Skipped { item: display_key(key), reason });
        }
        Ok(())
    }

    /// Whether anything was lost.
    pub(super) fn any(&self) -> bool {
        self.lock().any
    }

    /// Tells of the owners.
    pub(super) fn report_owners(&self) {
        let mut inner = self.lock();
        let others = std::mem::take(&mut inner.owners).saturating_sub(1);
        let Some(item) = inner.first_owner.take() else { return };
        drop(inner);
        let reason = match others {
            0 => "its owner was not restored: only root may give files to others".to_owned(),
            _ => format!(
                "its owner was not restored, nor that of {others} more: only root may give files to others"
            ),
        };
        self.ctx.report(Event::Skipped { item, reason });
    }

    /// All losses by key, once.
    pub(super) fn finish(&self) -> Result<Sorted, FilesError> {
        let none = Sorter::new(BUDGET, Duplicates::Number);
        Ok(std::mem::replace(&mut self.lock().sorter, none).finish()?)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the entries with losses became: joins the losses with what was wanted, both sorted.
pub(super) struct Shortfalls<'a> {
    pub(super) losses: Peekable<Sorted>,
    pub(super) journal: Peekable<SpoolIter<'a>>,
}

type Step = io::Result<(Key, Option<Vec<u8>>)>;

impl Shortfalls<'_> {
    fn advance(&mut self) -> Result<Option<(Key, Shortfall)>, FilesError> {
        let Some(first) = self.losses.next().transpose()? else { return Ok(None) };
        let key = without_number(first.0);
        let mut losses = vec![first.1];
        while let Some(Ok((next, _))) = self.losses.peek()
            && without_number(next.clone()) == key
        {
            losses.extend(self.losses.next().transpose()?.map(|(_, loss)| loss));
        }
        let spool = |source| FilesError::Spool { source };
        let before = |step: &Step| step.as_ref().is_ok_and(|(wanted, _)| *wanted < key);
        while self.journal.next_if(before).is_some() {}
        let here = |step: &Step| step.as_ref().map_or(true, |(wanted, _)| *wanted == key);
        let mut became = None;
        if let Some((_, Some(head))) = self.journal.next_if(here).transpose().map_err(spool)? {
            became = Some(decode(&key, &head)?);
            for loss in &losses {
                became = became.and_then(|entry| Loss::apply(loss, entry));
            }
        }
        let became = became.map_or(Shortfall::AsBefore, |entry| Shortfall::Head(entry.encode()));
        Ok(Some((key, became)))
    }
}

impl Iterator for Shortfalls<'_> {
    type Item = Result<(Key, Shortfall), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().map_err(Failure::from).transpose()
    }
}

fn without_number(mut key: Key) -> Key {
    key.truncate(key.len().saturating_sub(4));
    key
}
