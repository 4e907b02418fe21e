//! What is needed: found by whoever knows what snapshots mean.

use std::collections::HashSet;

use super::super::error::RepoError;
use super::super::open::Repo;
use super::super::seen::SeenChunks;
use super::super::snapshots::StoredSnapshot;
use crate::context::Context;
use crate::hint::Failure;
use crate::id::{ChunkId, SnapshotId};

/// Names everything that a snapshot needs, or fails: whoever does not know all of it must not
/// remove any.
pub type Mark<'a> = &'a dyn Fn(&StoredSnapshot, &mut EachNeeded<'_>) -> Result<(), Failure>;

/// Takes one chunk that is needed. The answer counts at nodes: whether what is below is not known
/// yet.
pub type EachNeeded<'a> = dyn FnMut(Needed) -> Result<bool, RepoError> + 'a;

/// A chunk that a snapshot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// It names others, which are needed too. Kept apart from content, since a file may well hold
    /// the very bytes of a node.
    Node(ChunkId),
    /// It is content.
    Content(ChunkId),
}

/// The chunks that snapshots need. Those of snapshots that were looked at stay while one collection
/// is planned and finished: to keep too much is never wrong, as long as it is there.
#[derive(Debug, Default)]
pub(in crate::repo) struct Live {
    pub(super) chunks: SeenChunks,
    walked: SeenChunks,
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
            for snapshot in self.read_snapshots(&[id]).map_err(|error| unreadable(id, error))? {
                mark(&snapshot, &mut |needed| match needed {
                    Needed::Content(id) => live.chunks.insert(id),
                    Needed::Node(id) => {
                        live.chunks.insert(id)?;
                        live.walked.insert(id)
                    }
                })?;
            }
            live.marked.insert(id);
            ctx.report(crate::report::Event::Progress { items: 1, bytes: 0 });
        }
        Ok(())
    }
}

/// Nobody knows what a snapshot needs that cannot be read.
fn unreadable(id: SnapshotId, error: RepoError) -> RepoError {
    match error {
        RepoError::Open(_) | RepoError::Format(_) => {
            RepoError::Unsound { problem: format!("snapshot {}: {error}", id.short()) }
        }
        error => error,
    }
}
