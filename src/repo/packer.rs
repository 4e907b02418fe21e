//! Gathers sealed blocks into a pack.

use super::Class;
use super::error::RepoError;
use super::format::name;
use super::format::pack::{self, BlockEntry, ChunkEntry, Footer, Part};
use super::format::segment::PackRecord;
use super::open::Repo;
use crate::backend::{Backend as _, Created};
use crate::crypto::{PackSealer, Sealer, padme};
use crate::id::PackId;

/// A pack in memory that still takes blocks.
pub(super) struct PackBuilder {
    sealer: PackSealer,
    bytes: Vec<u8>,
    footer: Footer,
    footer_length: usize,
}

/// A pack that is ready to be stored.
pub(super) struct FinishedPack {
    pub(super) bytes: Vec<u8>,
    pub(super) record: PackRecord,
}

impl PackBuilder {
    /// The pack is built in `buffer`, whatever is in it.
    pub(super) fn new(class: Class, sealer: &Sealer, buffer: Vec<u8>) -> Result<Self, RepoError> {
        let sealer = sealer.pack_sealer()?;
        let mut bytes = buffer;
        bytes.clear();
        bytes.extend_from_slice(&pack::header(sealer.salt()));
        let footer = Footer { class, blocks: Vec::new() };
        Ok(Self { sealer, bytes, footer, footer_length: pack::FOOTER })
    }

    /// Seals a block and appends it.
    pub(super) fn push(
        &mut self,
        mut block: Vec<u8>,
        chunks: Vec<ChunkEntry>,
    ) -> Result<(), RepoError> {
        self.sealer.seal(Part::Block as u8, &mut block)?;
        let offset = position(self.bytes.len())?;
        let length = position(block.len())?;
        self.bytes.extend_from_slice(&block);
        self.footer_length += pack::block_entry(&chunks);
        self.footer.blocks.push(BlockEntry { offset, length, chunks });
        Ok(())
    }

    /// Whether another block may come. A pack stays within `limit` with its footer and padding,
    /// so that those which are full have one size and hardly any padding; but it always takes one
    /// block.
    pub(super) fn has_room(&self, block: &[u8], chunks: &[ChunkEntry], limit: u32) -> bool {
        let others = pack::SEAL + pack::SEAL + pack::TRAILER;
        let footer = self.footer_length + pack::block_entry(chunks);
        let length = (self.bytes.len() + block.len() + footer + others) as u64;
        self.is_empty()
            || padme(length) <= u64::from(limit) && self.footer.blocks.len() < pack::MAX_BLOCKS
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.footer.blocks.is_empty()
    }

    /// Seals the footer, padded so that the pack's size tells little (Padmé).
    pub(super) fn finish(mut self, id: PackId) -> Result<FinishedPack, RepoError> {
        let mut footer = Vec::new();
        self.footer.encode_into(&mut footer)?;
        let others = self.bytes.len() + pack::SEAL + pack::TRAILER;
        let padded = usize::try_from(padme((others + footer.len()) as u64)).unwrap_or(0);
        footer.resize(footer.len().max(padded.saturating_sub(others)), 0);
        let salt = *self.sealer.salt();
        self.sealer.seal_footer(Part::Footer as u8, &mut footer)?;
        let footer_length = position(footer.len())?;
        self.bytes.append(&mut footer);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.bytes);
        self.bytes.extend_from_slice(&pack::trailer(footer_length, &mut hasher));
        let size = self.bytes.len() as u64;
        let record = PackRecord { id, salt, size, footer: self.footer };
        Ok(FinishedPack { bytes: self.bytes, record })
    }
}

impl Repo {
    /// Stores a pack; what is in nodes is read with every snapshot, what is in files hardly ever.
    pub(super) fn create_pack(&self, record: &PackRecord, bytes: &[u8]) -> Result<(), RepoError> {
        let name = name::pack(record.id);
        let created = match record.footer.class {
            Class::Node => self.backend.create(&name, bytes)?,
            Class::Data => self.backend.create_cold(&name, bytes)?,
        };
        if created == Created::Existed && self.backend.get(&name)? != bytes {
            // The name has 128 random bits of the session: it was not another writer.
            return Err(RepoError::Machine);
        }
        Ok(())
    }
}

/// Offsets and lengths in a pack are u32; a pack is far below 4 GiB.
fn position(length: usize) -> Result<u32, RepoError> {
    u32::try_from(length).map_err(|_| {
        RepoError::Format(super::format::FormatError {
            what: "pack",
            reason: "it is too long".to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ChunkId, RepoId, SnapshotId};

    #[test]
    fn full_packs_have_one_size_and_hardly_any_padding() {
        const LIMIT: u32 = 1 << 20;
        let sealer = Sealer::plain(RepoId::new([0; 16]));
        let chunk = ChunkEntry { id: ChunkId::new([7; 32]), length: 1, base: None };
        let mut pack = PackBuilder::new(Class::Data, &sealer, Vec::new()).unwrap();
        let mut sizes = Vec::new();
        for number in 0..900_usize {
            let (block, chunks) = (vec![7; number * 977 % 14_000], vec![chunk; number % 40]);
            if !pack.has_room(&block, &chunks, LIMIT) {
                let fresh = PackBuilder::new(Class::Data, &sealer, Vec::new()).unwrap();
                let full = std::mem::replace(&mut pack, fresh);
                let used = full.len() + full.footer_length;
                let id = PackId { session: SnapshotId::new([0; 16]), number: 0 };
                let size = full.finish(id).unwrap().record.size;
                assert!(size - used as u64 <= u64::from(LIMIT) / 32);
                sizes.push(size);
            }
            pack.push(block, chunks).unwrap();
        }
        assert!(sizes.len() > 5);
        assert!(sizes.iter().all(|size| *size == u64::from(LIMIT)), "{sizes:?}");
    }
}
