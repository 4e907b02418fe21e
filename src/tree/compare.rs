//! What two trees are made of, as far as it is not the same: for counting what a snapshot needs
//! without walking what it shares with the one before.

use super::Tree;
use super::change::{Content, Value};
use super::diff::{Move, go, moves};
use super::error::TreeError;
use super::read::{Cursor, Here};
use super::stream::{Stream, pieces};
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// Which of two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Old,
    /// The second.
    New,
}

/// Something that a tree is made of.
#[derive(Debug)]
pub enum Part<'a> {
    /// A node, a chunk of a content, or of the lists above it.
    Chunk(ChunkId),
    /// An entry, with the length of its content in bytes.
    Entry {
        /// The head of its value.
        head: &'a [u8],
        /// How many bytes its content has.
        length: u64,
    },
}

/// Calls `each` for what the trees are made of, `None` being made of nothing. What is needed more
/// than once is given more than once; and for each part,
///
/// > how often the second tree needs it = how often the first does - calls for it of the first
/// > side + calls of the second,
///
/// which is all that is promised: what both share may be left out on both sides, or given on both.
/// Reads nodes and lists of chunks where the trees differ, and no content.
pub fn compare(
    reader: &dyn ChunkReader,
    old: Option<Tree>,
    new: Option<Tree>,
    each: &mut dyn FnMut(Side, Part<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if old == new {
        return Ok(());
    }
    for (side, tree) in [(Side::Old, old), (Side::New, new)] {
        if let Some(tree) = tree {
            each(side, Part::Chunk(tree.root))?;
        }
    }
    let (mut old, mut new) = (Cursor::new(reader, old), Cursor::new(reader, new));
    loop {
        let (old_here, new_here) = (old.here(&[])?, new.here(&[])?);
        if old_here.is_none() && new_here.is_none() {
            return Ok(());
        }
        let (old_move, new_move) = moves(old_here.as_ref(), new_here.as_ref());
        let mut values = [None, None];
        let sides = [(Side::Old, &old_here, old_move), (Side::New, &new_here, new_move)];
        for (value, (side, here, to)) in values.iter_mut().zip(sides) {
            match (here, to) {
                (Some(Here { child: Some(child), .. }), Move::Enter) => {
                    each(side, Part::Chunk(child.id))?;
                }
                (Some(here), Move::Skip) if here.child.is_none() => *value = Some(here.value()),
                _ => {}
            }
        }
        entries(reader, &values, each)?;
        go(&mut old, &mut new, old_move, new_move)?;
    }
}

/// What the entries that stand for the same key in both trees are made of.
fn entries(
    reader: &dyn ChunkReader,
    values: &[Option<Value>; 2],
    each: &mut dyn FnMut(Side, Part<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let streams = values.each_ref().map(|value| match value {
        Some(Value { content: Content::Stored(stream), .. }) => Some(*stream),
        _ => None,
    });
    for (side, (value, stream)) in
        [Side::Old, Side::New].into_iter().zip(values.iter().zip(streams))
    {
        let Some(value) = value else { continue };
        let length = value.content.length();
        each(side, Part::Entry { head: &value.head, length })?;
        if let Some(stream) = stream.filter(|_| streams[0] != streams[1]) {
            chunks(reader, stream, &mut |id| each(side, Part::Chunk(id)))?;
        }
    }
    Ok(())
}

fn chunks(
    reader: &dyn ChunkReader,
    stream: Stream,
    each: &mut dyn FnMut(ChunkId) -> Result<(), Failure>,
) -> Result<(), Failure> {
    each(stream.root)?;
    for depth in (0..stream.depth).rev() {
        for piece in pieces(reader, stream, depth) {
            let piece = piece.map_err(|error: TreeError| Failure::from(error))?;
            each(piece.id)?;
        }
    }
    Ok(())
}
