//! Chunks of one class on their way into packs: gathered into blocks, compressed, verified,
//! sealed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Class;
use super::budget::{Budget, Permit};
use super::compression::{Compression, Luck};
use super::error::RepoError;
use super::format::block::{self, Decoder, Encoder};
use super::format::config::Gathering;
use super::format::difference::{self, Frame};
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
    differences: Mutex<Differences>,
    /// What became of the last chunks that were tried to be stored as differences.
    likeness: Luck,
}

/// A block that is ready for a pack, its chunks verified.
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) chunks: Vec<ChunkEntry>,
}

/// Differences that will be a block.
#[derive(Default)]
struct Differences {
    block: difference::Builder,
    chunks: Vec<ChunkEntry>,
}

/// Bytes of frames that are sealed together: to read one takes opening all.
const DIFFERENCES: usize = 64 << 10;
/// What a difference takes in the footer of its pack and in the index, besides what every chunk
/// does: its base, twice.
const BASES: usize = 2 * ChunkId::LEN;
/// What compression alone can be relied upon to make of a chunk: if a difference is at most half of
/// that, it need not be tried.
const COMPRESSED: usize = 8;

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
            differences: Mutex::default(),
            likeness: Luck::default(),
        }
    }

    /// Adds a chunk; gives back what is complete. A large chunk is a block of its own.
    pub(super) fn gather(&self, id: ChunkId, bytes: &[u8]) -> Result<Option<Gathered>, RepoError> {
        let chunk = ChunkEntry { id, length: length(bytes.len())?, base: None };
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
        let mut codec = self.codec()?;
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
        self.push(Block { bytes: block, chunks }, &repo.sealer, storing)
    }

    fn codec(&self) -> Result<Codec, RepoError> {
        match lock(&self.codecs).pop() {
            Some(codec) => Ok(codec),
            None => Codec::new(self.compression, self.gathering).map_err(RepoError::Zstd),
        }
    }

    /// Whether it is worth while to look for the base of a chunk, after what became of the last.
    pub(super) fn tries_differences(&self) -> bool {
        self.likeness.is_worth_a_try()
    }

    /// A chunk as the difference to a base, verified (I4); `None` unless that is at most half of
    /// what compression would make of it, in all that it takes.
    pub(super) fn difference(
        &self,
        bytes: &[u8],
        base: &[u8],
    ) -> Result<Option<Vec<u8>>, RepoError> {
        if !difference::is_base(base) || bytes.len() <= COMPRESSED * BASES {
            return Ok(None);
        }
        let frame = difference::encode(bytes, base)?;
        let size = 2 * (difference::size(&frame) + BASES);
        let mut codec = self.codec()?;
        let is_small = size <= bytes.len() / COMPRESSED
            || size <= bytes.len() && size <= codec.encoder.encode(bytes)?.len();
        if is_small {
            let frame = Frame { length: length(bytes.len())?, bytes: &frame };
            let decoded = codec.decoder.decode_difference(frame, base);
            if decoded.map_err(|_| RepoError::Machine)? != bytes {
                return Err(RepoError::Machine);
            }
            self.likeness.shrank();
        } else {
            self.likeness.failed();
        }
        lock(&self.codecs).push(codec);
        Ok(is_small.then_some(frame))
    }

    /// Adds a difference; gives back the block that is complete.
    pub(super) fn gather_difference(
        &self,
        entry: ChunkEntry,
        frame: &[u8],
    ) -> Result<Option<Block>, RepoError> {
        let mut differences = lock(&self.differences);
        let total = differences.block.total() + entry.length as usize;
        let full = differences.block.len() >= DIFFERENCES || total > block::LIMIT;
        let full = full.then(|| std::mem::take(&mut *differences)).and_then(Differences::finish);
        differences.block.push(Frame { length: entry.length, bytes: frame })?;
        differences.chunks.push(entry);
        Ok(full)
    }

    /// The differences that are gathered and not complete.
    pub(super) fn rest_of_differences(&self) -> Option<Block> {
        std::mem::take(&mut *lock(&self.differences)).finish()
    }

    /// Adds a block whose chunks were verified; gives back the pack that is complete without it, as
    /// [`Self::pack`] does.
    pub(super) fn push<'a>(
        &self,
        Block { bytes: block, chunks }: Block,
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

impl Differences {
    fn finish(self) -> Option<Block> {
        let Self { block, chunks } = self;
        (!chunks.is_empty()).then(|| Block { bytes: block.finish(), chunks })
    }
}

/// The length of a chunk, which no block could hold if it were too long.
pub(super) fn length(bytes: usize) -> Result<u32, RepoError> {
    u32::try_from(bytes)
        .ok()
        .filter(|length| *length as usize <= block::LIMIT)
        .ok_or(RepoError::ChunkTooLong { length: bytes })
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
