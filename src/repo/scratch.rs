//! Chunks that are looked at and forgotten: what a dry run or a verification writes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::chunks::{ChunkReader, ChunkWriter, Class, EachChunk};
use super::error::RepoError;
use super::open::Repo;
use crate::hint::Failure;
use crate::id::ChunkId;

/// Writes like a session, but keeps new chunks only in a temporary file that is gone afterwards.
/// So a tree can be built, its root compared with another's and the two be diffed, without adding
/// anything to the repository. Memory grows by the ids of new chunks only.
#[derive(Debug)]
pub struct Scratch<'r> {
    repo: &'r Repo,
    new: Mutex<New>,
}

#[derive(Debug)]
struct New {
    file: File,
    end: u64,
    chunks: HashMap<ChunkId, (u64, usize)>,
}

impl Repo {
    /// An empty scratch over this repository.
    pub fn scratch(&self) -> Result<Scratch<'_>, RepoError> {
        let file = tempfile::tempfile().map_err(RepoError::Scratch)?;
        Ok(Scratch { repo: self, new: Mutex::new(New { file, end: 0, chunks: HashMap::new() }) })
    }
}

impl ChunkWriter for Scratch<'_> {
    fn write_chunk(&self, _class: Class, bytes: &[u8]) -> Result<ChunkId, RepoError> {
        let id = self.repo.sealer.chunk_id(bytes);
        if self.repo.view.locate(&id)?.is_none() {
            let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
            if !new.chunks.contains_key(&id) {
                new.file.write_all(bytes).map_err(RepoError::Scratch)?;
                let start = new.end;
                new.end += bytes.len() as u64;
                new.chunks.insert(id, (start, bytes.len()));
            }
        }
        Ok(id)
    }
}

impl ChunkReader for Scratch<'_> {
    fn read_chunk(&self, id: &ChunkId) -> Result<Bytes, RepoError> {
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((start, length)) = new.chunks.get(id) else {
            drop(new);
            return self.repo.read_chunk(id);
        };
        let mut bytes = vec![0; *length];
        new.file.read_exact_at(&mut bytes, *start).map_err(RepoError::Scratch)?;
        Ok(bytes.into())
    }

    fn names(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        self.repo.names(id, bytes)
    }

    fn read_chunks(
        &self,
        ids: &[ChunkId],
        jobs: usize,
        each: &EachChunk<'_>,
    ) -> Result<(), Failure> {
        let (new, old): (Vec<_>, Vec<_>) = {
            let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
            (0..ids.len()).partition(|&index| new.chunks.contains_key(&ids[index]))
        };
        for index in new {
            each(index, self.read_chunk(&ids[index])?)?;
        }
        let ids: Vec<ChunkId> = old.iter().map(|&index| ids[index]).collect();
        self.repo.read_chunks(&ids, jobs, &|index, bytes| each(old[index], bytes))
    }
}
