//! Repair of what the repository stores: what can still be read is kept, what cannot is named.

use std::collections::{BTreeSet, HashSet};

use super::check::{Finding, pack_id};
use super::collect::Writers;
use super::collections::Names;
use super::error::RepoError;
use super::format::collection::Collection;
use super::format::name;
use super::format::segment::Segment;
use super::open::{Repo, segment_ids};
use super::snapshots::Listed;
use crate::context::Context;
use crate::crypto::{ObjectKind, random};
use crate::hint::Failure;
use crate::id::{PackId, SnapshotId};
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

    /// Puts others in the place of collections whose content cannot be read any more, and finishes
    /// the last one, if it was not. Returns their numbers.
    ///
    /// What such a collection removed and the index still names is condemned again; what the index
    /// does not name, nobody who knows of the replacement refers to. Snapshots among `known`, and
    /// those that this host remembers, are taken for removed by it where they are gone. Only where
    /// no collector is at work anywhere: one that knows the lost content would go on with it.
    /// Writers are waited for.
    pub fn repair_collections(
        &self,
        known: &BTreeSet<SnapshotId>,
        writers: Writers,
        ctx: &Context,
    ) -> Result<BTreeSet<u64>, Failure> {
        let Names { there, done, replaced } = self.collection_names()?;
        let last = there.iter().chain(&done).chain(&replaced).max().copied().unwrap_or(0);
        let mut lost = BTreeSet::new();
        for number in (1..=last).filter(|number| !replaced.contains(number)) {
            let is_lost = match self.read_collection(number) {
                Ok(_) => false,
                Err(RepoError::Open(_) | RepoError::Format(_)) => true,
                Err(RepoError::Backend(error)) if error.is_not_found() => true,
                Err(error) => return Err(error.into()),
            };
            if is_lost {
                lost.insert(number);
            }
        }
        // The next one began, so this one was finished.
        let finished = (1..last).filter(|number| !done.contains(number));
        if lost.is_empty() && finished.clone().next().is_none() {
            return Ok(lost);
        }
        self.settle(writers, ctx)?;
        let condemned = self.absent_packs(ctx)?;
        for number in &lost {
            // In the middle of it, what was forgotten may be gone in part, and must not come back.
            let is_open = *number == last && !done.contains(number);
            let Listed { valid, void, forgotten } = self.list_snapshots()?;
            let there: BTreeSet<SnapshotId> = valid.into_iter().chain(void).collect();
            let known = known.union(&self.remembered()?).copied().collect::<BTreeSet<_>>();
            let mut gone: BTreeSet<SnapshotId> = known.difference(&there).copied().collect();
            gone.extend(forgotten.iter().filter(|_| is_open));
            let forgotten = gone.into_iter().collect();
            let collection =
                Collection::new(random().map_err(RepoError::from)?, condemned.clone(), forgotten);
            let name = name::collection_replaced(*number);
            let bytes = collection.encode().map_err(RepoError::from)?;
            let object = self.sealer.seal_object(ObjectKind::Collection, &name, &bytes);
            // Whoever else repairs at the same time has found the same.
            self.backend
                .create(&name, &object.map_err(RepoError::from)?)
                .map_err(RepoError::from)?;
        }
        for number in finished {
            self.backend.create(&name::collection_done(number), &[]).map_err(RepoError::from)?;
        }
        self.finish_repair(writers, ctx)?;
        Ok(lost)
    }

    /// Packs that the index names and that are not there.
    fn absent_packs(&self, ctx: &Context) -> Result<Vec<PackId>, Failure> {
        let packs = self.backend.list(name::PACKS).map_err(RepoError::from)?;
        let present: HashSet<PackId> =
            packs.iter().filter_map(|entry| pack_id(&entry.name)).collect();
        let mut absent = BTreeSet::new();
        self.each_indexed_pack(&mut |pack| {
            ctx.check_cancelled()?;
            if !present.contains(&pack.id) {
                absent.insert(pack.id);
            }
            Ok(())
        })?;
        Ok(absent.into_iter().collect())
    }
}
