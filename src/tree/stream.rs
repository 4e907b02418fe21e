//! Byte streams as lists of chunks.

use crate::id::ChunkId;

/// A run of bytes in the repository. A list of chunks longer than one is itself stored as a
/// stream, recursively, up to one root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Length in bytes of the whole.
    pub length: u64,
    /// How many lists stand between the root and the bytes: 0 when the root chunk is the bytes.
    pub depth: u8,
    /// The chunk at the top.
    pub root: ChunkId,
}
