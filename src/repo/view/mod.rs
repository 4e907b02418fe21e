//! This host's view of the index: RocksDB under the cache directory, fed from index segments.
//!
//! It is disposable: whatever is wrong with it, it is thrown away and read again from the
//! repository. One process per host writes it. Others open it read-only, or not at all, and put
//! what they learn into a store of their own in a temporary folder, so that nobody waits and
//! nobody fails, and memory is bounded however much there is to learn.

mod intake;
mod place;
mod store;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use intake::Intake;
use place::Difference;
pub(super) use place::{Found, Location, PackInfo};
pub(super) use store::Store;

use super::error::RepoError;
use super::format::segment::Segment;
use crate::id::{ChunkId, PackId, SegmentId};

/// Ids that one thread looks up at a time.
const BATCH: usize = 128;
/// Threads that look up at a time: where the files are not in the page cache, each look-up waits
/// for the disk, which serves several at once.
const THREADS: usize = 4;

/// What this host and this process know of the index.
pub(super) struct View {
    /// The host's store; none where it can be neither made nor read.
    shared: Option<Store>,
    /// This process's own, for what it may not write into the shared one; made when needed.
    private: OnceLock<Store>,
    /// Packs of the private store are numbered from here.
    first_private: u32,
    /// Locations in packs with lower numbers count for nothing: since those were taken in, packs
    /// were removed, and everything was taken in again.
    first_valid: AtomicU32,
    /// The numbers of packs that are about to be removed.
    condemned: RwLock<HashSet<u32>>,
    taken: Mutex<Taken>,
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    /// The packs that it names.
    These,
    /// Others too, and nobody knows which.
    Others,
}

/// What has been taken in so far; whoever holds it takes in.
struct Taken {
    segments: HashSet<SegmentId>,
    next_pack: u32,
    /// The last collection whose packs this view is known to leave out.
    buried: u64,
    /// Packs that are not taken in: they are gone.
    dead: HashSet<PackId>,
    /// Packs that are about to be.
    condemned: HashSet<PackId>,
}

impl View {
    /// Opens the view in `directory`, or begins one of this process's own where that is not
    /// possible (another process is just making it, the disk is full). A view that knows a
    /// segment which is not among `present` comes from another past of this repository: it is
    /// begun anew.
    pub(super) fn open(directory: &Path, present: &HashSet<SegmentId>) -> Result<Self, RepoError> {
        let Some(store) = Store::open(directory) else { return Self::over(None) };
        let writable = store.is_writable();
        match Self::over(Some(store)) {
            Ok(view) if view.taken().segments.is_subset(present) => return Ok(view),
            Ok(_) | Err(RepoError::ViewDamaged) => {}
            Err(error) => return Err(error),
        }
        // Another process may be at it already.
        if writable && Store::destroy(directory).is_ok() {
            Self::over(Store::open(directory))
        } else {
            Self::over(None)
        }
    }

    fn over(shared: Option<Store>) -> Result<Self, RepoError> {
        let (segments, next_pack, (buried, first_valid)) = match &shared {
            Some(store) => (store.segments()?, store.next_pack()?, store.buried()?),
            None => (HashSet::new(), 0, (0, 0)),
        };
        let (dead, condemned) = (HashSet::new(), HashSet::new());
        Ok(Self {
            shared,
            private: OnceLock::new(),
            first_private: next_pack,
            first_valid: AtomicU32::new(first_valid),
            condemned: RwLock::default(),
            taken: Mutex::new(Taken { segments, next_pack, buried, dead, condemned }),
        })
    }

