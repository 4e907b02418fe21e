//! Reading chunks: index, block cache, pack.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::chunks::{ChunkReader, EachChunk};
use super::error::RepoError;
use super::format::block::Decoder;
use super::format::name;
use super::format::pack::Part;
use super::open::Repo;
use super::view::{Location, PackInfo};
use crate::hint::Failure;
use crate::id::ChunkId;

/// Bytes of decoded blocks that are kept, since the chunks of a block are read one after another.
const CACHE_BYTES: u64 = 48 << 20;

/// Decoded blocks, by pack and block number.
pub(super) type BlockCache = quick_cache::sync::Cache<(u32, u16), Bytes, BlockWeight>;

#[derive(Debug, Clone)]
pub(super) struct BlockWeight;

impl quick_cache::Weighter<(u32, u16), Bytes> for BlockWeight {
    fn weight(&self, _: &(u32, u16), block: &Bytes) -> u64 {
        block.len() as u64
    }
}

/// Decoders that are not in use: to make one takes as long as to decode a block of nodes.
#[derive(Default)]
pub(super) struct Decoders(Mutex<Vec<Decoder>>);

impl fmt::Debug for Decoders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoders")
    }
}

impl Decoders {
    fn decode(&self, block: &[u8]) -> Result<Vec<u8>, RepoError> {
        let idle = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let decoder = idle().pop();
        let mut decoder = match decoder {
            Some(decoder) => decoder,
            None => Decoder::new().map_err(RepoError::Zstd)?,
        };
        let chunks = decoder.decode_owned(block);
        idle().push(decoder);
        Ok(chunks?)
    }
}

pub(super) fn block_cache() -> BlockCache {
    BlockCache::with_weighter(1024, CACHE_BYTES, BlockWeight)
}

impl ChunkReader for Repo {
    fn read_chunk(&self, id: &ChunkId) -> Result<Bytes, RepoError> {
        let location = self.locate(id)?;
        match self.read_at(id, location) {
            // Its pack may have been repacked since this host last looked: look again, once.
            Err(RepoError::Backend(error)) if error.is_not_found() => {
                self.view.lose(self.view.pack(location.pack)?.id)?;
                self.refresh()?;
                self.read_at(id, self.locate(id)?)
            }
            result => result,
        }
    }

    fn names(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        self.sealer.chunk_id(bytes) == *id
    }

    fn read_chunks(
        &self,
        ids: &[ChunkId],
        jobs: usize,
        each: &EachChunk<'_>,
    ) -> Result<(), Failure> {
        self.fetch(ids, jobs, each)
    }
}

impl Repo {
    /// Where a chunk is; reads new index segments before it says that it is missing.
    pub(super) fn locate(&self, id: &ChunkId) -> Result<Location, RepoError> {
        if let Some(location) = self.view.locate(id)? {
            return Ok(location);
        }
        self.refresh()?;
        self.view.locate(id)?.ok_or(RepoError::ChunkMissing { id: *id })
    }

    fn read_at(&self, id: &ChunkId, location: Location) -> Result<Bytes, RepoError> {
        let pack = self.view.pack(location.pack)?;
        let block = self.block(id, &pack, location, || {
            let start = u64::from(location.offset);
            let range = start..start + u64::from(location.length);
            Ok(self.backend.get_range(&name::pack(pack.id), range)?)
        })?;
        self.chunk(id, &pack, location, &block)
    }

    /// A decoded block, from the cache or from the sealed bytes that `sealed` gets. Threads that
    /// want the same block at once wait for the one that decodes it.
    pub(super) fn block(
        &self,
        id: &ChunkId,
        pack: &PackInfo,
        location: Location,
        sealed: impl FnOnce() -> Result<Bytes, RepoError>,
    ) -> Result<Bytes, RepoError> {
        let decode = || {
            let opener = self.sealer.pack_opener(&pack.salt);
            let block =
                opener.open(u32::from(location.block), Part::Block as u8, sealed()?.into())?;
            Ok(self.decoders.decode(&block)?.into())
        };
        self.blocks.get_or_insert_with(&(location.pack, location.block), decode).map_err(|error| {
            match error {
                RepoError::Open(_) | RepoError::Format(_) => {
                    RepoError::ChunkDamaged { id: *id, pack: pack.id, reason: error.to_string() }
                }
                other => other,
            }
        })
    }

    /// A chunk of a decoded block, verified.
    pub(super) fn chunk(
        &self,
        id: &ChunkId,
        pack: &PackInfo,
        location: Location,
        block: &Bytes,
    ) -> Result<Bytes, RepoError> {
        let (start, size) = (location.inner as usize, location.size as usize);
        let damaged = |reason: &str| RepoError::ChunkDamaged {
            id: *id,
            pack: pack.id,
            reason: reason.to_owned(),
        };
        if start.checked_add(size).is_none_or(|end| end > block.len()) {
            return Err(damaged("it lies outside of its block"));
        }
        let chunk = block.slice(start..start + size);
        if !self.names(id, &chunk) {
            return Err(damaged("its bytes do not have its name"));
        }
        Ok(chunk)
    }
}
