//! What is known of collections: which packs nobody may refer to any more, which snapshots are gone.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::error::RepoError;
use super::format::collection::Collection;
use super::format::{FormatError, name};
use super::open::Repo;
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
        for (number, done) in listed {
            if number <= known.finished {
                continue;
            }
            let collection = match known.open.take().filter(|(open, _)| *open == number) {
                Some((_, collection)) => collection,
                None => Arc::new(self.read_collection(number)?),
            };
            known.forgotten.extend(&collection.forgotten);
            known.count = number;
            if done {
                self.view.bury(number, &collection.condemned)?;
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
        let name = name::collection(number);
        let object = self.backend.get(&name)?;
        let bytes = self.sealer.open_object(ObjectKind::Collection, &name, &object)?;
        Ok(Collection::decode(&bytes)?)
    }

    /// The numbers of all collections, and whether each is finished. A listing may lack what came
    /// into being while it was made, but the next number only comes after the one before is
    /// finished: so a gap says that the listing is torn.
    fn list_collections(&self) -> Result<BTreeMap<u64, bool>, RepoError> {
        for _ in 0..LISTINGS {
            let mut listed = BTreeMap::new();
            let mut done = Vec::new();
            for entry in self.backend.list(name::COLLECTIONS)? {
                let rest = entry.name.strip_prefix(name::COLLECTIONS).unwrap_or_default();
                let finished = rest.strip_suffix(".done");
                match (finished.unwrap_or(rest).parse::<u64>(), finished) {
                    (Ok(number), Some(_)) => done.push(number),
                    (Ok(number), None) => drop(listed.insert(number, false)),
                    // Ignored, as names elsewhere that nobody gives.
                    (Err(_), _) => {}
                }
            }
            for number in done {
                listed.entry(number).and_modify(|done| *done = true);
            }
            let is_dense = listed.keys().copied().eq(1..=listed.len() as u64);
            if is_dense && listed.iter().rev().skip(1).all(|(_, done)| *done) {
                return Ok(listed);
            }
        }
        let reason = "a number is missing in `gc/`".to_owned();
        Err(FormatError { what: "list of collections", reason }.into())
    }
}
