//! Every chunk that is stored: how much room it takes, for `stats`; and which may be nodes of trees,
//! for those that nobody refers to any more.

use super::chunks::Class;
use super::error::RepoError;
use super::format::name;
use super::open::{Repo, segment_ids};
use crate::hint::Failure;
use crate::id::{ChunkId, SnapshotId};

/// A chunk, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredChunk {
    /// Its name.
    pub id: ChunkId,
    /// Its length in bytes.
    pub length: u32,
    /// Its share of the compressed and sealed block that it is in, in bytes: the shares of a
    /// block's chunks add up to the block.
    pub stored: u32,
}

impl Repo {
    /// Calls `each` for every chunk that an index segment names, in no particular order; for one
    /// that is stored twice, twice. Reads the index from the repository, one segment at a time.
    pub fn stored_chunks(
        &self,
        each: &mut dyn FnMut(StoredChunk) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for id in segment_ids(&*self.backend).map_err(Failure::from)? {
            let object = match self.backend.get(&name::segment(id)) {
                Ok(object) => object,
                // Superseded by another since the listing.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(RepoError::from(error).into()),
            };
            for pack in self.open_segment(id, &object)?.packs {
                for block in pack.footer.blocks {
                    let whole: u64 = block.chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
                    let share = |bytes: u64| {
                        let share = u64::from(block.length) * bytes / whole.max(1);
                        u32::try_from(share).unwrap_or(block.length)
                    };
                    let mut before = 0;
                    for chunk in block.chunks {
                        let after = before + u64::from(chunk.length);
                        let stored = share(after) - share(before);
                        each(StoredChunk { id: chunk.id, length: chunk.length, stored })?;
                        before = after;
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls `each` for every chunk that may be a node, with the session that wrote the pack that it
    /// is in; for one that is stored twice, twice.
    pub fn node_chunks(
        &self,
        each: &mut dyn FnMut(SnapshotId, ChunkId) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut failure = None;
        let walked = self.each_indexed_pack(&mut |pack| {
            if pack.footer.class != Class::Node || failure.is_some() {
                return Ok(());
            }
            let mut chunks = pack.footer.blocks.iter().flat_map(|block| &block.chunks);
            failure = chunks.find_map(|chunk| each(pack.id.session, chunk.id).err());
            Ok(())
        });
        failure.map_or_else(|| Ok(walked?), Err)
    }
}
