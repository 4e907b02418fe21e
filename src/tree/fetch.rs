//! The bytes of many streams at once, in the order in which they are quickest to get.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::TreeError;
use super::stream::{Piece, Stream, pieces};
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// Chunks that are sorted at a time: a longer stream, and a longer list of streams, comes in
/// parts.
const WINDOW: usize = 16 << 10;
/// Chunks of a basis that are remembered: those of about 64 GiB.
const REMEMBERED: usize = 256 << 10;

/// A stream whose bytes are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    /// The stream.
    pub stream: Stream,
    /// What may have some of the bytes already.
    pub basis: Option<Basis<'a>>,
}

/// Something outside of the repository that is much like a stream which is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'a> {
    /// What it was when it was captured.
    pub stream: Stream,
    /// What it is now.
    pub bytes: &'a dyn ReadAt,
}

/// Bytes that can be read from anywhere in them.
pub trait ReadAt: std::fmt::Debug + Sync {
    /// Fills the buffer from this offset on.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Where a run of bytes belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which stream of those that were asked for.
    pub stream: usize,
    /// Where in it the bytes begin.
    pub offset: u64,
}

/// Takes a run of bytes and all places of those asked for at which it belongs.
pub type EachRun<'a> = dyn Fn(&[u8], &[Place]) -> Result<(), Failure> + Sync + 'a;

/// Hands over the bytes of streams, in runs, in any order, from up to `jobs` threads: each byte
/// once, and what occurs in several places, for all those of a part together. Memory does not
/// depend on the lengths of the streams.
///
/// A chunk that a stream has in common with its basis is read from there. It is verified like any
/// other, and fetched if it is no longer what it was, or cannot be read.
///
/// Says how many bytes of chunks were fetched from the repository.
pub fn fetch(
    reader: &dyn ChunkReader,
    sought: &[Sought<'_>],
    jobs: usize,
    each: &EachRun<'_>,
) -> Result<u64, Failure> {
    let fetched = AtomicU64::new(0);
    let (absent, present) = (Vec::new(), Vec::new());
    let mut window = Window { reader, sought, jobs, each, fetched: &fetched, absent, present };
    for (index, Sought { stream, basis }) in sought.iter().enumerate() {
        let known = basis.map(|basis| offsets(reader, basis.stream)).transpose()?;
        let known = known.unwrap_or_default();
        let mut offset = 0;
        let mut add = |piece: Piece| {
            let place = Place { stream: index, offset };
            offset += u64::from(piece.length);
            match known.get(&piece.id) {
                Some((from, length)) if *length == piece.length => {
                    window.present.push((*from, piece, place));
                }
                _ => window.absent.push((piece, place)),
            }
            if window.absent.len() + window.present.len() == WINDOW {
                window.flush()
            } else {
                Ok(())
            }
        };
        each_piece(reader, *stream, &mut add)?;
        if offset != stream.length {
            return Err(bad(stream, "its chunks have another length than the stream").into());
        }
    }
    window.flush()?;
    Ok(fetched.into_inner())
}

/// The chunks of a stream, in order.
fn each_piece(
    reader: &dyn ChunkReader,
    stream: Stream,
    add: &mut dyn FnMut(Piece) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match u32::try_from(stream.length) {
        Ok(0) if stream.depth == 0 => Ok(()),
        Ok(length) if stream.depth == 0 => add(Piece { id: stream.root, length }),
        _ if stream.depth > Stream::MAX_DEPTH => Err(bad(&stream, "it is too deep").into()),
        _ => pieces(reader, stream, 0).try_for_each(|piece| add(piece?)),
    }
}

/// Where the chunks of a stream first are in it, and how long.
fn offsets(
    reader: &dyn ChunkReader,
    stream: Stream,
) -> Result<HashMap<ChunkId, (u64, u32)>, Failure> {
    let mut known = HashMap::new();
    let mut offset = 0;
    each_piece(reader, stream, &mut |piece| {
        if known.len() < REMEMBERED {
            known.entry(piece.id).or_insert((offset, piece.length));
        }
        offset += u64::from(piece.length);
        Ok(())
    })?;
    Ok(known)
}

/// What is dealt with together.
struct Window<'a> {
    reader: &'a dyn ChunkReader,
    sought: &'a [Sought<'a>],
    jobs: usize,
    each: &'a EachRun<'a>,
    fetched: &'a AtomicU64,
    /// What is to be fetched.
    absent: Vec<(Piece, Place)>,
    /// What the basis of its stream should have, and where.
    present: Vec<(u64, Piece, Place)>,
}

impl Window<'_> {
    fn flush(&mut self) -> Result<(), Failure> {
        self.read_present()?;
        self.absent.sort_unstable_by_key(|(piece, place)| (piece.id, *place));
        let groups: Vec<&[(Piece, Place)]> =
            self.absent.chunk_by(|a, b| a.0.id == b.0.id).collect();
        let ids: Vec<ChunkId> = groups.iter().map(|group| group[0].0.id).collect();
        self.reader.read_chunks(&ids, self.jobs, &|index, bytes| {
            let group = groups[index];
            let id = group[0].0.id;
            if group.iter().any(|(piece, _)| piece.length as usize != bytes.len()) {
                let reason = "the chunk is not as long as it should be";
                return Err(TreeError::BadStream { root: id, chunk: id, reason }.into());
            }
            self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let places: Vec<Place> = group.iter().map(|(_, place)| *place).collect();
            (self.each)(&bytes, &places)
        })?;
        self.absent.clear();
        Ok(())
    }

    /// Hands over what is as it should be; what is not, is absent.
    fn read_present(&mut self) -> Result<(), Failure> {
        let mut present = std::mem::take(&mut self.present);
        present.sort_unstable_by_key(|(from, _, place)| (place.stream, *from, place.offset));
        let groups: Vec<&[(u64, Piece, Place)]> =
            present.chunk_by(|a, b| (a.2.stream, a.0) == (b.2.stream, b.0)).collect();
        let next = AtomicUsize::new(0);
        let absent = Mutex::new(std::mem::take(&mut self.absent));
        let work = || {
            let mut buffer = Vec::new();
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.read_basis(group[0], &mut buffer) {
                    let places: Vec<Place> = group.iter().map(|(.., place)| *place).collect();
                    (self.each)(&buffer, &places)?;
                } else {
                    let mut absent = absent.lock().unwrap_or_else(PoisonError::into_inner);
                    absent.extend(group.iter().map(|(_, piece, place)| (*piece, *place)));
                }
            }
            Ok::<(), Failure>(())
        };
        std::thread::scope(|scope| {
            let others = self.jobs.min(groups.len()).saturating_sub(1);
            let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
            others.into_iter().fold(work(), |result, other| {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result.and(other)
            })
        })?;
        self.absent = absent.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(())
    }

    /// Whether the basis still has a chunk; its bytes are in the buffer then.
    fn read_basis(&self, (from, piece, place): (u64, Piece, Place), buffer: &mut Vec<u8>) -> bool {
        buffer.resize(piece.length as usize, 0);
        self.sought[place.stream].basis.is_some_and(|basis| {
            basis.bytes.read_exact_at(buffer, from).is_ok() && self.reader.names(&piece.id, buffer)
        })
    }
}

fn bad(stream: &Stream, reason: &'static str) -> TreeError {
    TreeError::BadStream { root: stream.root, chunk: stream.root, reason }
}
