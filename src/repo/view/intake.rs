//! Taking index segments into the view: few chunks through the memtable, many as sorted runs.

use std::sync::{MutexGuard, PoisonError};

use super::place::{Difference, Location, PackInfo, locations};
use super::store::Store;
use super::{Taken, View};
use crate::id::{ChunkId, SegmentId};
use crate::repo::error::RepoError;
use crate::repo::format::segment::Segment;

/// Chunks that are sorted at once: 28 MiB of memory.
const RUN: usize = 1 << 19;
/// Up to this many chunks, the memtable is quicker than a file of their own.
const FEW: usize = 1 << 14;
/// Runs that may wait to be merged. Merging them at once writes each entry once more, where
/// merging as they come would write it several times.
const RUNS: usize = 64;

/// Takes in segments, each all or nothing: it is recorded only after all it says is there. Memory
/// is bounded by one run, however many segments there are.
pub(in crate::repo) struct Intake<'v> {
    taken: MutexGuard<'v, Taken>,
    store: &'v Store,
    view: &'v View,
    chunks: Vec<(ChunkId, Location)>,
    differences: Vec<(ChunkId, Difference)>,
    packs: Vec<(u32, PackInfo)>,
    segments: Vec<SegmentId>,
    /// Chunks to a run.
    run: usize,
    /// Runs that were written and are not merged yet.
    runs: usize,
}

impl<'v> Intake<'v> {
    pub(super) fn new(taken: MutexGuard<'v, Taken>, store: &'v Store, view: &'v View) -> Self {
        let (chunks, differences) = (Vec::new(), Vec::new());
        let (packs, segments) = (Vec::new(), Vec::new());
        Self { taken, store, view, chunks, differences, packs, segments, run: RUN, runs: 0 }
    }

    /// Whether a segment has been taken in before.
    pub(in crate::repo) fn knows(&self, id: SegmentId) -> bool {
        self.taken.segments.contains(&id)
    }

    /// Takes in a segment; what is written when is this type's business, until [`Self::finish`].
    pub(in crate::repo) fn add(
        &mut self,
        id: SegmentId,
        segment: &Segment,
    ) -> Result<(), RepoError> {
        for pack in &segment.packs {
            // Whatever segment still names it: it is gone.
            if self.taken.dead.contains(&pack.id) {
                continue;
            }
            let number = self.taken.next_pack;
            self.taken.next_pack += 1;
            if self.taken.condemned.contains(&pack.id) {
                let condemned = &self.view.condemned;
                condemned.write().unwrap_or_else(PoisonError::into_inner).insert(number);
            }
            self.packs.push((number, PackInfo::of(pack)));
            for (chunk, location) in locations(number, pack) {
                match chunk.base {
                    None => self.chunks.push((chunk.id, location)),
                    Some(base) => {
                        self.differences.push((chunk.id, Difference { location, base }));
                    }
                }
            }
            if self.chunks.len() + self.differences.len() >= self.run {
                self.write()?;
            }
        }
        self.segments.push(id);
        Ok(())
    }

    /// Writes what is left, and merges what was written if that was a lot.
    pub(in crate::repo) fn finish(mut self) -> Result<(), RepoError> {
        self.write()?;
        if self.runs > 1 { self.merge() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), RepoError> {
        if self.chunks.len() <= FEW {
            let news = (&self.chunks[..], &self.differences[..]);
            self.store.write(&self.packs, news, &self.segments)?;
        } else {
            // Packs first, and durable: a crash must leave no chunk that points at a number
            // which is given to another pack later.
            self.store.write(&self.packs, (&[], &[]), &[])?;
            self.store.flush()?;
            if self.runs == 1 {
                self.store.merge_when_asked()?;
            }
            self.chunks.sort_unstable_by_key(|(id, _)| *id);
            self.chunks.dedup_by_key(|(id, _)| *id);
            self.store.ingest(&self.chunks)?;
            self.store.write(&[], (&[], &self.differences), &self.segments)?;
            self.runs += 1;
            if self.runs == RUNS {
                self.merge()?;
            }
        }
        self.packs.clear();
        self.chunks.clear();
        self.differences.clear();
        self.taken.segments.extend(self.segments.drain(..));
        Ok(())
    }

    fn merge(&mut self) -> Result<(), RepoError> {
        // A merged run is large: the next of this intake are not to be merged with it at once.
        self.runs = 0;
        self.store.merge()
    }
}

#[cfg(test)]
impl Intake<'_> {
    /// Makes runs shorter, so that few chunks are many runs.
    pub(super) fn with_runs_of(mut self, chunks: usize) -> Self {
        self.run = chunks;
        self
    }
}
