//! Copying what is still needed out of condemned packs.

use std::collections::HashMap;

use super::super::budget::Budget;
use super::super::check::stretches;
use super::super::chunks::Class;
use super::super::compression::Compression;
use super::super::error::RepoError;
use super::super::format::block::Decoder;
use super::super::format::pack::{BlockEntry, Part};
use super::super::format::segment::{PackRecord, Segment};
use super::super::format::{FormatError, name};
use super::super::gather::{Gathered, Gatherer};
use super::super::open::{Repo, segment_ids};
use super::super::packer::{FinishedPack, PackBuilder};
use super::super::seen::SeenChunks;
use super::mark::Live;
use crate::backend::BackendErrorKind;
use crate::context::Context;
use crate::crypto::random;
use crate::id::{PackId, SnapshotId};
use crate::report::Event;

/// Chunks after which copied packs are published in a segment.
const SEGMENT_CHUNKS: usize = 1 << 16;

/// Writes packs of copied chunks. Their names begin with an id of their own, of which there is no
/// session: what is left of a copy that was interrupted is known to be nobody's.
pub(super) struct Copier<'r> {
    pub(super) repo: &'r Repo,
    id: SnapshotId,
    next: u32,
    data: Gatherer,
    nodes: Gatherer,
    /// Who fills a pack stores it before the next, so there is always room.
    storing: Budget,
    unpublished: Segment,
    written: u64,
}

impl Repo {
    /// Copies every chunk of the condemned packs that is live, unless a pack that stays holds it.
    /// Returns how many bytes were written, after all of them are durable and published, and only
    /// if every live chunk is held then.
    ///
    /// Fails as not found when a pack goes while it is read: another collector was faster.
    pub(super) fn copy_live(
        &self,
        condemned: &[PackId],
        live: &Live,
        ctx: &Context,
    ) -> Result<u64, RepoError> {
        let mut held = SeenChunks::default();
        self.each_indexed_pack(&mut |pack| {
            ctx.check_cancelled()?;
            if self.collections().condemns(pack.id) {
                return Ok(());
            }
            for chunk in pack.footer.blocks.iter().flat_map(|block| &block.chunks) {
                if chunk.base.is_none() && live.chunks.contains(&chunk.id)? {
                    held.insert(chunk.id)?;
                }
            }
            Ok(())
        })?;
        let present: HashMap<String, u64> =
            self.backend.list(name::PACKS)?.into_iter().map(|e| (e.name, e.size)).collect();
        let mut copier = Copier::new(self)?;
        ctx.phase("copying what is needed", Some(condemned.len() as u64));
        for id in condemned {
            ctx.check_cancelled()?;
            let Some(size) = present.get(&name::pack(*id)) else { continue };
            // Also a pack that no segment names may hold the only copy.
            match self.read_footer(*id, *size) {
                Ok(pack) => copier.copy_pack(&pack, live, &mut held)?,
                Err(RepoError::Backend(error)) if error.cause() != BackendErrorKind::Damaged => {
                    return Err(error.into());
                }
                // Whether anything is lost with it is found below.
                Err(_damaged) => {}
            }
            ctx.report(Event::Progress { items: 1, bytes: *size });
        }
        let written = copier.finish()?;
        let lost = live.chunks.len() - held.len();
        if lost > 0 {
            let problem = format!("{lost} chunks that snapshots need are not there");
            return Err(RepoError::Unsound { problem });
        }
        Ok(written)
    }

    /// Calls `each` for every pack that a segment names, perhaps more than once.
    pub(in crate::repo) fn each_indexed_pack(
        &self,
        each: &mut dyn FnMut(PackRecord) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        for id in segment_ids(&*self.backend)? {
            // To miss one that was merged since the listing costs a copy, no chunk.
            if let Some(segment) = self.segment(id)? {
                segment.packs.into_iter().try_for_each(&mut *each)?;
            }
        }
        Ok(())
    }
}

impl<'r> Copier<'r> {
    pub(super) fn new(repo: &'r Repo) -> Result<Self, RepoError> {
        let gatherer = |class, gathering| Gatherer::new(class, gathering, Compression::Auto, 1);
        Ok(Self {
            repo,
            id: SnapshotId::new(random()?),
            next: 0,
            data: gatherer(Class::Data, repo.config.data),
            nodes: gatherer(Class::Node, repo.config.nodes),
            storing: Budget::new(0),
            unpublished: Segment::default(),
            written: 0,
        })
    }

    const fn gatherer(&self, class: Class) -> &Gatherer {
        match class {
            Class::Data => &self.data,
            Class::Node => &self.nodes,
        }
    }

