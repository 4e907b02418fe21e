//! What every operation is given last: the clock, where to report, whether to stop, how many
//! threads to use.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::hint::{ErrorKind, Hint};
use crate::report::{Event, Reporter, Silent};
use crate::time::{Clock, SystemClock};

/// The surroundings of an operation; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who hears about progress and skipped items.
    pub reporter: Arc<dyn Reporter>,
    /// Whether the user asked to stop.
    pub cancel: Cancel,
    /// How many threads may work at once; at least 1.
    pub jobs: usize,
}

/// The threads of the program could not be started.
#[derive(Debug, thiserror::Error)]
#[error("threads could not be started")]
pub struct NoThreads(#[source] rayon::ThreadPoolBuildError);

impl Hint for NoThreads {}

impl Context {
    /// System clock, silent reporter, all cores.
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            reporter: Arc::new(Silent),
            cancel: Cancel::default(),
            jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }

    /// Starts the threads on which all operations of the process compute, as many as there are
    /// jobs. To be called once, before the first operation; without it there is one for each core.
    pub fn start_threads(&self) -> Result<(), NoThreads> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.jobs)
            .thread_name(|number| format!("coeval-{number}"))
            .build_global()
            .map_err(NoThreads)
    }

    /// Reports one event.
    pub fn report(&self, event: Event) {
        self.reporter.report(event);
    }

    /// Says that a new phase of work began.
    pub fn phase(&self, what: impl Into<String>, items: Option<u64>) {
        self.report(Event::Phase { what: what.into(), items });
    }

    /// Fails if the user asked to stop: called between items of work.
    pub fn check_cancelled(&self) -> Result<(), Cancelled> {
        if self.cancel.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}

/// A flag that a signal handler sets and operations look at.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks every operation with this flag to stop at the next item.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The flag itself: a signal handler can do no more than set one.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether someone asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The user asked to stop before the work was done; nothing was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; nothing was committed")]
pub struct Cancelled;

impl Hint for Cancelled {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Failed
    }
}
