//! What is known of collections: which packs nobody may refer to any more, which snapshots are gone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::error::RepoError;
use super::format::collection::Collection;
use super::format::{FormatError, name};
use super::open::Repo;
use super::view::Removed;
use crate::crypto::ObjectKind;
use crate::id::{PackId, SnapshotId};

/// How often a listing that lacks a number in the middle is made again: such a number exists, so a
/// later listing shows it, unless it was deleted.
const LISTINGS: u32 = 5;

/// All collections that this process has learnt of. It grows with the number of packs that were
/// ever removed: 20 bytes each.
#[derive(Debug, Default)]
pub(super) struct Collections {
    /// How many there are; they are numbered from 1.
    count: u64,
    /// How many of them are finished: all but the last one, or all.
    finished: u64,
    /// The one that goes on.
    pub(super) open: Option<(u64, Arc<Collection>)>,
    forgotten: HashSet<SnapshotId>,
    dead: HashSet<PackId>,
}

/// What a listing shows of one collection.
#[derive(Debug, Clone, Copy)]
struct Seen {
    done: bool,
    /// Its own content is lost, and another one counts.
    replaced: bool,
}

/// Numbers of collections.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those that are there.
    pub(super) there: BTreeSet<u64>,
    /// Those that are finished.
    pub(super) done: BTreeSet<u64>,
    /// Those in whose place another stands.
    pub(super) replaced: BTreeSet<u64>,
}

impl Collections {
    /// The number of the next collection.
    pub(super) const fn next(&self) -> u64 {
        self.count + 1
    }

    /// How many are finished.
    pub(super) const fn finished(&self) -> u64 {
        self.finished
    }

    /// Whether the snapshot is removed, or about to be: it cannot come back.
    pub(super) fn removes(&self, id: SnapshotId) -> bool {
        self.forgotten.contains(&id)
    }

    /// Whether a pack is removed by a collection that is finished.
    pub(super) fn is_dead(&self, id: PackId) -> bool {
        self.dead.contains(&id)
    }

    /// Whether a pack is removed or about to be.
    pub(super) fn condemns(&self, id: PackId) -> bool {
        let open = self.open.as_ref();
        self.is_dead(id) || open.is_some_and(|(_, open)| open.condemned.contains(&id))
    }
}

impl Repo {
    pub(super) fn collections(&self) -> MutexGuard<'_, Collections> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns of new collections, and has the view leave out what they removed. A session does this
    /// after it can be seen: every later collection waits for it.
    pub(super) fn learn_collections(&self) -> Result<(), RepoError> {
        let listed = self.list_collections()?;
        let mut known = self.collections();
        for (number, Seen { done, replaced }) in listed {
            if number <= known.finished {
                continue;
            }
            // When it is done it is read again: it may have been replaced since.
            let in_memory = known.open.take().filter(|(open, _)| *open == number && !done);
            let collection = match in_memory {
                Some((_, collection)) => collection,
                None if replaced => {
                    Arc::new(self.read_collection_at(&name::collection_replaced(number))?)
                }
                None => Arc::new(self.read_collection(number)?),
            };
            known.forgotten.extend(&collection.forgotten);
            known.count = number;
            if done {
                let removed = if replaced { Removed::Others } else { Removed::These };
                self.view.bury(number, &collection.condemned, removed)?;
                known.dead.extend(&collection.condemned);
                known.finished = number;
            } else {
                known.open = Some((number, collection));
            }
        }
        let condemned = known.open.as_ref().map(|(_, open)| open.condemned.iter().copied());
        self.view.condemn(condemned.into_iter().flatten().collect())
    }

    /// The same for those who only read: what damage there is in what was collected long ago hides
    /// nothing that is there. `check` finds it, and nobody writes before it is repaired.
    pub(super) fn learn_collections_if_sound(&self) -> Result<(), RepoError> {
        match self.learn_collections() {
            Err(RepoError::Open(_) | RepoError::Format(_)) => Ok(()),
            result => result,
        }
    }

    pub(super) fn read_collection(&self, number: u64) -> Result<Collection, RepoError> {
        self.read_collection_at(&name::collection(number))
    }

    fn read_collection_at(&self, name: &str) -> Result<Collection, RepoError> {
        let object = self.backend.get(name)?;
        let bytes = self.sealer.open_object(ObjectKind::Collection, name, &object)?;
        Ok(Collection::decode(&bytes)?)
    }

    /// All collections by their numbers. A listing may lack what came
    /// into being while it was made, but the next number only comes after the one before is
    /// finished: so a gap says that the listing is torn.
    fn list_collections(&self) -> Result<BTreeMap<u64, Seen>, RepoError> {
        for _ in 0..LISTINGS {
            let Names { there, done, replaced } = self.collection_names()?;
            let seen = |number: &u64| {
                let seen =
                    Seen { done: done.contains(number), replaced: replaced.contains(number) };
                (*number, seen)
            };
            let listed: BTreeMap<u64, Seen> = there.union(&replaced).map(seen).collect();
            let is_dense = listed.keys().copied().eq(1..=listed.len() as u64);
            if is_dense && listed.values().rev().skip(1).all(|seen| seen.done) {
                return Ok(listed);
            }
        }
        let reason = "a number is missing in `gc/`".to_owned();
        Err(FormatError { what: "list of collections", reason }.into())
    }

    /// What one listing shows of collections.
    pub(super) fn collection_names(&self) -> Result<Names, RepoError> {
        let mut names = Names::default();
        for entry in self.backend.list(name::COLLECTIONS)? {
            let rest = entry.name.strip_prefix(name::COLLECTIONS).unwrap_or_default();
            let (number, numbers) = match rest.split_once('.') {
                None => (rest, &mut names.there),
                Some((number, "done")) => (number, &mut names.done),
                Some((number, "replaced")) => (number, &mut names.replaced),
                Some(_) => continue,
            };
            // Ignored, as names elsewhere that nobody gives.
            numbers.extend(number.parse::<u64>().ok());
        }
        Ok(names)
    }
}