    /// Begins to take in segments. One thread at a time does; look-ups go on meanwhile.
    pub(super) fn intake(&self) -> Result<Intake<'_>, RepoError> {
        let taken = self.taken();
        let store = match self.shared.as_ref().filter(|store| store.is_writable()) {
            Some(store) => store,
            None => match self.private.get() {
                Some(store) => store,
                None => {
                    let made = Store::temporary()?;
                    self.private.get_or_init(|| made)
                }
            },
        };
        Ok(Intake::new(taken, store, self))
    }

    /// The segments among `present` that this view does not know.
    pub(super) fn missing(&self, present: HashSet<SegmentId>) -> Vec<SegmentId> {
        let taken = self.taken();
        present.into_iter().filter(|id| !taken.segments.contains(id)).collect()
    }

    /// Takes in one segment.
    pub(super) fn ingest(&self, id: SegmentId, segment: &Segment) -> Result<(), RepoError> {
        let mut intake = self.intake()?;
        intake.add(id, segment)?;
        intake.finish()
    }

    /// Where a chunk can be read, if this view knows it; whole, if there is a choice.
    pub(super) fn locate(&self, id: &ChunkId) -> Result<Option<Found>, RepoError> {
        if let Some(location) = self.locate_whole(id)? {
            return Ok(Some(Found { location, base: None }));
        }
        let Some(Difference { location, base }) = self.locate_difference(id)? else {
            return Ok(None);
        };
        let whole = self.locate_whole(&base)?;
        Ok(whole.map(|whole| Found { location, base: Some((base, whole)) }))
    }

    fn locate_whole(&self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        for store in self.stores() {
            if let Some(location) = store.locate(id)?.filter(|found| self.is_valid(*found)) {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    fn locate_difference(&self, id: &ChunkId) -> Result<Option<Difference>, RepoError> {
        for store in self.stores() {
            let difference = store.locate_difference(id)?;
            if let Some(found) = difference.filter(|found| self.is_valid(found.location)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Whether something new may refer to a chunk: neither it nor its base is in a pack that is
    /// about to be removed. (If no snapshot needs a difference, no collection keeps its base.)
    pub(super) fn lasts(&self, id: &ChunkId) -> Result<bool, RepoError> {
        let condemned = self.condemned.read().unwrap_or_else(PoisonError::into_inner);
        Ok(self.locate(id)?.is_some_and(|Found { location, base }| {
            !condemned.contains(&location.pack)
                && base.is_none_or(|(_, whole)| !condemned.contains(&whole.pack))
        }))
    }

    /// What the successor of a chunk can be a difference to: the chunk itself if it is whole, or
    /// else its base; so that there is only ever one step. Not in a pack that is about to be
    /// removed.
    pub(super) fn base_after(
        &self,
        predecessor: &ChunkId,
    ) -> Result<Option<(ChunkId, Location)>, RepoError> {
        let condemned = self.condemned.read().unwrap_or_else(PoisonError::into_inner);
        let whole = self
            .locate(predecessor)?
            .map(|Found { location, base }| base.unwrap_or((*predecessor, location)));
        Ok(whole.filter(|(_, whole)| !condemned.contains(&whole.pack)))
    }

    fn is_valid(&self, location: Location) -> bool {
        location.pack >= self.first_valid.load(Ordering::Acquire)
    }

    /// From now on, these are the packs that are about to be removed.
    pub(super) fn condemn(&self, packs: HashSet<PackId>) -> Result<(), RepoError> {
        let mut taken = self.taken();
        if taken.condemned == packs {
            return Ok(());
        }
        let mut numbers = HashSet::new();
        for store in self.stores().filter(|_| !packs.is_empty()) {
            store.each_pack(&mut |number, id| {
                if packs.contains(&id) {
                    numbers.insert(number);
                }
            })?;
        }
        *self.condemned.write().unwrap_or_else(PoisonError::into_inner) = numbers;
        taken.condemned = packs;
        Ok(())
    }

    /// Leaves out the packs that the collection of this number removed. If any of them is known,
    /// everything is taken in again: a chunk that was in one of them may also be elsewhere. So it is
    /// where nobody knows any more what the collection removed.
    pub(super) fn bury(
        &self,
        number: u64,
        packs: &[PackId],
        removed: Removed,
    ) -> Result<(), RepoError> {
        let mut taken = self.taken();
        let is_news = number > taken.buried;
        taken.dead.extend(packs);
        if is_news {
            taken.buried = number;
            self.begin_anew_without(packs, removed, taken)?;
        }
        Ok(())
    }

    /// Notes that segments are gone, and that all they said was taken in from others.
    pub(super) fn supersede(&self, segments: &[SegmentId]) -> Result<(), RepoError> {
        let mut taken = self.taken();
        for id in segments {
            taken.segments.remove(id);
        }
        match self.shared.as_ref().filter(|store| store.is_writable()) {
            Some(store) => store.forget_segments(segments.iter().copied()),
            None => Ok(()),
        }
    }

    /// Leaves out a pack that turned out to be gone, though no finished collection removed it.
    pub(super) fn lose(&self, pack: PackId) -> Result<(), RepoError> {
        let mut taken = self.taken();
        if taken.dead.insert(pack) {
            self.begin_anew_without(&[pack], Removed::These, taken)
        } else {
            Ok(())
        }
    }

    fn begin_anew_without(
        &self,
        packs: &[PackId],
        removed: Removed,
        mut taken: MutexGuard<'_, Taken>,
    ) -> Result<(), RepoError> {
        let packs: HashSet<&PackId> = packs.iter().collect();
        let first_valid = self.first_valid.load(Ordering::Acquire);
        let mut is_known = removed == Removed::Others;
        for store in self.stores().filter(|_| !packs.is_empty()) {
            store.each_pack(&mut |number, id| {
                is_known |= number >= first_valid && packs.contains(&id);
            })?;
        }
        let (buried, mut first_valid) = (taken.buried, first_valid);
        if is_known {
            first_valid = taken.next_pack;
            taken.segments.clear();
        }
        if let Some(store) = self.shared.as_ref().filter(|store| store.is_writable()) {
            store.bury(buried, first_valid)?;
            if is_known {
                store.forget_segments(store.segments()?.into_iter())?;
            }
        }
        self.first_valid.store(first_valid, Ordering::Release);
        Ok(())
    }

    /// Where chunks can be read, those that this view knows, in the order of `ids`. Best for
    /// hundreds at a time: they share the cost of asking, and wait for the disk together.
    pub(super) fn locate_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<Found>>, RepoError> {
        let whole = self.ask(ids, Store::locate_sorted, |location| *location)?;
        let mut found: Vec<Option<Found>> =
            whole.into_iter().map(|at| at.map(|location| Found { location, base: None })).collect();
        let absent: Vec<usize> = (0..ids.len()).filter(|at| found[*at].is_none()).collect();
        if absent.is_empty() {
            return Ok(found);
        }
        let sought: Vec<ChunkId> = absent.iter().map(|at| ids[*at]).collect();
        let differences =
            self.ask(&sought, Store::locate_differences_sorted, |found| found.location)?;
        let differences: Vec<(usize, Difference)> =
            absent.into_iter().zip(differences).filter_map(|(at, d)| Some((at, d?))).collect();
        let mut bases: Vec<ChunkId> = differences.iter().map(|(_, found)| found.base).collect();
        bases.sort_unstable();
        bases.dedup();
        let places = self.ask(&bases, Store::locate_sorted, |location| *location)?;
        for (at, Difference { location, base }) in differences {
            let place = bases.binary_search(&base).ok().and_then(|place| places[place]);
            found[at] = place.map(|place| Found { location, base: Some((base, place)) });
        }
        Ok(found)
    }

    /// Asks the stores for the same of many chunks.
    fn ask<T: Copy + Send>(
        &self,
        ids: &[ChunkId],
        look: Look<T>,
        location: impl Fn(&T) -> Location,
    ) -> Result<Vec<Option<T>>, RepoError> {
        let mut found = vec![None; ids.len()];
        let mut sought: Vec<(ChunkId, usize)> = ids.iter().copied().zip(0..).collect();
        sought.sort_unstable();
        for store in self.stores() {
            for some in sought.chunks(THREADS * BATCH) {
                for ((_, at), there) in some.iter().zip(locate_sorted(store, some, look)?) {
                    found[*at] = there.filter(|there| self.is_valid(location(there)));
                }
            }
            sought.retain(|(_, at)| found[*at].is_none());
        }
        Ok(found)
    }

    /// A pack by its number in this view.
    pub(super) fn pack(&self, number: u32) -> Result<PackInfo, RepoError> {
        let private = self.private.get().filter(|_| number >= self.first_private);
        let store = private.or(self.shared.as_ref()).ok_or(RepoError::ViewDamaged)?;
        store.pack(number)
    }

    fn stores(&self) -> impl Iterator<Item = &Store> {
        self.private.get().into_iter().chain(&self.shared)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks up a batch of chunks in one store.
type Look<T> = fn(&Store, &[ChunkId]) -> Result<Vec<Option<T>>, RepoError>;

/// Looks up to [`THREADS`] batches up at once.
fn locate_sorted<T: Send>(
    store: &Store,
    sought: &[(ChunkId, usize)],
    look: Look<T>,
) -> Result<Vec<Option<T>>, RepoError> {
    let look = |batch: &[(ChunkId, usize)]| {
        let ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
        look(store, &ids)
    };
    std::thread::scope(|scope| {
        let mut batches = sought.chunks(BATCH);
        let own = batches.next().unwrap_or_default();
        let others: Vec<_> = batches.map(|batch| scope.spawn(move || look(batch))).collect();
        let mut found = look(own)?;
        for other in others {
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(found)
    })
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let writable = self.shared.as_ref().map(Store::is_writable);
        f.debug_struct("View").field("writable", &writable).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
