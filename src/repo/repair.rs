//! Repair of what the repository stores: what can still be read is kept, what cannot is named.

use super::check::{Finding, pack_id};
use super::error::RepoError;
use super::format::name;
use super::format::segment::Segment;
use super::open::{Repo, segment_ids};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;

impl Repo {
    /// Builds the index anew from the footers of all packs, and replaces every index segment.
    /// Packs whose footer cannot be read are findings; their chunks are lost to the index.
    pub fn rebuild_index(&self, ctx: &Context) -> Result<Vec<Finding>, Failure> {
        const CHUNKS: usize = 1 << 16;
        let old = segment_ids(&*self.backend)?;
        let packs = self.backend.list(name::PACKS).map_err(RepoError::from)?;
        ctx.phase("reading pack footers", Some(packs.len() as u64));
        let mut findings = Vec::new();
        let mut segment = Segment { supersedes: old.iter().copied().collect(), packs: Vec::new() };
        let mut chunks = 0;
        for entry in packs {
            ctx.check_cancelled()?;
            let Some(id) = pack_id(&entry.name) else { continue };
            if self.collections().is_dead(id) {
                continue;
            }
            match self.read_footer(id, entry.size) {
                Ok(record) => {
                    chunks += record.footer.chunk_count();
                    segment.packs.push(record);
                }
                Err(error) => {
                    findings.push(Finding { object: entry.name, problem: error.to_string() });
                }
            }
            if chunks >= CHUNKS {
                self.publish(&std::mem::take(&mut segment))?;
                chunks = 0;
            }
            ctx.report(Event::Progress { items: 1, bytes: entry.size });
        }
        self.publish(&segment)?;
        for id in old {
            self.backend.delete(&name::segment(id)).map_err(RepoError::from)?;
        }
        Ok(findings)
    }
}
