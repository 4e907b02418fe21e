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
}

/// Receives the events of an operation, from any of its threads.
pub trait Reporter: Send + Sync {
    /// Takes one event. Must be quick: it is called from the middle of the work.
    fn report(&self, event: Event);
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
