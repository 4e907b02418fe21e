//! Which chunk of a stream's last version a chunk of the next takes the place of.

use super::error::TreeError;
use super::stream::{Piece, Stream, pieces};
use crate::id::ChunkId;
use crate::repo::{ChunkReader, RepoError};

/// How far two places may lie apart that are taken for the same one: less than most chunks are long.
const SLACK: u64 = 64 << 10;

/// Goes through the chunks of a stream's last version, beside whoever writes the next.
pub(super) struct Succession<'a> {
    pieces: Box<dyn Iterator<Item = Result<Piece, TreeError>> + 'a>,
    /// The piece that was read last, and where it begins and ends.
    last: Option<(ChunkId, u64, u64)>,
    /// By how much the bytes of the new version have moved, as far as is known.
    shift: i64,
}

impl<'a> Succession<'a> {
    pub(super) fn new(reader: &'a dyn ChunkReader, stream: Stream) -> Self {
        Self { pieces: Box::new(pieces(reader, stream, 0)), last: None, shift: 0 }
    }

    /// What a chunk that begins here takes the place of: what was where its middle is, or
    /// else the end. Chunks have to be asked for in order.
    pub(super) fn predecessor(
        &mut self,
        start: u64,
        length: u64,
    ) -> Result<Option<ChunkId>, RepoError> {
        let moved = |place: u64| place.saturating_add_signed(self.shift.saturating_neg());
        let (first, middle) = (moved(start), moved(start + length / 2));
        while self.last.is_none_or(|(_, _, end)| end <= middle) {
            let from = self.last.map_or(0, |(_, _, end)| end);
            match self.pieces.next() {
                Some(Ok(piece)) => {
                    self.last = Some((piece.id, from, from + u64::from(piece.length)));
                }
                None => break,
                Some(Err(TreeError::Repo(error))) if !is_damage(&error) => return Err(error),
                // What cannot be read is the predecessor of nothing.
                Some(Err(_damaged)) => return Ok(None),
            }
        }
        let here = self.last.filter(|(_, from, end)| *from <= middle && *end > first);
        let Some((id, old_start, old_end)) = here else { return Ok(None) };
        // Most cuts are where they were, whatever happened between them.
        for (new, old) in [(start, old_start), (start + length, old_end)] {
            let shift = new.cast_signed().wrapping_sub(old.cast_signed());
            if shift.abs_diff(self.shift) < SLACK {
                self.shift = shift;
            }
        }
        Ok(Some(id))
    }
}

fn is_damage(error: &RepoError) -> bool {
    use crate::hint::{ErrorKind, Hint as _};
    error.kind() == ErrorKind::Damage
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of these lengths, each named by its number.
    fn succession(lengths: &[u32]) -> Succession<'_> {
        let piece =
            |(n, length): (u8, &u32)| Ok(Piece { id: ChunkId::new([n; 32]), length: *length });
        Succession { pieces: Box::new((0..).zip(lengths).map(piece)), last: None, shift: 0 }
    }

    fn predecessors(old: &[u32], new: &[u32]) -> Vec<Option<u8>> {
        let mut succession = succession(old);
        let mut start = 0;
        let mut next = |length: &u32| {
            let length = u64::from(*length);
            let id = succession.predecessor(start, length).expect("it is there");
            start += length;
            id.map(|id| id.as_bytes()[0])
        };
        new.iter().map(&mut next).collect()
    }

    #[test]
    fn chunks_take_the_place_of_what_was_there_also_when_all_has_moved() {
        const K: u32 = 1 << 10;
        let old = [300 * K; 50];
        let numbers = |range: std::ops::Range<u8>| range.map(Some).collect::<Vec<_>>();
        assert_eq!(predecessors(&old, &old), numbers(0..50));
        // Each grows: in the end, everything has moved by more than a chunk.
        assert_eq!(predecessors(&old, &[320 * K; 50]), numbers(0..50));
        assert_eq!(predecessors(&old, &[280 * K; 50]), numbers(0..50));
        // One is cut in two; two become one.
        let cut = [&[140 * K, 160 * K][..], &old[1..]].concat();
        assert_eq!(predecessors(&old, &cut)[..4], [Some(0), Some(0), Some(1), Some(2)]);
        let joined = [&[600 * K][..], &old[2..]].concat();
        assert_eq!(predecessors(&old, &joined)[1..], numbers(2..50));
        assert_eq!(predecessors(&old[..2], &old[..4]), [Some(0), Some(1), None, None]);
    }
}
