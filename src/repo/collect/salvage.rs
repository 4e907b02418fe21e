//! Taking damaged packs out of the repository, after what can still be read of them was copied.
//! It is a collection that condemns them, so it runs beside everything else and is finished by
//! whoever comes next; only that it keeps all that can be read, without asking who needs it, and
//! that what cannot be read does not stop it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::check::Finding;
use super::super::error::RepoError;
use super::super::format::block::Decoder;
use super::super::format::collection::Collection;
use super::super::format::name;
use super::super::format::pack::{BlockEntry, ChunkEntry, Part};
use super::super::format::segment::PackRecord;
use super::super::open::Repo;
use super::super::seen::SeenChunks;
use super::copy::{Choose, Copier};
use super::plan::CollectionPlan;
use super::{CollectedBytes, Writers};
use crate::backend::BackendErrorKind;
use crate::context::Context;
use crate::hint::Failure;
use crate::id::{ChunkId, PackId};
use crate::report::Event;

/// What became of damaged packs.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// How many were removed.
    pub packs: u64,
    /// Bytes of packs with what was still good in them.
    pub copied: u64,
    /// What could not be read.
    pub findings: Vec<Finding>,
    /// Chunks that are lost: nobody else holds them.
    pub lost: u64,
}

impl Repo {
    /// Copies what can be read of these packs, and removes them: the index names nothing any more
    /// that cannot be read, so the next backup stores it again if its source still has it.
    ///
    /// Fails, and removes nothing, where the store does not answer: what is only out of reach is
    /// not lost.
    pub fn repair_packs(
        &self,
        damaged: &BTreeSet<PackId>,
        writers: Writers,
        ctx: &Context,
    ) -> Result<Salvaged, Failure> {
        let mut salvaged = Salvaged::default();
        loop {
            self.learn_collections()?;
            self.refresh()?;
            let (next, open) = self.next_collection();
            if let Some((number, collection)) = open {
                self.settle(writers, ctx)?;
                self.finish_salvaging(number, &collection, &mut salvaged, ctx)?;
                continue;
            }
            let left = damaged.iter().copied().filter(|id| !self.collections().is_dead(*id));
            let condemned: Vec<PackId> = left.collect();
            if condemned.is_empty() {
                self.compact_index(ctx)?;
                return Ok(salvaged);
            }
            self.settle(writers, ctx)?;
            self.begin_collection(next, CollectionPlan { condemned, ..CollectionPlan::default() })?;
        }
    }

    /// Finishes a collection that was begun before a snapshot turned out to be damaged, and that
    /// therefore nobody else finishes: it does not list the snapshot, so a collector would have to
    /// know what it needs. Here all that can be read is kept, whoever needs it.
    pub fn finish_repair(&self, writers: Writers, ctx: &Context) -> Result<Salvaged, Failure> {
        self.repair_packs(&BTreeSet::new(), writers, ctx)
    }

    fn finish_salvaging(
        &self,
        number: u64,
        collection: &Collection,
        salvaged: &mut Salvaged,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let void = self.list_snapshots()?.void;
        let here = self.salvage(&collection.condemned, ctx)?;
        self.learn_collections()?;
        self.refresh()?;
        if self.is_finished(number) {
            // Somebody else was faster, and has seen to all that this one missed.
            return Ok(());
        }
        let mut done = CollectedBytes::default();
        self.remove_packs(&collection.condemned, &mut done, ctx)?;
        self.remove_sessions(collection, &void, ctx)?;
        self.backend.create(&name::collection_done(number), &[]).map_err(RepoError::from)?;
        salvaged.packs += collection.condemned.len() as u64;
        salvaged.copied += here.copied;
        salvaged.lost += here.lost;
        salvaged.findings.extend(here.findings);
        Ok(())
    }