    /// Copies what is live of a pack, in its order.
    fn copy_pack(
        &mut self,
        pack: &PackRecord,
        live: &Live,
        held: &mut SeenChunks,
    ) -> Result<(), RepoError> {
        let mut wanted: Vec<(u32, &BlockEntry, Vec<bool>)> = Vec::new();
        for (number, block) in (0..).zip(&pack.footer.blocks) {
            let mut chosen = Vec::with_capacity(block.chunks.len());
            for chunk in &block.chunks {
                let is_wanted = chunk.base.is_none()
                    && live.chunks.contains(&chunk.id)?
                    && held.insert(chunk.id)?;
                chosen.push(is_wanted);
            }
            if chosen.contains(&true) {
                wanted.push((number, block, chosen));
            }
        }
        let opener = self.repo.sealer.pack_opener(&pack.salt);
        let mut decoder = Decoder::new().map_err(RepoError::Zstd)?;
        let entries: Vec<BlockEntry> =
            wanted.iter().map(|(_, block, _)| (*block).clone()).collect();
        let name = name::pack(pack.id);
        let mut wanted = wanted.into_iter();
        for stretch in stretches(&entries) {
            let start = stretch.first().map_or(0, |block| u64::from(block.offset));
            let end = stretch.last().map_or(start, BlockEntry::end);
            let bytes = self.repo.backend.get_range(&name, start..end)?;
            for (number, entry, chosen) in wanted.by_ref().take(stretch.len()) {
                #[expect(clippy::cast_possible_truncation, reason = "a few MiB at most")]
                let at = (u64::from(entry.offset) - start) as usize;
                let sealed = bytes.get(at..at + entry.length as usize).unwrap_or_default();
                let opened = opener.open(number, Part::Block as u8, sealed.to_vec());
                let copied = opened.map_err(RepoError::from).and_then(|block| {
                    self.copy_block(pack.footer.class, block, entry, &chosen, &mut decoder)
                });
                copied.map_err(|error| match error {
                    RepoError::Open(_) | RepoError::Format(_) => {
                        RepoError::Unsound { problem: format!("{name} block {number}: {error}") }
                    }
                    error => error,
                })?;
            }
        }
        Ok(())
    }

    /// Copies a block as it is if all of it is wanted; else gathers what is wanted anew.
    pub(super) fn copy_block(
        &mut self,
        class: Class,
        block: Vec<u8>,
        entry: &BlockEntry,
        chosen: &[bool],
        decoder: &mut Decoder,
    ) -> Result<(), RepoError> {
        let mut rest = decoder.decode(&block)?;
        let mut wanted = Vec::new();
        for (chunk, chosen) in entry.chunks.iter().zip(chosen) {
            let (bytes, after) = rest.split_at_checked(chunk.length as usize).unwrap_or_default();
            rest = after;
            if !chosen {
                continue;
            }
            if self.repo.sealer.chunk_id(bytes) != chunk.id {
                let reason =
                    format!("the bytes of chunk {} do not have its name", chunk.id.short());
                return Err(FormatError { what: "block", reason }.into());
            }
            wanted.push((chunk.id, bytes));
        }
        if chosen.iter().all(|chosen| *chosen) {
            let (sealer, chunks) = (&self.repo.sealer, entry.chunks.clone());
            let full = self.gatherer(class).push(block, chunks, sealer, &self.storing)?;
            let full = full.map(|(pack, _)| pack);
            return full.map_or(Ok(()), |pack| self.store(pack));
        }
        for (id, bytes) in wanted {
            if let Some(gathered) = self.gatherer(class).gather(id, bytes)? {
                self.pack(class, gathered)?;
            }
        }
        Ok(())
    }

    fn pack(&mut self, class: Class, gathered: Gathered) -> Result<(), RepoError> {
        let full = self.gatherer(class).pack(gathered, self.repo, &self.storing)?;
        let full = full.map(|(pack, _)| pack);
        full.map_or(Ok(()), |pack| self.store(pack))
    }

    fn store(&mut self, pack: PackBuilder) -> Result<(), RepoError> {
        let id = PackId { session: self.id, number: self.next };
        self.next += 1;
        let FinishedPack { bytes, record } = pack.finish(id)?;
        self.repo.create_pack(&record, &bytes)?;
        self.gatherer(record.footer.class).reuse(bytes);
        self.written += record.size;
        self.unpublished.packs.push(record);
        let chunks: usize =
            self.unpublished.packs.iter().map(|pack| pack.footer.chunk_count()).sum();
        if chunks >= SEGMENT_CHUNKS { self.publish() } else { Ok(()) }
    }

    fn publish(&mut self) -> Result<(), RepoError> {
        let segment = std::mem::take(&mut self.unpublished);
        if segment.packs.is_empty() { Ok(()) } else { self.repo.publish(&segment) }
    }

    pub(super) fn finish(mut self) -> Result<u64, RepoError> {
        for class in [Class::Data, Class::Node] {
            let rest: Vec<_> = self.gatherer(class).rest().collect();
            for gathered in rest.into_iter().filter(|gathered| !gathered.bytes.is_empty()) {
                self.pack(class, gathered)?;
            }
            let open: Vec<_> = self.gatherer(class).open_packs().collect();
            for pack in open {
                self.store(pack)?;
            }
        }
        self.publish()?;
        Ok(self.written)
    }
}
