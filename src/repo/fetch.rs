//! Reading many chunks: in the order in which they lie in the packs, so that each block is read
//! and decoded once, by several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::chunks::{ChunkReader as _, EachChunk};
use super::error::RepoError;
use super::format::name;
use super::open::Repo;
use super::view::{Found, Location};
use crate::hint::Failure;
use crate::id::ChunkId;

/// What lies between two wanted blocks is read with them if it is no longer than this: cheaper
/// than a second request.
const GAP: u64 = 256 << 10;
/// The longest range that is read at once: the memory of a thread, and its share of the work.
const RANGE: u64 = 2 << 20;
/// The shortest of which it is worth while to make several.
const SHARE: u64 = 64 << 10;

/// A wanted chunk and where it is. One that is stored as a difference is read where its base is:
/// differences are small, and few blocks hold many.
struct Wanted<'a> {
    /// Its place in the caller's list.
    index: usize,
    id: &'a ChunkId,
    /// Where it, or its base, is whole.
    location: Location,
    /// The base, and where the difference is.
    difference: Option<(ChunkId, Location)>,
}

impl Wanted<'_> {
    fn start(&self) -> u64 {
        self.location.offset.into()
    }

    fn end(&self) -> u64 {
        self.start() + u64::from(self.location.length)
    }

    fn block(&self) -> (u32, u16) {
        (self.location.pack, self.location.block)
    }
}

impl Repo {
    pub(super) fn fetch(
        &self,
        ids: &[ChunkId],
        jobs: usize,
        each: &EachChunk<'_>,
    ) -> Result<(), Failure> {
        let mut wanted = Vec::with_capacity(ids.len());
        for (index, (id, found)) in ids.iter().zip(self.view.locate_many(ids)?).enumerate() {
            // What this host does not know yet is looked up in the repository.
            let Found { location, base } = found.map_or_else(|| self.locate(id), Ok)?;
            let (location, difference) = match base {
                None => (location, None),
                Some((base, whole)) => (whole, Some((base, location))),
            };
            wanted.push(Wanted { index, id, location, difference });
        }
        wanted.sort_unstable_by_key(|w| (w.location.pack, w.location.offset, w.location.inner));
        let ranges = ranges(&wanted, jobs);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = self.fetch_range(&wanted[range.clone()], each);
                if done.is_err() {
                    // The others need not go on.
                    next.store(ranges.len(), Ordering::Relaxed);
                    return done;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others = jobs.min(ranges.len()).saturating_sub(1);
            let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for other in others {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(other);
            }
            result
        })
    }

    /// Reads chunks of one pack that lie close together.
    fn fetch_range(&self, wanted: &[Wanted<'_>], each: &EachChunk<'_>) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(()) };
        let pack = self.view.pack(first.location.pack)?;
        let cached = wanted.iter().all(|w| self.blocks.contains_key(&w.block()));
        let sealed = if cached {
            None
        } else {
            match self.backend.get_range(&name::pack(pack.id), first.start()..last.end()) {
                Ok(sealed) => Some(sealed),
                // Repacked since this host last looked, or shorter than it should be: one by one,
                // what is there is found, and what is not is named.
                Err(_) => return self.fetch_singly(wanted, each),
            }
        };
        for chunks in wanted.chunk_by(|a, b| a.block() == b.block()) {
            let (id, location) = (chunks[0].id, chunks[0].location);
            let block = self.block(id, &pack, location, || match &sealed {
                Some(sealed) => {
                    let start = usize::try_from(chunks[0].start() - first.start());
                    let start = start.map_err(|_| RepoError::ViewDamaged)?;
                    Ok(sealed.slice(start..start + location.length as usize))
                }
                // Evicted since it was looked for.
                None => self.sealed(&pack, location),
            });
            let block = match block {
                Err(RepoError::PackGone { .. }) => {
                    self.fetch_singly(chunks, each)?;
                    continue;
                }
                block => block?,
            };
            for chunk in chunks {
                let Some((base, difference)) = chunk.difference else {
                    each(chunk.index, self.chunk(chunk.id, &pack, chunk.location, &block)?)?;
                    continue;
                };
                let base = self.chunk(&base, &pack, chunk.location, &block)?;
                match self.read_difference(chunk.id, difference, &base) {
                    Err(RepoError::PackGone { .. }) => {
                        each(chunk.index, self.read_chunk(chunk.id)?)?;
                    }
                    bytes => each(chunk.index, bytes?)?,
                }
            }
        }
        Ok(())
    }

    fn fetch_singly(&self, wanted: &[Wanted<'_>], each: &EachChunk<'_>) -> Result<(), Failure> {
        for Wanted { index, id, .. } in wanted {
            each(*index, self.read_chunk(id)?)?;
        }
        Ok(())
    }
}

/// Cuts what is wanted, in the order of packs, into what is read at once; so that each of `jobs`
/// threads has a share.
fn ranges(wanted: &[Wanted<'_>], jobs: usize) -> Vec<Range<usize>> {
    let blocks = wanted.chunk_by(|a, b| a.block() == b.block());
    let bytes: u64 = blocks.map(|chunks| u64::from(chunks[0].location.length)).sum();
    let longest = (bytes / (2 * jobs as u64).max(1)).clamp(SHARE, RANGE);
    let mut ranges = Vec::new();
    let mut from = 0;
    for to in 1..=wanted.len() {
        let apart = wanted.get(to).is_none_or(|next| {
            let (first, last) = (&wanted[from], &wanted[to - 1]);
            next.location.pack != first.location.pack
                || next.start() > last.end() + GAP
                || next.end() > first.start() + longest && next.block() != last.block()
        });
        if apart {
            ranges.push(from..to);
            from = to;
        }
    }
    ranges
}
