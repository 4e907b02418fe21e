//! The two verbs that everything above the repository uses: read a chunk, write a chunk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::error::RepoError;
use crate::hint::Failure;
use crate::id::ChunkId;

/// What a chunk is for: decides which pack and block it is gathered into, and how it is
/// compressed. It has no part in the chunk's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Content of files: blocks of about 1 MiB.
    Data,
    /// Nodes of trees and lists of chunks, read at random: blocks of about 64 KiB, in packs of
    /// their own, so that walking a tree reads little.
    Node,
}

/// Reads chunks by id; every read is verified against the id.
pub trait ChunkReader: Sync {
    /// The bytes of a chunk.
    fn read_chunk(&self, id: &ChunkId) -> Result<Bytes, RepoError>;

    /// Whether the id is that of these bytes, so that they need not be read from here.
    fn names(&self, id: &ChunkId, bytes: &[u8]) -> bool;

    /// Hands over many chunks, each once, in the order in which they are quickest to get, from up
    /// to `jobs` threads at once. What `each` is told first is the place of the chunk in `ids`,
    /// which should hold every id once. Ends at the first error.
    fn read_chunks(
        &self,
        ids: &[ChunkId],
        _jobs: usize,
        each: &EachChunk<'_>,
    ) -> Result<(), Failure> {
        for (index, id) in ids.iter().enumerate() {
            each(index, self.read_chunk(id)?)?;
        }
        Ok(())
    }
}

/// Takes one of many chunks; see [`ChunkReader::read_chunks`].
pub type EachChunk<'a> = dyn Fn(usize, Bytes) -> Result<(), Failure> + Sync + 'a;

/// Stores chunks, each once.
pub trait ChunkWriter: Sync {
    /// Stores the bytes unless they are there already, and names them. They are durable when the
    /// session is committed, not before.
    fn write_chunk(&self, class: Class, bytes: &[u8]) -> Result<ChunkId, RepoError>;

    /// The same for bytes that take the place of `predecessor`, a chunk that is in the repository:
    /// if they are its bytes, nothing is looked up; if they are much like them, only the
    /// difference may be stored.
    fn write_successor(
        &self,
        class: Class,
        bytes: &[u8],
        _predecessor: Option<ChunkId>,
    ) -> Result<ChunkId, RepoError> {
        self.write_chunk(class, bytes)
    }
}

/// Chunks in memory: for tests, and for finding a root hash without storing anything.
#[derive(Debug, Default)]
pub struct MemoryChunks {
    chunks: Mutex<HashMap<ChunkId, Bytes>>,
}

impl MemoryChunks {
    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ChunkReader for MemoryChunks {
    fn read_chunk(&self, id: &ChunkId) -> Result<Bytes, RepoError> {
        self.chunks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
            .ok_or(RepoError::ChunkMissing { id: *id })
    }

    fn names(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        memory_id(bytes) == *id
    }
}

fn memory_id(bytes: &[u8]) -> ChunkId {
    ChunkId::new(*blake3::hash(bytes).as_bytes())
}

impl ChunkWriter for MemoryChunks {
    fn write_chunk(&self, _class: Class, bytes: &[u8]) -> Result<ChunkId, RepoError> {
        let id = memory_id(bytes);
        self.chunks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id)
            .or_insert_with(|| Bytes::copy_from_slice(bytes));
        Ok(id)
    }
}
