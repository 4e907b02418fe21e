//! Removing what no snapshot needs, beside everything else that goes on in the repository.
//!
//! The protocol is that of `docs/adr/0017-collection.md`, which `tests/collection` proves: what a
//! collection removes is said first, in an object that is created once and never deleted; whoever
//! begins to write later refers to nothing of it; whoever wrote before is waited for; then what is
//! still needed is copied, and only then is anything deleted. Anyone may go on with a collection
//! that somebody else began.

mod copy;
mod index;
mod mark;
mod plan;
mod remove;
mod salvage;

use std::sync::Arc;
use std::time::Duration;

use super::error::RepoError;
use super::format::collection::Collection;
use super::format::name;
use super::open::Repo;
use crate::backend::Created;
use crate::context::Context;
use crate::crypto::{ObjectKind, random};
use crate::hint::{ErrorKind, Failure};

use mark::Live;
pub use mark::{EachNeeded, Mark, Needed};
pub use plan::CollectionPlan;
use remove::Finishing;
pub use salvage::Salvaged;

/// How much of a collection is worth its cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CollectOptions {
    /// Bytes of what is not needed that may stay, as a part of what is needed: packs that are
    /// partly needed are copied until there is no more than that.
    pub max_unused: Unused,
    /// The most bytes of packs that are copied.
    pub max_repack: u64,
    /// What is done about backups that may still be running.
    pub writers: Writers,
}

/// How much of what is not needed may stay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unused {
    /// So many percent of what is needed.
    Percent(f64),
    /// So many bytes.
    Bytes(u64),
    /// Any: nothing is copied, only packs of which nothing is needed go.
    Unlimited,
}

/// What a collection does about writers that have committed nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Waits so long at most. Those that gave no sign of life for an hour are given up.
    Wait(Duration),
    /// Gives them up. One that lives fails, and loses nothing but its work.
    GiveUp,
}

impl Default for CollectOptions {
    fn default() -> Self {
        let max_unused = Unused::Percent(5.0);
        Self { max_unused, max_repack: u64::MAX, writers: Writers::Wait(Duration::MAX) }
    }
}

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectedBytes {
    /// Packs that were deleted.
    pub packs: u64,
    /// Their bytes.
    pub deleted: u64,
    /// Bytes of packs that were written with what was still needed of them.
    pub copied: u64,
    /// Snapshots that cannot come back any more.
    pub snapshots: u64,
    /// Backups that were given up.
    pub given_up: u64,
}

/// Whether a collector is done.
enum Progress {
    Done,
    GoOn,
}

impl Repo {
    /// What a collection would do now; changes nothing.
    pub fn plan_collection(
        &self,
        options: &CollectOptions,
        mark: Mark<'_>,
        ctx: &Context,
    ) -> Result<CollectionPlan, Failure> {
        self.learn_collections()?;
        self.refresh()?;
        let mut live = Live::default();
        self.plan(options, &mut live, mark, ctx)
    }

    /// Finishes a collection that goes on, if there is one, and then makes one of its own, unless
    /// there is nothing to do.
    pub fn collect(
        &self,
        options: &CollectOptions,
        mark: Mark<'_>,
        ctx: &Context,
    ) -> Result<CollectedBytes, Failure> {
        let mut done = CollectedBytes::default();
        loop {
            self.learn_collections()?;
            self.refresh()?;
            let finished = self.collections().finished();
            match self.collect_once(options, &mut done, mark, ctx) {
                Ok(Progress::Done) => return Ok(done),
                Ok(Progress::GoOn) => {}
                // What is not there may be what another collector has removed since, with the
                // snapshot that needed it.
                Err(failure) if failure.kind() == ErrorKind::Damage => {
                    self.learn_collections()?;
                    if self.collections().finished() == finished {
                        return Err(failure);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Finishes the collection that goes on, or makes one.
    fn collect_once(
        &self,
        options: &CollectOptions,
        done: &mut CollectedBytes,
        mark: Mark<'_>,
        ctx: &Context,
    ) -> Result<Progress, Failure> {
        let mut live = Live::default();
        let (next, open) = self.next_collection();
        if let Some((number, collection)) = open {
            let collection = &*collection;
            let this = Finishing { number, collection, options, mark, ctx };
            self.finish_collection(&this, &mut live, done)?;
            return Ok(Progress::GoOn);
        }
        // Whoever is at work now would be waited for anyway; before anything is condemned, nobody
        // stores again what lies in condemned packs.
        done.given_up += self.settle(options.writers, ctx)?;
        let plan = self.plan(options, &mut live, mark, ctx)?;
        if !plan.is_empty() {
            let Some((number, collection)) = self.begin_collection(next, plan)? else {
                return Ok(Progress::GoOn);
            };
            let collection = &collection;
            let this = Finishing { number, collection, options, mark, ctx };
            self.finish_collection(&this, &mut live, done)?;
        }
        self.remove_late_packs()?;
        self.compact_index(ctx)?;
        Ok(Progress::Done)
    }

    /// The number of the next collection, and the one that goes on. What is learnt while the next
    /// is planned must not change its number: it may only begin when all before are done.
    fn next_collection(&self) -> (u64, Option<(u64, Arc<Collection>)>) {
        let known = self.collections();
        (known.next(), known.open.clone())
    }

    /// Says what will be removed; none if somebody else was faster.
    fn begin_collection(
        &self,
        number: u64,
        plan: CollectionPlan,
    ) -> Result<Option<(u64, Collection)>, RepoError> {
        let collection = Collection::new(random()?, plan.condemned, plan.forgotten);
        let name = name::collection(number);
        let object =
            self.sealer.seal_object(ObjectKind::Collection, &name, &collection.encode()?)?;
        // Ours, if the answer to an earlier try was lost; else somebody else's.
        let is_ours = self.backend.create(&name, &object)? == Created::New
            || self.read_collection(number)?.nonce == collection.nonce;
        self.learn_collections()?;
        Ok(is_ours.then_some((number, collection)))
    }
}
