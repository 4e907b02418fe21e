//! Reading what can still be read of a tree of which parts are lost.

use super::Tree;
use super::change::{Key, Value};
use super::error::TreeError;
use super::read::Cursor;
use crate::hint::{ErrorKind, Hint as _};
use crate::repo::ChunkReader;

/// What comes next in a tree that may be damaged.
#[derive(Debug)]
pub enum Salvaged {
    /// An entry. Whether its content is there is not known yet.
    Entry(Key, Value),
    /// A node that cannot be read, with all that was below it.
    Lost {
        /// The last key of it; none where it is the root.
        until: Option<Key>,
        /// How many entries it had.
        entries: u64,
        /// Why.
        error: TreeError,
    },
}

/// What is left of a tree, in order, and what is not. Only damage counts as a loss: where the
/// repository does not answer, the iterator ends with its error.
pub fn salvage(
    reader: &dyn ChunkReader,
    tree: Tree,
) -> impl Iterator<Item = Result<Salvaged, TreeError>> + '_ {
    let mut cursor = Cursor::new(reader, tree);
    let mut over = false;
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        let next = advance(&mut cursor, tree);
        // What cannot be read at the root leaves nothing to go on with.
        over = matches!(next, Err(_) | Ok(Some(Salvaged::Lost { until: None, .. })));
        next.transpose()
    })
}

fn advance(cursor: &mut Cursor<'_>, tree: Tree) -> Result<Option<Salvaged>, TreeError> {
    loop {
        let here = match cursor.here(&[]) {
            Ok(None) => return Ok(None),
            Ok(Some(here)) => here,
            Err(error) => return lost(error, None, tree.entries).map(Some),
        };
        let key = here.key.to_vec();
        let Some(child) = here.child else {
            let value = here.value();
            cursor.skip();
            return Ok(Some(Salvaged::Entry(key, value)));
        };
        if let Err(error) = cursor.enter() {
            let lost = lost(error, Some(key), child.entries)?;
            cursor.skip();
            return Ok(Some(lost));
        }
    }
}

fn lost(error: TreeError, until: Option<Key>, entries: u64) -> Result<Salvaged, TreeError> {
    if error.kind() == ErrorKind::Damage {
        Ok(Salvaged::Lost { until, entries, error })
    } else {
        Err(error)
    }
}
