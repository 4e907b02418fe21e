//! Contents on their way into a tree. They are read, cut and stored by all threads at once, and
//! handed on in the order in which they came.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Mutex, PoisonError};

use super::change::{Change, Content, Key, Value};
use super::error::TreeError;
use super::node::Stowed;
use super::shape::Shape;
use super::stream::{Before, Stower};
use crate::repo::{ChunkWriter, RepoError};

/// Bytes of contents that one thread takes at a time: about as many as are compressed together,
/// so that neighbours in the tree become neighbours in the repository.
const BATCH_BYTES: u64 = 1 << 20;
/// Contents that one thread takes at a time.
const BATCH_ITEMS: usize = 64;
/// Contents that wait or are being read: each may be an open file, of which a process may have
/// 1024 where nobody said otherwise.
const ITEMS_AHEAD: usize = 512;
/// Bytes of contents in memory that wait, before the next is taken.
const BYTES_AHEAD: usize = 16 << 20;

/// A change whose content is to be stored.
pub(super) struct Task<'a> {
    pub(super) change: Change,
    pub(super) before: Before<'a>,
}

/// An entry as it stands in a tree; `None` where it is gone.
pub(super) struct Ready {
    pub(super) key: Key,
    pub(super) value: Option<(Vec<u8>, Stowed)>,
}

/// Calls `each` for all changes, in order, their contents stored.
pub(super) fn in_order<'a>(
    writer: &'a dyn ChunkWriter,
    shape: &'a Shape,
    tasks: impl Iterator<Item = Result<Task<'a>, TreeError>>,
    each: impl FnMut(Ready) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    let stage =
        Stage { writer, shape, stowers: Mutex::default(), given_up: AtomicBool::new(false) };
    rayon::in_place_scope(|scope| {
        let result = stage.run(scope, tasks, each);
        stage.given_up.store(result.is_err(), Ordering::Relaxed);
        result
    })
}

struct Stage<'a> {
    writer: &'a dyn ChunkWriter,
    shape: &'a Shape,
    /// Their buffers serve whoever is at work.
    stowers: Mutex<Vec<Stower<'a>>>,
    /// Nobody waits for results any more.
    given_up: AtomicBool,
}

/// Tasks that one thread takes.
#[derive(Default)]
struct Batch<'a> {
    tasks: Vec<Task<'a>>,
    /// About how many bytes their contents have.
    expected: u64,
    /// How many of those are in memory.
    held: usize,
}

/// What a batch became: all that comes before the first error.
type Outcome = Vec<Result<Ready, TreeError>>;

/// Batches at work, the first one first.
#[derive(Default)]
struct Line {
    batches: VecDeque<(Receiver<Outcome>, usize)>,
    held: usize,
}

impl<'a> Stage<'a> {
    fn run<'scope>(
        &'scope self,
        scope: &rayon::Scope<'scope>,
        tasks: impl Iterator<Item = Result<Task<'a>, TreeError>>,
        mut each: impl FnMut(Ready) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let ahead = 2 * rayon::current_num_threads();
        let items = (ITEMS_AHEAD / ahead).clamp(1, BATCH_ITEMS);
        let mut here = Stower::new(self.writer, self.shape);
        let (mut line, mut batch) = (Line::default(), Batch::default());
        for task in tasks {
            let task = task?;
            if line.batches.is_empty() && batch.tasks.is_empty() && !self.is_work(&task.change) {
                each(stow(&mut here, task)?)?;
                continue;
            }
            batch.add(task);
            if batch.expected < BATCH_BYTES && batch.tasks.len() < items {
                continue;
            }
            self.begin(scope, std::mem::take(&mut batch), &mut line);
            while let Some(outcome) = line.next(ahead)? {
                outcome.into_iter().try_for_each(|ready| each(ready?))?;
            }
        }
        self.begin(scope, batch, &mut line);
        while let Some(outcome) = line.next(0)? {
            outcome.into_iter().try_for_each(|ready| each(ready?))?;
        }
        Ok(())
    }

    /// Whether there is more to do than to pass it on.
    fn is_work(&self, change: &Change) -> bool {
        match change.value.as_ref().map(|value| &value.content) {
            Some(Content::Inline(bytes)) => bytes.len() > self.shape.inline_max(),
            Some(Content::Reader(_)) => true,
            Some(Content::Stored(_)) | None => false,
        }
    }

    fn begin<'scope>(
        &'scope self,
        scope: &rayon::Scope<'scope>,
        batch: Batch<'a>,
        line: &mut Line,
    ) {
        let (done, outcome) = mpsc::sync_channel(1);
        line.batches.push_back((outcome, batch.held));
        line.held += batch.held;
        scope.spawn(move |_| {
            // Nobody listens where an earlier batch has failed.
            let _ = done.send(self.stow_all(batch));
        });
    }

    fn stow_all(&self, batch: Batch<'a>) -> Outcome {
        let stowers = || self.stowers.lock().unwrap_or_else(PoisonError::into_inner);
        let stower = stowers().pop();
        let mut stower = stower.unwrap_or_else(|| Stower::new(self.writer, self.shape));
        let mut outcome = Vec::with_capacity(batch.tasks.len());
        for task in batch.tasks {
            if self.given_up.load(Ordering::Relaxed) {
                break;
            }
            outcome.push(stow(&mut stower, task));
            if matches!(outcome.last(), Some(Err(_))) {
                break;
            }
        }
        stowers().push(stower);
        outcome
    }
}

fn stow(stower: &mut Stower<'_>, task: Task<'_>) -> Result<Ready, TreeError> {
    let Task { change: Change { key, value }, before } = task;
    let Some(Value { mut head, content }) = value else { return Ok(Ready { key, value: None }) };
    match stower.stow(content, &before, &mut head) {
        Ok(stowed) => Ok(Ready { key, value: stowed.map(|stowed| (head, stowed)) }),
        Err(error) => Err(error.of(&key)),
    }
}

impl<'a> Batch<'a> {
    fn add(&mut self, task: Task<'a>) {
        match task.change.value.as_ref().map(|value| &value.content) {
            Some(Content::Inline(bytes)) => {
                self.held += bytes.len();
                self.expected += bytes.len() as u64;
            }
            Some(Content::Reader(reader)) => self.expected += reader.expected(),
            Some(Content::Stored(_)) | None => {}
        }
        self.tasks.push(task);
    }
}

impl Line {
    /// What became of the first batch: waits for it while more than `ahead` are at work, or they
    /// hold too much; else `None` if it is not done.
    fn next(&mut self, ahead: usize) -> Result<Option<Outcome>, TreeError> {
        let Some((first, held)) = self.batches.front() else { return Ok(None) };
        let outcome = if self.batches.len() > ahead || self.held > BYTES_AHEAD {
            wait(first)
        } else {
            match first.try_recv() {
                Err(TryRecvError::Empty) => return Ok(None),
                received => received.ok(),
            }
        };
        self.held -= held;
        self.batches.pop_front();
        // A thread that panicked sent nothing; the scope goes on to panic when all have ended.
        outcome.map(Some).ok_or(TreeError::Repo(RepoError::Failed))
    }
}

/// Waits for a batch. A thread of the pool lends a hand meanwhile: it may be the only one.
fn wait(outcome: &Receiver<Outcome>) -> Option<Outcome> {
    while rayon::current_thread_index().is_some() {
        match outcome.try_recv() {
            Err(TryRecvError::Empty) => {
                rayon::yield_now();
            }
            received => return received.ok(),
        }
    }
    outcome.recv().ok()
}
