//! Reading chunks: index, block cache, pack.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::chunks::{ChunkReader, EachChunk};
use super::error::RepoError;
use super::format::block::Decoder;
use super::format::difference::Frame;
use super::format::pack::{ChunkEntry, Part};
use super::format::{FormatError, difference, name};
use super::open::Repo;
use super::view::{Found, Location, PackInfo};
use crate::hint::Failure;
use crate::id::ChunkId;

/// Bytes of decoded blocks that are kept, since the chunks of a block are read one after another.
const CACHE_BYTES: u64 = 48 << 20;

/// How often the index is read anew for a chunk whose packs go while it is read.
const LOOKS: usize = 8;

/// Decoded blocks, by pack and block number; blocks of differences as they are.
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
    fn decode(
        &self,
        decode: impl FnOnce(&mut Decoder) -> Result<Vec<u8>, FormatError>,
    ) -> Result<Vec<u8>, RepoError> {
        let idle = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let decoder = idle().pop();
        let mut decoder = match decoder {
            Some(decoder) => decoder,
            None => Decoder::new().map_err(RepoError::Zstd)?,
        };
        let chunks = decode(&mut decoder);
        idle().push(decoder);
        Ok(chunks?)
    }
}

pub(super) fn block_cache() -> BlockCache {
    BlockCache::with_weighter(1024, CACHE_BYTES, BlockWeight)
}

impl ChunkReader for Repo {
    fn read_chunk(&self, id: &ChunkId) -> Result<Bytes, RepoError> {
        let mut read = self.read_found(id, self.locate(id)?);
        // Its pack, or that of its base, may have been repacked since this host last looked, and
        // again while it looks. A pack that is gone is not looked into twice.
        for _ in 0..LOOKS {
            if !matches!(read, Err(RepoError::PackGone { .. })) {
                break;
            }
            read = self.read_again(id);
        }
        read
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
    pub(super) fn locate(&self, id: &ChunkId) -> Result<Found, RepoError> {
        if let Some(found) = self.view.locate(id)? {
            return Ok(found);
        }
        self.refresh()?;
        self.view.locate(id)?.ok_or(RepoError::ChunkMissing { id: *id })
    }

    fn read_again(&self, id: &ChunkId) -> Result<Bytes, RepoError> {
        self.refresh()?;
        self.read_found(id, self.locate(id)?)
    }

    fn read_found(&self, id: &ChunkId, found: Found) -> Result<Bytes, RepoError> {
        match found.base {
            None => self.read_whole(id, found.location),
            Some((base, whole)) => {
                let base = self.read_whole(&base, whole)?;
                self.read_difference(id, found.location, &base)
            }
        }
    }

    /// What the successor of a chunk can be stored as a difference to, read back from the
    /// repository; none where there is nothing, or where it cannot be read: then the successor
    /// is stored whole.
    pub(super) fn base_after(
        &self,
        predecessor: &ChunkId,
    ) -> Result<Option<(ChunkId, Bytes)>, RepoError> {
        let Some((base, whole)) = self.view.base_after(predecessor)? else { return Ok(None) };
        match self.read_whole(&base, whole) {
            Ok(bytes) => Ok(Some((base, bytes))),
            // A store that fails for good fails whoever writes next.
            Err(
                RepoError::PackGone { .. } | RepoError::ChunkDamaged { .. } | RepoError::Backend(_),
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_whole(&self, id: &ChunkId, location: Location) -> Result<Bytes, RepoError> {
        let pack = self.view.pack(location.pack)?;
        let block = self.block(id, &pack, location, || self.sealed(&pack, location))?;
        self.chunk(id, &pack, location, &block)
    }

    /// A chunk stored as a difference to this base, verified.
    pub(super) fn read_difference(
        &self,
        id: &ChunkId,
        location: Location,
        base: &[u8],
    ) -> Result<Bytes, RepoError> {
        let pack = self.view.pack(location.pack)?;
        let opened = self.cached(location, || {
            let sealed = self.sealed(&pack, location)?;
            self.opened(&pack, location, sealed)
        });
        let read = opened.and_then(|block| {
            let frame = difference::frame_at(&block, location.inner)?;
            self.decoders.decode(|decoder| decoder.decode_difference(frame, base))
        });
        let chunk = read.map_err(|error| damaged(error, id, &pack))?;
        if !self.names(id, &chunk) {
            let reason = "its bytes do not have its name".to_owned();
            return Err(RepoError::ChunkDamaged { id: *id, pack: pack.id, reason });
        }
        Ok(chunk.into())
    }

    /// A sealed block from the store.
    pub(super) fn sealed(&self, pack: &PackInfo, location: Location) -> Result<Bytes, RepoError> {
        let start = u64::from(location.offset);
        let range = start..start + u64::from(location.length);
        match self.backend.get_range(&name::pack(pack.id), range) {
            Err(error) if error.is_not_found() => {
                self.view.lose(pack.id)?;
                Err(RepoError::PackGone { pack: pack.id })
            }
            result => Ok(result?),
        }
    }

    fn opened(
        &self,
        pack: &PackInfo,
        location: Location,
        sealed: Bytes,
    ) -> Result<Vec<u8>, RepoError> {
        let opener = self.sealer.pack_opener(&pack.salt);
        Ok(opener.open(u32::from(location.block), Part::Block as u8, sealed.into())?)
    }

    /// What `get` gets, or got before.
    fn cached(
        &self,
        location: Location,
        get: impl FnOnce() -> Result<Vec<u8>, RepoError>,
    ) -> Result<Bytes, RepoError> {
        self.blocks.get_or_insert_with(&(location.pack, location.block), || get().map(Bytes::from))
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
        let decoded = self.cached(location, || {
            let block = self.opened(pack, location, sealed()?)?;
            self.decoders.decode(|decoder| decoder.decode_owned(&block))
        });
        decoded.map_err(|error| damaged(error, id, pack))
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

impl Repo {
    /// Fails unless these are the bytes of a chunk.
    pub(super) fn verify(&self, chunk: &ChunkEntry, bytes: &[u8]) -> Result<(), FormatError> {
        if bytes.len() == chunk.length as usize && self.names(&chunk.id, bytes) {
            return Ok(());
        }
        let reason = format!("the bytes of chunk {} do not have its name", chunk.id.short());
        Err(FormatError { what: "block", reason })
    }

    /// The same of a chunk in a block of differences, whose base is read for it.
    pub(super) fn verify_difference(
        &self,
        chunk: &ChunkEntry,
        frame: Frame<'_>,
        decoder: &mut Decoder,
    ) -> Result<(), RepoError> {
        let base = chunk.base.ok_or_else(|| FormatError {
            what: "block",
            reason: format!("chunk {} is a difference without a base", chunk.id.short()),
        })?;
        let base = self.read_chunk(&base)?;
        Ok(self.verify(chunk, &decoder.decode_difference(frame, &base)?)?)
    }
}

/// Names the chunk that cannot be read.
fn damaged(error: RepoError, id: &ChunkId, pack: &PackInfo) -> RepoError {
    match error {
        RepoError::Open(_) | RepoError::Format(_) => {
            RepoError::ChunkDamaged { id: *id, pack: pack.id, reason: error.to_string() }
        }
        other => other,
    }
}
