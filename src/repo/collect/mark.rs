//! What is needed: found by whoever knows what snapshots mean.

use std::collections::HashSet;

use super::super::error::RepoError;
use super::super::open::Repo;
use super::super::seen::SeenChunks;
use super::super::snapshots::StoredSnapshot;
use crate::context::Context;
use crate::hint::Failure;
use crate::id::{ChunkId, SnapshotId};

/// Names every chunk that a snapshot needs. What it calls says whether the chunk is new, so that
/// nobody walks below what was walked before. It fails if it cannot tell.
pub type Mark<'a> = &'a dyn Fn(
    &StoredSnapshot,
    &mut dyn FnMut(ChunkId) -> Result<bool, RepoError>,
) -> Result<(), Failure>;

/// The chunks that snapshots need. Those of snapshots that were looked at stay: to keep too much is
/// never wrong.
#[derive(Debug, Default)]
pub(in crate::repo) struct Live {
    pub(super) chunks: SeenChunks,
    marked: HashSet<SnapshotId>,
}

impl Repo {
    /// Marks what snapshots need that were not marked before.
    pub(super) fn mark(
        &self,
        snapshots: &[SnapshotId],
        live: &mut Live,
        mark: Mark<'_>,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let news: Vec<_> =
            snapshots.iter().copied().filter(|id| !live.marked.contains(id)).collect();
        ctx.phase("finding what is needed", Some(news.len() as u64));
        for id in news {
            ctx.check_cancelled()?;
            // One that has gone is being removed by another collector, which a listing shows.
            for snapshot in self.read_snapshots(&[id])? {
                mark(&snapshot, &mut |chunk| live.chunks.insert(chunk))?;
            }
            live.marked.insert(id);
            ctx.report(crate::report::Event::Progress { items: 1, bytes: 0 });
        }
        Ok(())
    }
}
