//! Which chunks have been met before, however many they are.

use std::collections::HashSet;

use super::error::RepoError;
use super::view::{Location, Store};
use crate::id::ChunkId;

/// Ids in memory before they go to disk: what a table of 2¹⁹ slots takes, 17 MiB, and 33 MiB while
/// they are sorted.
const IN_MEMORY: usize = (1 << 19) / 8 * 7;

/// A set of chunks that keeps a bounded part of itself in memory and the rest in a temporary folder
/// that vanishes with it, for whoever walks all snapshots of a large repository.
#[derive(Default)]
pub struct SeenChunks {
    recent: HashSet<ChunkId>,
    count: u64,
    others: Option<Store>,
}

impl SeenChunks {
    /// Adds a chunk; false if it was there.
    pub fn insert(&mut self, id: ChunkId) -> Result<bool, RepoError> {
        self.insert_keeping(id, IN_MEMORY)
    }

    /// Whether a chunk was met.
    pub fn contains(&self, id: &ChunkId) -> Result<bool, RepoError> {
        if self.recent.contains(id) {
            return Ok(true);
        }
        let others = self.others.as_ref().map(|store| store.locate(id)).transpose()?;
        Ok(others.flatten().is_some())
    }

    /// How many there are.
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn insert_keeping(&mut self, id: ChunkId, in_memory: usize) -> Result<bool, RepoError> {
        if self.recent.contains(&id) {
            return Ok(false);
        }
        if let Some(store) = &self.others
            && store.locate(&id)?.is_some()
        {
            return Ok(false);
        }
        self.recent.insert(id);
        self.count += 1;
        if self.recent.len() >= in_memory {
            let store = match self.others.take() {
                Some(store) => store,
                None => Store::temporary()?,
            };
            let mut chunks: Vec<_> =
                self.recent.drain().map(|id| (id, Location::NOWHERE)).collect();
            chunks.sort_unstable_by_key(|(id, _)| *id);
            self.others.insert(store).ingest(&chunks)?;
        }
        Ok(true)
    }
}

impl std::fmt::Debug for SeenChunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeenChunks").field("recent", &self.recent.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_new_once_also_when_memory_is_short() {
        let mut seen = SeenChunks::default();
        let id = |n: u32| ChunkId::new(*blake3::hash(&(n % 3000).to_le_bytes()).as_bytes());
        for n in 0..9000 {
            assert_eq!(seen.insert_keeping(id(n), 700).expect("a set"), n < 3000, "number {n}");
        }
    }
}
