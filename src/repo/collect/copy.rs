//! Copying what is still needed out of condemned packs.

use std::collections::HashMap;

use super::super::budget::Budget;
use super::super::check::{pack_id, stretches};
use super::super::chunks::Class;
use super::super::compression::Compression;
use super::super::error::RepoError;
use super::super::format::block::Decoder;
use super::super::format::difference::frames;
use super::super::format::name;
use super::super::format::pack::{BlockEntry, ChunkEntry, Part};
use super::super::format::segment::{PackRecord, Segment};
use super::super::gather::{Block, Gathered, Gatherer};
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

/// Says whether a chunk is to be copied.
pub(super) type Choose<'a> = dyn FnMut(&ChunkEntry) -> Result<bool, RepoError> + 'a;

/// What is needed and will be there when the condemned packs are gone.
#[derive(Default)]
struct Held {
    whole: SeenChunks,
    /// Chunks that are not whole, but differences to some that are.
    differences: SeenChunks,
    /// How many of them are live, and not only bases.
    live: u64,
}

impl Held {
    /// Adds a chunk that is stored whole, if it is needed and not held yet; says whether it was.
    fn insert_whole(&mut self, chunk: &ChunkEntry, live: &Live) -> Result<bool, RepoError> {
        let is_new = chunk.base.is_none() && live.needs(chunk)? && self.whole.insert(chunk.id)?;
        self.live += u64::from(is_new && live.chunks.contains(&chunk.id)?);
        Ok(is_new)
    }

    /// The same for one that is a difference to a chunk that is held. Comes after all that are
    /// whole.
    fn insert_difference(&mut self, chunk: &ChunkEntry, live: &Live) -> Result<bool, RepoError> {
        let Some(base) = chunk.base else { return Ok(false) };
        let is_new = live.needs(chunk)?
            && self.whole.contains(&base)?
            && !self.whole.contains(&chunk.id)?
            && self.differences.insert(chunk.id)?;
        self.live += u64::from(is_new);
        Ok(is_new)
    }
}

impl Repo {
    /// Copies every chunk of the condemned packs that is needed, unless a pack that stays holds it;
    /// what is stored as a difference stays one. Returns how many bytes were written, after all of
    /// them are durable and published, and only if every live chunk is held then.
    ///
    /// Fails as not found when a pack goes while it is read: another collector was faster.
    pub(super) fn copy_live(
        &self,
        condemned: &[PackId],
        live: &mut Live,
        ctx: &Context,
    ) -> Result<u64, RepoError> {
        let present = self.backend.list(name::PACKS)?.into_iter();
        let present: HashMap<PackId, u64> =
            present.filter_map(|entry| Some((pack_id(&entry.name)?, entry.size))).collect();
        let sources: HashMap<PackId, u64> =
            condemned.iter().filter_map(|id| Some((*id, *present.get(id)?))).collect();
        self.pin_bases(live, &sources, ctx)?;
        let live = &*live;
        let mut held = Held::default();
        self.each_staying_chunk(ctx, &mut |chunk| held.insert_whole(chunk, live).map(drop))?;
        let mut copier = Copier::new(self)?;
        ctx.phase("copying what is needed", Some(sources.len() as u64));
        copier.copy_packs(condemned, &sources, ctx, &mut |chunk| held.insert_whole(chunk, live))?;
        if !live.is_whole() {
            // Now it is known which bases there are.
            self.each_staying_chunk(ctx, &mut |chunk| {
                held.insert_difference(chunk, live).map(drop)
            })?;
            ctx.phase("copying differences", Some(sources.len() as u64));
            copier.copy_packs(condemned, &sources, ctx, &mut |chunk| {
                held.insert_difference(chunk, live)
            })?;
        }
        let written = copier.finish()?;
        let lost = live.chunks.len() - held.live;
        if lost > 0 {
            let problem = format!("{lost} chunks that snapshots need are not there");
            return Err(RepoError::Unsound { problem });
        }
        Ok(written)
    }

