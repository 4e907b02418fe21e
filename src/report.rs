//! How work in progress speaks: operations report [`Event`]s, and only `cli` decides what a
//! person sees of them. Nothing in the library prints.

use std::sync::Mutex;

/// Something worth telling while an operation runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A phase began: reading the files, applying a table. `items` is the expected number of
    /// items, where it is known.
    Phase {
        /// What is being done, in plain words: "reading storage/documents".
        what: String,
        /// How many items are expected, if known.
        items: Option<u64>,
    },
    /// Work was done since the last such event.
    Progress {
        /// Items (files, records, packs) finished.
        items: u64,
        /// Bytes of content handled.
        bytes: u64,
    },
    /// An item could not be read or restored. The snapshot is incomplete and the exit code is 3.
    Skipped {
        /// Which item.
        item: String,
        /// Why.
        reason: String,
    },
    /// A fact that the user should know, but that makes nothing incomplete.
    Note(String),
    /// Something is wrong that does not keep the operation from being done. It is always told.
    Warning(String),
    /// What became of one entry; only for who [wants](Reporter::wants_entries) to know.
    Entry {
        /// Which one.
        item: String,
        /// What became of it.
        fate: Fate,
        /// The length of its content.
        bytes: u64,
    },
    /// Entries that were looked at and not read again, since nothing about them has changed.
    Unchanged {
        /// Those that are not folders.
        files: u64,
        /// Folders.
        folders: u64,
    },
    /// What was left out for one reason, because it was asked for.
    LeftOut(LeftOut),
}

/// What became of an entry of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is new.
    Added,
    /// It is another than it was.
    Changed,
    /// It is gone.
    Removed,
    /// It was left out.
    LeftOut(Exclusion),
}

/// Why an entry was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusion {
    /// It matches a pattern.
    Pattern,
    /// It is larger than what is wanted.
    TooLarge,
    /// It is in a folder that `CACHEDIR.TAG` says is a cache.
    Cache,
    /// It is in a folder that holds a file which keeps it out.
    Tagged,
    /// It is on another file system.
    OtherFileSystem,
}

/// How much was left out for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// The reason.
    pub reason: Exclusion,
    /// Files and folders that were seen.
    pub entries: u64,
    /// Folders that were not entered: nobody counted what is in them. Where a folder is itself
    /// left out it is one of the entries, too.
    pub folders: u64,
    /// Bytes in the files among the entries.
    pub bytes: u64,
}

impl LeftOut {
    /// Counts more, whatever their reason.
    pub const fn add(&mut self, more: Self) {
        self.entries += more.entries;
        self.folders += more.folders;
        self.bytes += more.bytes;
    }
}

/// Receives the events of an operation, from any of its threads.
pub trait Reporter: Send + Sync {
    /// Takes one event. Must be quick: it is called from the middle of the work.
    fn report(&self, event: Event);

    /// Whether [`Event::Entry`] is wanted for every single one.
    fn wants_entries(&self) -> bool {
        false
    }
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: Event) {}
}

/// Remembers all events, for tests to look at.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// All events so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The items reported as skipped, in order.
    pub fn skipped(&self) -> Vec<String> {
        self.events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Skipped { item, .. } => Some(item),
                _ => None,
            })
            .collect()
    }
}

impl Reporter for Recorder {
    fn report(&self, event: Event) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(event);
    }
}
