//! Chunks of one class on their way into packs: gathered into blocks, compressed, verified,
//! sealed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Class;
use super::budget::{Budget, Permit};
use super::compression::{Compression, Luck};
use super::error::RepoError;
use super::format::block::{self, Decoder, Encoder};
use super::format::config::Gathering;
use super::format::pack::ChunkEntry;
use super::open::Repo;
use super::packer::PackBuilder;
use crate::crypto::{Sealer, random};
use crate::id::ChunkId;

/// Where chunks of one class become blocks, and blocks packs.
pub(super) struct Gatherer {
    class: Class,
    gathering: Gathering,
    compression: Compression,
    /// One for each thread of the pool and one for all others: what a thread writes one after the
    /// other stands together.
    slots: Vec<Mutex<Gathered>>,
    open_packs: usize,
    packs: Mutex<Vec<PackBuilder>>,
    /// Memory of packs that are stored, for the next.
    buffers: Mutex<Vec<Vec<u8>>>,
    codecs: Mutex<Vec<Codec>>,
    /// What became of the last blocks.
    luck: Luck,
}

/// Chunks that will be a block.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) bytes: Vec<u8>,
    chunks: Vec<ChunkEntry>,
}

/// Compresses and decompresses, for one thread at a time.
struct Codec {
    encoder: Encoder,
    decoder: Decoder,
}

impl Gatherer {
    /// Blocks go to one of the `open_packs` at random.
    pub(super) fn new(
        class: Class,
        gathering: Gathering,
        compression: Compression,
        open_packs: usize,
    ) -> Self {
        let slots = 1 + rayon::current_num_threads();
        Self {
            class,
            gathering,
            compression,
            slots: (0..slots).map(|_| Mutex::default()).collect(),
            open_packs,
            packs: Mutex::default(),
            buffers: Mutex::default(),
            codecs: Mutex::default(),
            luck: Luck::default(),
        }
    }

    /// Adds a chunk; gives back what is complete. A large chunk is a block of its own.
    pub(super) fn gather(&self, id: ChunkId, bytes: &[u8]) -> Result<Option<Gathered>, RepoError> {
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length as usize <= block::LIMIT)
            .ok_or(RepoError::ChunkTooLong { length: bytes.len() })?;
        let chunk = ChunkEntry { id, length, base: None };
        let limit = self.gathering.block as usize;
        if bytes.len() >= limit / 2 {
            return Ok(Some(Gathered { bytes: bytes.to_vec(), chunks: vec![chunk] }));
        }
        let thread = rayon::current_thread_index().map_or(0, |index| 1 + index);
        let mut block = lock(&self.slots[thread % self.slots.len()]);
        if block.bytes.capacity() == 0 {
            block.bytes.reserve_exact(limit + limit / 2);
        }
        block.bytes.extend_from_slice(bytes);
        block.chunks.push(chunk);
        Ok((block.bytes.len() >= limit).then(|| std::mem::take(&mut *block)))
    }

    /// What is gathered and not complete.
    pub(super) fn rest(&self) -> impl Iterator<Item = Gathered> {
        self.slots.iter().map(|slot| std::mem::take(&mut *lock(slot)))
    }

    /// Makes a block and adds it to a pack; gives back the pack that is complete without it, as soon
    /// as there is room for it in `storing`. Until then no thread fills another.
    pub(super) fn pack<'a>(
        &self,
        gathered: Gathered,
        repo: &Repo,
        storing: &'a Budget,
    ) -> Result<Option<(PackBuilder, Permit<'a>)>, RepoError> {
        let codec = lock(&self.codecs).pop();
        let mut codec = match codec {
            Some(codec) => codec,
            None => Codec::new(self.compression, self.gathering).map_err(RepoError::Zstd)?,
        };
        let Gathered { bytes, chunks } = gathered;
        let block = if self.compression.tries(&self.luck) {
            let block = codec.encoder.encode(&bytes)?;
            if block::is_compressed(&block) {
                self.luck.shrank();
            } else {
                self.luck.failed();
            }
            block
        } else {
            block::store(&bytes)?
        };
        drop(bytes);
        codec.verify(&block, &chunks, &repo.sealer)?;
        lock(&self.codecs).push(codec);
        self.push(block, chunks, &repo.sealer, storing)
    }

    /// Adds a block whose chunks were verified; gives back the pack that is complete without it, as
    /// [`Self::pack`] does.
    pub(super) fn push<'a>(
        &self,
        block: Vec<u8>,
        chunks: Vec<ChunkEntry>,
        sealer: &Sealer,
        storing: &'a Budget,
    ) -> Result<Option<(PackBuilder, Permit<'a>)>, RepoError> {
        let mut packs = lock(&self.packs);
        while packs.len() < self.open_packs {
            packs.push(self.new_pack(sealer)?);
        }
        let [choice] = random::<1>()?;
        let choice = usize::from(choice) % packs.len();
        let pack = &mut packs[choice];
        let full = if pack.has_room(&block, &chunks, self.gathering.pack) {
            None
        } else {
            let permit = storing.acquire(pack.len());
            Some((std::mem::replace(pack, self.new_pack(sealer)?), permit))
        };
        pack.push(block, chunks)?;
        Ok(full)
    }

    fn new_pack(&self, sealer: &Sealer) -> Result<PackBuilder, RepoError> {
        let buffer = lock(&self.buffers).pop();
        let buffer = buffer.unwrap_or_else(|| Vec::with_capacity(self.gathering.pack as usize));
        PackBuilder::new(self.class, sealer, buffer)
    }

    /// Takes back the memory of a pack that is stored.
    pub(super) fn reuse(&self, buffer: Vec<u8>) {
        lock(&self.buffers).push(buffer);
    }

    /// The packs that are not complete.
    pub(super) fn open_packs(&self) -> impl Iterator<Item = PackBuilder> {
        std::mem::take(&mut *lock(&self.packs)).into_iter().filter(|pack| !pack.is_empty())
    }
}

impl Codec {
    fn new(compression: Compression, gathering: Gathering) -> std::io::Result<Self> {
        let parameters = compression.parameters(gathering.zstd).unwrap_or(gathering.zstd);
        Ok(Self { encoder: Encoder::new(parameters)?, decoder: Decoder::new()? })
    }

    /// Decodes a block again and hashes every chunk (I4): what a faulty memory or processor did
    /// to it is found here and not on the day of the restore.
    fn verify(
        &mut self,
        block: &[u8],
        chunks: &[ChunkEntry],
        sealer: &Sealer,
    ) -> Result<(), RepoError> {
        let mut rest = self.decoder.decode(block).map_err(|_| RepoError::Machine)?;
        for chunk in chunks {
            let (bytes, after) =
                rest.split_at_checked(chunk.length as usize).ok_or(RepoError::Machine)?;
            if sealer.chunk_id(bytes) != chunk.id {
                return Err(RepoError::Machine);
            }
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(RepoError::Machine) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
