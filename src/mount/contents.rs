//! Contents of open files, read where the kernel asks.

use std::collections::{HashMap, VecDeque};
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hint::Failure;
use crate::repo::Repo;
use crate::tree::{Content, Stream, StreamReader, TreeError};

/// How many readers are kept for who goes on where it stopped; each holds a chunk or a few.
const READERS: usize = 16;

/// The open files.
#[derive(Debug)]
pub(super) struct Contents {
    repo: Arc<Repo>,
    open: Mutex<Open>,
    readers: Mutex<VecDeque<Reader>>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    files: HashMap<u64, Arc<Held>>,
}

#[derive(Debug)]
enum Held {
    Bytes(Vec<u8>),
    Stored(Stream),
}

/// A place in a file.
#[derive(Debug)]
struct Reader {
    handle: u64,
    position: u64,
    stream: StreamReader<Arc<Repo>>,
}

impl Contents {
    pub(super) fn new(repo: Arc<Repo>) -> Self {
        Self { repo, open: Mutex::default(), readers: Mutex::default() }
    }

    /// Opens a file.
    pub(super) fn open(&self, content: Content) -> u64 {
        let held = match content {
            Content::Stored(stream) => Held::Stored(stream),
            Content::Inline(bytes) => Held::Bytes(bytes),
            Content::Reader(_) => Held::Bytes(Vec::new()),
        };
        let mut open = lock(&self.open);
        open.last += 1;
        let handle = open.last;
        open.files.insert(handle, Arc::new(held));
        handle
    }

    pub(super) fn close(&self, handle: u64) {
        lock(&self.open).files.remove(&handle);
        lock(&self.readers).retain(|reader| reader.handle != handle);
    }

    /// Bytes of an open file, fewer only at its end; `None` where it is not open.
    pub(super) fn read(
        &self,
        handle: u64,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let Some(held) = lock(&self.open).files.get(&handle).cloned() else { return Ok(None) };
        let stream = match &*held {
            Held::Stored(stream) => *stream,
            Held::Bytes(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let rest = bytes.get(from..).unwrap_or_default();
                return Ok(rest.get(..length.min(rest.len())).map(<[u8]>::to_vec));
            }
        };
        let mut reader = self.reader(handle, offset, stream);
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        reader.stream.by_ref().take(length).read_to_end(&mut bytes).map_err(TreeError::from_io)?;
        reader.position += bytes.len() as u64;
        let mut readers = lock(&self.readers);
        if reader.position < stream.length {
            if readers.len() == READERS {
                readers.pop_front();
            }
            readers.push_back(reader);
        }
        Ok(Some(bytes))
    }

    /// A reader that stands at the offset: one that came there, or a new one.
    fn reader(&self, handle: u64, offset: u64, stream: Stream) -> Reader {
        let mut readers = lock(&self.readers);
        let there = readers.iter().position(|r| r.handle == handle && r.position == offset);
        there.and_then(|at| readers.remove(at)).unwrap_or_else(|| {
            let repo = Arc::clone(&self.repo);
            let stream = StreamReader::range(repo, stream, offset, u64::MAX);
            Reader { handle, position: offset, stream }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