    /// Copies every chunk that can be read in these packs and is in no other.
    fn salvage(&self, condemned: &[PackId], ctx: &Context) -> Result<Salvaged, RepoError> {
        // What is whole, and what is not, but a difference to what is.
        let (mut held, mut differences) = (SeenChunks::default(), SeenChunks::default());
        let mut records: BTreeMap<PackId, Vec<PackRecord>> = BTreeMap::new();
        self.each_indexed_pack(&mut |pack| {
            ctx.check_cancelled()?;
            if condemned.contains(&pack.id) {
                let known = records.entry(pack.id).or_default();
                if !known.contains(&pack) {
                    known.push(pack);
                }
            } else if !self.collections().condemns(pack.id) {
                for chunk in pack.footer.blocks.iter().flat_map(|block| &block.chunks) {
                    if chunk.base.is_none() {
                        held.insert(chunk.id)?;
                    }
                }
            }
            Ok(())
        })?;
        let present: HashMap<String, u64> =
            self.backend.list(name::PACKS)?.into_iter().map(|e| (e.name, e.size)).collect();
        let mut copier = Copier::new(self)?;
        let mut salvaged = Salvaged::default();
        ctx.phase("copying what can be read", Some(condemned.len() as u64));
        for id in condemned {
            ctx.check_cancelled()?;
            let Some(size) = present.get(&name::pack(*id)) else { continue };
            let known = records.entry(*id).or_default();
            match self.read_footer(*id, *size) {
                // Another pack that stands under this name describes itself.
                Ok(record) if !known.contains(&record) => known.push(record),
                Ok(_) => {}
                Err(error) => is_lost(error).map(|problem| {
                    salvaged.findings.push(Finding { object: name::pack(*id), problem });
                })?,
            }
            for record in &*known {
                let mut choose =
                    |chunk: &ChunkEntry| Ok(chunk.base.is_none() && !held.contains(&chunk.id)?);
                let found = copier.salvage_pack(record, &mut choose, &mut salvaged.findings)?;
                found.into_iter().try_for_each(|id| held.insert(id).map(drop))?;
            }
            ctx.report(Event::Progress { items: 1, bytes: *size });
        }
        // Now it is known which bases there are.
        let is_readable = |chunk: &ChunkEntry, held: &SeenChunks| match chunk.base {
            Some(base) => Ok::<_, RepoError>(held.contains(&base)? && !held.contains(&chunk.id)?),
            None => Ok(false),
        };
        self.each_staying_chunk(ctx, &mut |chunk| {
            if is_readable(chunk, &held)? {
                differences.insert(chunk.id)?;
            }
            Ok(())
        })?;
        for record in condemned.iter().filter_map(|id| records.get(id)).flatten() {
            let mut choose = |chunk: &ChunkEntry| {
                Ok(is_readable(chunk, &held)? && !differences.contains(&chunk.id)?)
            };
            let found = copier.salvage_pack(record, &mut choose, &mut salvaged.findings)?;
            found.into_iter().try_for_each(|id| differences.insert(id).map(drop))?;
        }
        salvaged.copied = copier.finish()?;
        for record in records.values().flatten() {
            for chunk in record.footer.blocks.iter().flat_map(|block| &block.chunks) {
                let is_lost = !differences.contains(&chunk.id)? && held.insert(chunk.id)?;
                salvaged.lost += u64::from(is_lost);
            }
        }
        Ok(salvaged)
    }
}

impl Copier<'_> {
    /// Copies what is chosen of a pack, as far as it can be read; says what that was.
    fn salvage_pack(
        &mut self,
        pack: &PackRecord,
        choose: &mut Choose<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<ChunkId>, RepoError> {
        let mut decoder = Decoder::new().map_err(RepoError::Zstd)?;
        let mut found = Vec::new();
        for (number, block) in (0..).zip(&pack.footer.blocks) {
            let chosen = block.chunks.iter().map(&mut *choose).collect::<Result<Vec<_>, _>>()?;
            if !chosen.contains(&true) {
                continue;
            }
            match self.salvage_block(pack, number, block, &chosen, &mut decoder) {
                Ok(()) => {
                    let chosen = block.chunks.iter().zip(chosen).filter(|(_, chosen)| *chosen);
                    found.extend(chosen.map(|(chunk, _)| chunk.id));
                }
                Err(error) => {
                    let problem = is_lost(error)?;
                    let object = format!("{} block {number}", name::pack(pack.id));
                    findings.push(Finding { object, problem });
                }
            }
        }
        Ok(found)
    }

    fn salvage_block(
        &mut self,
        pack: &PackRecord,
        number: u32,
        block: &BlockEntry,
        chosen: &[bool],
        decoder: &mut Decoder,
    ) -> Result<(), RepoError> {
        let repo = self.repo;
        let range = u64::from(block.offset)..block.end();
        let sealed = repo.backend.get_range(&name::pack(pack.id), range)?;
        let opener = repo.sealer.pack_opener(&pack.salt);
        let opened = opener.open(number, Part::Block as u8, sealed.to_vec())?;
        self.copy_block(pack.footer.class, opened, block, chosen, decoder)
    }
}

/// What is wrong with what was read; an error, if it could not be read now.
fn is_lost(error: RepoError) -> Result<String, RepoError> {
    match &error {
        RepoError::Open(_)
        | RepoError::Format(_)
        | RepoError::ChunkMissing { .. }
        | RepoError::ChunkDamaged { .. } => Ok(error.to_string()),
        RepoError::Backend(cause)
            if matches!(cause.cause(), BackendErrorKind::Damaged | BackendErrorKind::NotFound) =>
        {
            Ok(error.to_string())
        }
        _ => Err(error),
    }
}