    /// Calls `each` for every chunk that a segment names in a pack that stays, perhaps more than
    /// once.
    pub(super) fn each_staying_chunk(
        &self,
        ctx: &Context,
        each: &mut dyn FnMut(&ChunkEntry) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        self.each_indexed_pack(&mut |pack| {
            ctx.check_cancelled()?;
            if self.collections().condemns(pack.id) {
                return Ok(());
            }
            pack.footer.blocks.iter().flat_map(|block| &block.chunks).try_for_each(&mut *each)
        })
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

    /// Copies what is chosen of the packs that are there.
    fn copy_packs(
        &mut self,
        packs: &[PackId],
        present: &HashMap<PackId, u64>,
        ctx: &Context,
        choose: &mut Choose<'_>,
    ) -> Result<(), RepoError> {
        for id in packs {
            ctx.check_cancelled()?;
            let Some(size) = present.get(id) else { continue };
            // Also a pack that no segment names may hold the only copy.
            match self.repo.read_footer(*id, *size) {
                Ok(pack) => self.copy_pack(&pack, choose)?,
                Err(RepoError::Backend(error)) if error.cause() != BackendErrorKind::Damaged => {
                    return Err(error.into());
                }
                // Whether anything is lost with it is found when all is counted.
                Err(_damaged) => {}
            }
            ctx.report(Event::Progress { items: 1, bytes: *size });
        }
        Ok(())
    }

    /// Copies what is chosen of a pack, in its order.
    fn copy_pack(&mut self, pack: &PackRecord, choose: &mut Choose<'_>) -> Result<(), RepoError> {
        let mut wanted: Vec<(u32, &BlockEntry, Vec<bool>)> = Vec::new();
        for (number, block) in (0..).zip(&pack.footer.blocks) {
            let chosen = block.chunks.iter().map(&mut *choose).collect::<Result<Vec<_>, _>>()?;
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
                    RepoError::Open(_)
                    | RepoError::Format(_)
                    | RepoError::ChunkMissing { .. }
                    | RepoError::ChunkDamaged { .. } => {
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
        if entry.chunks.iter().any(|chunk| chunk.base.is_some()) {
            return self.copy_differences(class, block, entry, chosen, decoder);
        }
        let mut rest = decoder.decode(&block)?;
        let mut wanted = Vec::new();
        for (chunk, chosen) in entry.chunks.iter().zip(chosen) {
            let (bytes, after) = rest.split_at_checked(chunk.length as usize).unwrap_or_default();
            rest = after;
            if *chosen {
                self.repo.verify(chunk, bytes)?;
                wanted.push((chunk.id, bytes));
            }
        }
        if chosen.iter().all(|chosen| *chosen) {
            return self.push(class, Block { bytes: block, chunks: entry.chunks.clone() });
        }
        for (id, bytes) in wanted {
            if let Some(gathered) = self.gatherer(class).gather(id, bytes)? {
                self.pack(class, gathered)?;
            }
        }
        Ok(())
    }

    /// The same for a block of differences, each of which is verified with its base.
    fn copy_differences(
        &mut self,
        class: Class,
        block: Vec<u8>,
        entry: &BlockEntry,
        chosen: &[bool],
        decoder: &mut Decoder,
    ) -> Result<(), RepoError> {
        let mut wanted = Vec::new();
        for ((frame, chunk), chosen) in frames(&block)?.zip(&entry.chunks).zip(chosen) {
            let frame = frame?;
            if *chosen {
                self.repo.verify_difference(chunk, frame, decoder)?;
                wanted.push((chunk, frame));
            }
        }
        if wanted.len() == entry.chunks.len() {
            return self.push(class, Block { bytes: block, chunks: entry.chunks.clone() });
        }
        for (chunk, frame) in wanted {
            if let Some(full) = self.gatherer(class).gather_difference(*chunk, frame.bytes)? {
                self.push(class, full)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, class: Class, block: Block) -> Result<(), RepoError> {
        let full = self.gatherer(class).push(block, &self.repo.sealer, &self.storing)?;
        let full = full.map(|(pack, _)| pack);
        full.map_or(Ok(()), |pack| self.store(pack))
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
            if let Some(rest) = self.gatherer(class).rest_of_differences() {
                self.push(class, rest)?;
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
