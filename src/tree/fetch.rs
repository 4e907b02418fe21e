//! The bytes of many streams at once, in the order in which they are quickest to get.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::error::TreeError;
use super::stream::{Piece, Stream, pieces};
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// Chunks that are sorted at a time: a longer stream, and a longer list of streams, comes in
/// parts.
const WINDOW: usize = 16 << 10;
/// Chunks of a stream at hand that are remembered: those of 64 GiB.
const AT_HAND: usize = 256 << 10;

/// A stream whose bytes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sought {
    /// The stream.
    pub stream: Stream,
    /// Another, which whoever asks has: what both have in common is not fetched.
    pub at_hand: Option<Stream>,
}

/// Where a run of bytes belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which stream of those that were asked for.
    pub stream: usize,
    /// Where in it the bytes begin.
    pub offset: u64,
}

/// A part of streams.
#[derive(Debug)]
pub enum Run<'a> {
    /// Bytes, and all places of those asked for at which they belong.
    Bytes(&'a Bytes, &'a [Place]),
    /// As many bytes as this, which are in the stream at hand.
    AtHand {
        /// Where they belong.
        place: Place,
        /// Where they begin in the stream at hand.
        from: u64,
        /// How many.
        length: u64,
    },
}

/// Takes a run.
pub type EachRun<'a> = dyn Fn(Run<'_>) -> Result<(), Failure> + Sync + 'a;

/// Hands over the bytes of streams, in runs, in any order, from up to `jobs` threads: each byte
/// once, and what occurs in several places, for all those of a part together. Memory does not
/// depend on the lengths of the streams.
pub fn fetch(
    reader: &dyn ChunkReader,
    sought: &[Sought],
    jobs: usize,
    each: &EachRun<'_>,
) -> Result<(), Failure> {
    let mut window = Window { reader, jobs, each, absent: Vec::new(), at_hand: Vec::new() };
    for (index, Sought { stream, at_hand }) in sought.iter().enumerate() {
        let known = at_hand.map(|other| offsets(reader, other)).transpose()?.unwrap_or_default();
        let mut offset = 0;
        let mut add = |piece: Piece| {
            let place = Place { stream: index, offset };
            offset += u64::from(piece.length);
            match known.get(&piece.id) {
                Some(from) => window.reuse(place, *from, piece.length.into()),
                None => window.absent.push((piece, place)),
            }
            window.flush_if_full()
        };
        each_piece(reader, *stream, &mut add)?;
        if offset != stream.length {
            return Err(bad(stream, "its chunks have another length than the stream").into());
        }
    }
    window.flush()
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

/// Where the chunks of a stream are in it.
fn offsets(reader: &dyn ChunkReader, stream: Stream) -> Result<HashMap<ChunkId, u64>, Failure> {
    let mut known = HashMap::new();
    let mut offset = 0;
    each_piece(reader, stream, &mut |piece| {
        if known.len() < AT_HAND {
            known.entry(piece.id).or_insert(offset);
        }
        offset += u64::from(piece.length);
        Ok(())
    })?;
    Ok(known)
}

/// What is dealt with together.
struct Window<'a> {
    reader: &'a dyn ChunkReader,
    jobs: usize,
    each: &'a EachRun<'a>,
    absent: Vec<(Piece, Place)>,
    /// Place, origin and length.
    at_hand: Vec<(Place, u64, u64)>,
}

impl Window<'_> {
    fn reuse(&mut self, place: Place, from: u64, length: u64) {
        // What follows in both is one run.
        if let Some((last, origin, so_far)) = self.at_hand.last_mut()
            && last.stream == place.stream
            && last.offset + *so_far == place.offset
            && *origin + *so_far == from
        {
            *so_far += length;
        } else {
            self.at_hand.push((place, from, length));
        }
    }

    fn flush_if_full(&mut self) -> Result<(), Failure> {
        if self.absent.len().max(self.at_hand.len()) < WINDOW { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.flush_at_hand()?;
        self.absent.sort_unstable_by_key(|(piece, place)| (piece.id, place.stream, place.offset));
        let groups = self.absent.chunk_by(|a, b| a.0.id == b.0.id);
        let groups: Vec<&[(Piece, Place)]> = groups.collect();
        let ids: Vec<ChunkId> = groups.iter().map(|group| group[0].0.id).collect();
        self.reader.read_chunks(&ids, self.jobs, &|index, bytes| {
            let group = groups[index];
            let id = group[0].0.id;
            if group.iter().any(|(piece, _)| piece.length as usize != bytes.len()) {
                let reason = "the chunk is not as long as it should be";
                return Err(TreeError::BadStream { root: id, chunk: id, reason }.into());
            }
            let places: Vec<Place> = group.iter().map(|(_, place)| *place).collect();
            (self.each)(Run::Bytes(&bytes, &places))
        })?;
        self.absent.clear();
        Ok(())
    }

    fn flush_at_hand(&mut self) -> Result<(), Failure> {
        let (runs, each) = (std::mem::take(&mut self.at_hand), self.each);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let &(place, from, length) = run;
                each(Run::AtHand { place, from, length })?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others = self.jobs.min(runs.len()).saturating_sub(1);
            let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
            others.into_iter().fold(work(), |result, other| {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result.and(other)
            })
        })
    }
}

fn bad(stream: &Stream, reason: &'static str) -> TreeError {
    TreeError::BadStream { root: stream.root, chunk: stream.root, reason }
}
