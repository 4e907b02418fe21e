//! What is needed: found by whoever knows what snapshots mean.

use std::collections::{HashMap, HashSet};

use super::super::error::RepoError;
use super::super::format::pack::{ChunkEntry, Footer};
use super::super::open::Repo;
use super::super::seen::SeenChunks;
use super::super::snapshots::StoredSnapshot;
use crate::context::Context;
use crate::hint::Failure;
use crate::id::{ChunkId, PackId, SnapshotId};

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
    /// What those of them that are stored as differences are differences to.
    bases: SeenChunks,
    walked: SeenChunks,
    marked: HashSet<SnapshotId>,
}

impl Live {
    /// Whether a chunk that is stored whole is needed.
    pub(super) fn needs_whole(&self, id: &ChunkId) -> Result<bool, RepoError> {
        Ok(self.chunks.contains(id)? || self.bases.contains(id)?)
    }

    /// Whether what a pack says of a chunk is needed.
    pub(super) fn needs(&self, chunk: &ChunkEntry) -> Result<bool, RepoError> {
        match chunk.base {
            None => self.needs_whole(&chunk.id),
            Some(_) => self.chunks.contains(&chunk.id),
        }
    }

    /// Whether nothing that is needed is stored as a difference.
    pub(super) const fn is_whole(&self) -> bool {
        self.bases.is_empty()
    }

    fn pin(&mut self, footer: &Footer) -> Result<(), RepoError> {
        for chunk in footer.blocks.iter().flat_map(|block| &block.chunks) {
            if let Some(base) = chunk.base
                && self.chunks.contains(&chunk.id)?
            {
                self.bases.insert(base)?;
            }
        }
        Ok(())
    }
}

impl Repo {
    /// Finds the bases of all needed chunks that are stored as differences, wherever they are and
    /// also if they are stored whole too: a base stays as long as any difference to it. `others`
    /// are packs that perhaps no segment names.
    pub(super) fn pin_bases(
        &self,
        live: &mut Live,
        others: &HashMap<PackId, u64>,
        ctx: &Context,
    ) -> Result<(), RepoError> {
        live.bases = SeenChunks::default();
        let mut indexed = HashSet::new();
        self.each_indexed_pack(&mut |pack| {
            ctx.check_cancelled()?;
            indexed.insert(pack.id);
            live.pin(&pack.footer)
        })?;
        for (id, size) in others.iter().filter(|(id, _)| !indexed.contains(*id)) {
            // What cannot be read is found out by whoever copies it.
            if let Ok(pack) = self.read_footer(*id, *size) {
                live.pin(&pack.footer)?;
            }
        }
        Ok(())
    }

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
