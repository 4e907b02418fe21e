//! The bytes of many streams at once, in the order in which they are quickest to get.

use bytes::Bytes;

use super::error::TreeError;
use super::stream::{Piece, Stream, pieces};
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// Chunks that are sorted at a time: a longer stream, and a longer list of streams, comes in
/// parts.
const WINDOW: usize = 16 << 10;

/// Where a run of bytes belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which stream of those that were asked for.
    pub stream: usize,
    /// Where in it the bytes begin.
    pub offset: u64,
}

/// Takes a run of bytes and all places of those asked for at which it belongs.
pub type EachRun<'a> = dyn Fn(&Bytes, &[Place]) -> Result<(), Failure> + Sync + 'a;

/// Hands over the bytes of streams, in runs, in any order, from up to `jobs` threads: each byte
/// once, and what occurs in several places, for all those of a part together. Memory does not
/// depend on the lengths of the streams.
pub fn fetch(
    reader: &dyn ChunkReader,
    streams: &[Stream],
    jobs: usize,
    each: &EachRun<'_>,
) -> Result<(), Failure> {
    let mut window = Vec::new();
    for (index, stream) in streams.iter().enumerate() {
        let mut offset = 0;
        let mut add = |piece: Piece| {
            window.push((piece, Place { stream: index, offset }));
            offset += u64::from(piece.length);
            if window.len() == WINDOW {
                fetch_window(reader, &mut window, jobs, each)
            } else {
                Ok(())
            }
        };
        match u32::try_from(stream.length) {
            Ok(0) if stream.depth == 0 => {}
            Ok(length) if stream.depth == 0 => add(Piece { id: stream.root, length })?,
            _ if stream.depth > Stream::MAX_DEPTH => {
                return Err(bad(stream, "it is too deep").into());
            }
            _ => pieces(reader, *stream, 0).try_for_each(|piece| add(piece?))?,
        }
        if offset != stream.length {
            return Err(bad(stream, "its chunks have another length than the stream").into());
        }
    }
    fetch_window(reader, &mut window, jobs, each)
}

fn fetch_window(
    reader: &dyn ChunkReader,
    window: &mut Vec<(Piece, Place)>,
    jobs: usize,
    each: &EachRun<'_>,
) -> Result<(), Failure> {
    window.sort_unstable_by_key(|(piece, place)| (piece.id, place.stream, place.offset));
    let groups: Vec<&[(Piece, Place)]> = window.chunk_by(|a, b| a.0.id == b.0.id).collect();
    let ids: Vec<ChunkId> = groups.iter().map(|group| group[0].0.id).collect();
    reader.read_chunks(&ids, jobs, &|index, bytes| {
        let group = groups[index];
        let id = group[0].0.id;
        if group.iter().any(|(piece, _)| piece.length as usize != bytes.len()) {
            let reason = "the chunk is not as long as it should be";
            return Err(TreeError::BadStream { root: id, chunk: id, reason }.into());
        }
        let places: Vec<Place> = group.iter().map(|(_, place)| *place).collect();
        each(&bytes, &places)
    })?;
    window.clear();
    Ok(())
}

fn bad(stream: &Stream, reason: &'static str) -> TreeError {
    TreeError::BadStream { root: stream.root, chunk: stream.root, reason }
}
