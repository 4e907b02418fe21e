//! Gathers sealed blocks into a pack.

use super::Class;
use super::error::RepoError;
use super::format::pack::{self, BlockEntry, ChunkEntry, Footer, Part};
use super::format::segment::PackRecord;
use crate::crypto::{PackSealer, Sealer, padme};
use crate::id::PackId;

/// A pack in memory that still takes blocks.
pub(super) struct PackBuilder {
    sealer: PackSealer,
    bytes: Vec<u8>,
    footer: Footer,
}

/// A pack that is ready to be stored.
pub(super) struct FinishedPack {
    pub(super) bytes: Vec<u8>,
    pub(super) record: PackRecord,
}

impl PackBuilder {
    pub(super) fn new(class: Class, sealer: &Sealer) -> Result<Self, RepoError> {
        let sealer = sealer.pack_sealer()?;
        let bytes = pack::header(sealer.salt()).to_vec();
        Ok(Self { sealer, bytes, footer: Footer { class, blocks: Vec::new() } })
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
        self.footer.blocks.push(BlockEntry { offset, length, chunks });
        Ok(())
    }

    /// Whether another block would be one too many.
    pub(super) fn is_full(&self, limit: u32) -> bool {
        self.bytes.len() >= limit as usize || self.footer.blocks.len() >= pack::MAX_BLOCKS
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

/// Offsets and lengths in a pack are u32; a pack is far below 4 GiB.
fn position(length: usize) -> Result<u32, RepoError> {
    u32::try_from(length).map_err(|_| {
        RepoError::Format(super::format::FormatError {
            what: "pack",
            reason: "it is too long".to_owned(),
        })
    })
}
