//! Keeping the index small: segments are merged, without the packs that are gone.

use std::collections::HashSet;

use super::super::error::RepoError;
use super::super::format::name;
use super::super::format::segment::Segment;
use super::super::open::{Repo, segment_ids};
use crate::context::Context;
use crate::id::SegmentId;

/// Chunks in a merged segment.
const SEGMENT_CHUNKS: usize = 1 << 17;
/// A segment with fewer is small.
const SMALL: usize = 1 << 13;
/// So many small segments are worth being made into few large ones.
const MANY: usize = 32;

impl Repo {
    /// Replaces segments that name packs of finished collections, and small ones when there are
    /// many. What replaces them is published first, then exactly those are deleted that were read.
    /// Packs of a collection that goes on stay in the index: they may hold the only copy.
    pub(super) fn compact_index(&self, ctx: &Context) -> Result<(), RepoError> {
        let old = self.segments_to_replace(ctx)?;
        if old.is_empty() {
            return Ok(());
        }
        ctx.phase("merging index segments", Some(old.len() as u64));
        let (mut merged, mut chunks) = (Segment::default(), 0);
        let (mut read, mut packs) = (Vec::new(), HashSet::new());
        for id in old {
            ctx.check_cancelled()?;
            let Some(segment) = self.segment(id)? else { continue };
            read.push(id);
            for pack in segment.packs {
                if !self.collections().is_dead(pack.id) && packs.insert(pack.id) {
                    chunks += pack.footer.chunk_count();
                    merged.packs.push(pack);
                }
            }
            if chunks >= SEGMENT_CHUNKS {
                self.publish(&std::mem::take(&mut merged))?;
                chunks = 0;
            }
        }
        if !merged.packs.is_empty() {
            self.publish(&merged)?;
        }
        for id in &read {
            self.backend.delete(&name::segment(*id))?;
        }
        self.view.supersede(&read)
    }

    fn segments_to_replace(&self, ctx: &Context) -> Result<Vec<SegmentId>, RepoError> {
        let (mut old, mut small) = (Vec::new(), Vec::new());
        for id in segment_ids(&*self.backend)? {
            ctx.check_cancelled()?;
            let Some(segment) = self.segment(id)? else { continue };
            let chunks: usize = segment.packs.iter().map(|pack| pack.footer.chunk_count()).sum();
            if segment.packs.iter().any(|pack| self.collections().is_dead(pack.id)) {
                old.push(id);
            } else if chunks < SMALL {
                small.push(id);
            }
        }
        if small.len() >= MANY {
            old.append(&mut small);
        }
        Ok(old)
    }

    /// A segment; none if it was merged into another since it was listed.
    pub(super) fn segment(&self, id: SegmentId) -> Result<Option<Segment>, RepoError> {
        match self.backend.get(&name::segment(id)) {
            Ok(object) => self.open_segment(id, &object).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
