//! The repository: chunks in packs, an index of where they are, snapshots. It does not know what
//! its chunks mean.

mod chunks;

pub use chunks::{ChunkReader, ChunkWriter, Class, MemoryChunks, RepoError};
