//! What a capture found, in numbers: told by the edit of the tree itself, so that they are those
//! of the snapshot and not of what looked changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::manifest::{Manifest, Skipped};
use crate::report::{Event, Fate, LeftOut, Reporter};
use crate::source::{Entry, EntryError, display_key};
use crate::tree::{Edited, Effect};

/// What a capture found of files, against the snapshot that it follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Everything that is not a folder.
    pub files: Tally,
    /// Folders.
    pub folders: Tally,
    /// What was left out because it was asked for, by reason.
    pub left_out: Vec<LeftOut>,
}

/// How many entries of a kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// That were not there.
    pub new: u64,
    /// That were another: content, or anything else that is kept.
    pub changed: u64,
    /// That are as they were.
    pub unmodified: u64,
    /// That are gone.
    pub removed: u64,
}

impl Tally {
    /// How many there are now.
    pub const fn total(&self) -> u64 {
        self.new + self.changed + self.unmodified
    }
}

impl Counts {
    /// Counts what was done to an entry of files.
    fn count(&mut self, edited: &Edited<'_>) -> Result<(), EntryError> {
        let is_folder = Entry::decode(edited.head)?.is_directory();
        let tally = if is_folder { &mut self.folders } else { &mut self.files };
        *match edited.effect {
            Effect::Added => &mut tally.new,
            Effect::Changed => &mut tally.changed,
            Effect::Unchanged => &mut tally.unmodified,
            Effect::Removed => &mut tally.removed,
        } += 1;
        Ok(())
    }

    /// What was left out, for whatever reason; `None` where that is nothing.
    pub fn left_out_in_all(&self) -> Option<LeftOut> {
        let mut left_out = self.left_out.iter().copied();
        let first = left_out.next()?;
        Some(left_out.fold(first, |mut all, more| {
            all.add(more);
            all
        }))
    }
}

/// Passes events on, and remembers what belongs into the manifest and the summary.
pub(super) struct Collector {
    inner: Arc<dyn Reporter>,
    bytes: AtomicU64,
    /// The first items that were skipped, and how many more there were.
    skipped: Mutex<(Vec<Skipped>, u64)>,
    counts: Mutex<Counts>,
    /// What the paths of single entries are put after.
    prefix: Mutex<String>,
}

/// What a [`Collector`] had collected.
#[derive(Clone)]
pub(super) struct Mark {
    bytes: u64,
    skipped: (Vec<Skipped>, u64),
    counts: Counts,
}

impl Collector {
    pub(super) fn new(inner: Arc<dyn Reporter>) -> Self {
        Self {
            inner,
            bytes: AtomicU64::new(0),
            skipped: Mutex::default(),
            counts: Mutex::default(),
            prefix: Mutex::default(),
        }
    }

    pub(super) fn skipped(&self) -> (Vec<Skipped>, u64) {
        lock(&self.skipped).clone()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    /// What was collected so far, to come [back](Self::go_back) to.
    pub(super) fn mark(&self) -> Mark {
        Mark { bytes: self.bytes(), skipped: self.skipped(), counts: self.counts() }
    }

    /// Forgets what was collected since: it is collected again.
    pub(super) fn go_back(&self, mark: Mark) {
        self.bytes.store(mark.bytes, Ordering::Relaxed);
        *lock(&self.skipped) = mark.skipped;
        *lock(&self.counts) = mark.counts;
    }

    /// The entries that follow are those of a source with this path.
    pub(super) fn enter(&self, path: String) {
        *lock(&self.prefix) = path;
    }

    /// Takes note of what became of an entry of files.
    pub(super) fn note(&self, edited: &Edited<'_>) -> Result<(), EntryError> {
        lock(&self.counts).count(edited)?;
        let fate = match edited.effect {
            Effect::Added => Fate::Added,
            Effect::Changed => Fate::Changed,
            Effect::Removed => Fate::Removed,
            Effect::Unchanged => return Ok(()),
        };
        if self.inner.wants_entries() {
            let (item, bytes) = (display_key(edited.key), edited.length);
            self.report(Event::Entry { item, fate, bytes });
        }
        Ok(())
    }
}

impl Reporter for Collector {
    fn report(&self, event: Event) {
        let event = match event {
            Event::Entry { item, fate, bytes } => {
                let prefix = lock(&self.prefix);
                let item = if item == "." { prefix.clone() } else { format!("{}/{item}", *prefix) };
                Event::Entry { item, fate, bytes }
            }
            event => event,
        };
        match &event {
            Event::Skipped { item, reason } => {
                let (listed, unlisted) = &mut *lock(&self.skipped);
                if listed.len() < Manifest::SKIPPED_MAX {
                    listed.push(Skipped { item: item.clone(), reason: reason.clone() });
                } else {
                    *unlisted += 1;
                }
            }
            Event::Progress { bytes, .. } => {
                self.bytes.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::Unchanged { files, folders } => {
                let mut counts = lock(&self.counts);
                counts.files.unmodified += files;
                counts.folders.unmodified += folders;
            }
            Event::LeftOut(more) => {
                let left_out = &mut lock(&self.counts).left_out;
                match left_out.iter_mut().find(|known| known.reason == more.reason) {
                    None => left_out.push(*more),
                    Some(known) => known.add(*more),
                }
            }
            Event::Phase { .. } | Event::Note(_) | Event::Warning(_) | Event::Entry { .. } => {}
        }
        self.inner.report(event);
    }

    fn wants_entries(&self) -> bool {
        self.inner.wants_entries()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
