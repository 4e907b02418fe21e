//! What differs between two trees, at a cost that grows with the differences: subtrees with equal
//! ids are passed over unread.

use std::cmp::Ordering;

use super::Tree;
use super::change::{Change, Changes, Key, Value};
use super::error::TreeError;
use super::read::{Cursor, Here};
use crate::hint::Failure;
use crate::repo::ChunkReader;

/// An entry that is not the same in two trees.
#[derive(Debug)]
pub struct Difference {
    /// Which entry.
    pub key: Key,
    /// Its value in the first tree; `None` where it is only in the second.
    pub old: Option<Value>,
    /// Its value in the second tree; `None` where it is only in the first.
    pub new: Option<Value>,
}

/// The entries that differ between two trees of the same shape, in order of their keys; `None` is
/// the empty tree.
pub fn differences(
    reader: &dyn ChunkReader,
    old: Option<Tree>,
    new: Option<Tree>,
) -> Differences<'_> {
    differences_below(reader, old, new, &[])
}

/// Those of the [`differences`] whose keys begin with `prefix`.
pub fn differences_below<'a>(
    reader: &'a dyn ChunkReader,
    old: Option<Tree>,
    new: Option<Tree>,
    prefix: &[u8],
) -> Differences<'a> {
    // Without this the roots would have to be read to see that they are the same.
    let (old, new) = if old == new { (None, None) } else { (old, new) };
    let (old, new) = (Cursor::new(reader, old), Cursor::new(reader, new));
    Differences { old, new, prefix: prefix.to_vec() }
}

/// The changes that turn one tree into another.
pub fn diff(reader: &dyn ChunkReader, old: Option<Tree>, new: Option<Tree>) -> Changes<'_> {
    Box::new(differences(reader, old, new).map(|difference| {
        let Difference { key, new: value, .. } = difference.map_err(Failure::from)?;
        Ok(Change { key, value })
    }))
}

/// See [`differences`]. After an error it is over.
#[derive(Debug)]
pub struct Differences<'a> {
    old: Cursor<'a>,
    new: Cursor<'a>,
    prefix: Key,
}

/// Where a cursor goes from what it stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Stay,
    /// Past it, with all that is below it.
    Skip,
    /// To the first entry of the subtree.
    Enter,
}

impl Differences<'_> {
    fn advance(&mut self) -> Result<Option<Difference>, TreeError> {
        loop {
            let within =
                |here: &Here<'_>| here.child.is_some() || here.key.starts_with(&self.prefix);
            let old = self.old.here(&self.prefix)?.filter(within);
            let new = self.new.here(&self.prefix)?.filter(within);
            if old.is_none() && new.is_none() {
                return Ok(None);
            }
            let (old_move, new_move) = moves(old.as_ref(), new.as_ref());
            let found = difference(
                old.filter(|here| old_move == Move::Skip && here.child.is_none()),
                new.filter(|here| new_move == Move::Skip && here.child.is_none()),
            );
            go(&mut self.old, &mut self.new, old_move, new_move)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

impl Iterator for Differences<'_> {
    type Item = Result<Difference, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.old.end();
            self.new.end();
        }
        next.transpose()
    }
}

pub(super) fn moves(old: Option<&Here<'_>>, new: Option<&Here<'_>>) -> (Move, Move) {
    let pass = |here: &Here<'_>| if here.child.is_some() { Move::Enter } else { Move::Skip };
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (old, new) => return (old.map_or(Move::Stay, pass), new.map_or(Move::Stay, pass)),
    };
    match (old.child, new.child) {
        (Some(old_child), Some(new_child)) if old_child.id == new_child.id => {
            (Move::Skip, Move::Skip)
        }
        (Some(_), None) => (Move::Enter, Move::Stay),
        (None, Some(_)) => (Move::Stay, Move::Enter),
        // The higher subtree holds more: opened first, its parts may equal the other.
        (Some(_), Some(_)) => match old.level.cmp(&new.level) {
            Ordering::Greater => (Move::Enter, Move::Stay),
            Ordering::Less => (Move::Stay, Move::Enter),
            Ordering::Equal => (Move::Enter, Move::Enter),
        },
        (None, None) => match old.key.cmp(new.key) {
            Ordering::Less => (Move::Skip, Move::Stay),
            Ordering::Greater => (Move::Stay, Move::Skip),
            Ordering::Equal => (Move::Skip, Move::Skip),
        },
    }
}

/// The difference between entries of leaves that have the same key, or of which one is missing.
fn difference(old: Option<Here<'_>>, new: Option<Here<'_>>) -> Option<Difference> {
    let key = match (&old, &new) {
        (Some(old), Some(new)) if old.value_bytes() == new.value_bytes() => return None,
        (Some(here), _) | (None, Some(here)) => here.key.to_vec(),
        (None, None) => return None,
    };
    Some(Difference { key, old: old.map(|here| here.value()), new: new.map(|here| here.value()) })
}

/// Moves both cursors. Subtrees that only one of them comes to are read ahead of it.
pub(super) fn go<'a>(
    old: &mut Cursor<'a>,
    new: &mut Cursor<'a>,
    old_move: Move,
    new_move: Move,
) -> Result<(), TreeError> {
    if old_move == Move::Enter {
        old.read_ahead(Some(new));
    }
    if new_move == Move::Enter {
        new.read_ahead(Some(old));
    }
    for (cursor, to) in [(old, old_move), (new, new_move)] {
        match to {
            Move::Stay => {}
            Move::Skip => cursor.skip(),
            Move::Enter => cursor.enter()?,
        }
    }
    Ok(())
}
