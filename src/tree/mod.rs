//! The prolly tree: an ordered, content-addressed map from key to value. A directory of a million
//! files and a table of a million rows are the same thing here.
//!
//! **Invariant:** a tree is a function of its entries. The same entries under the same [`Shape`]
//! give the same root, whatever edits led there. That is what makes comparing two trees cheap
//! (equal subtrees have equal ids), and a restored table provably the captured one.
//!
//! Nodes end where a keyed hash of the *key* says so (see [`Boundary`](crate::chunker::Boundary)),
//! so an edit rewrites the nodes around it and the path above them, and nothing else.
//! `docs/FORMAT.md` has the layout of nodes and lists.

mod change;
mod compare;
mod diff;
mod edit;
mod error;
mod fetch;
mod node;
mod old;
mod read;
mod salvage;
mod shape;
mod stow;
mod stream;
mod succession;
#[cfg(test)]
mod tests;
mod walk;

pub use change::{Change, Changes, Content, Key, Outcome, Reading, Settled, Value};
pub use compare::{Part, Side, compare};
pub use diff::{Difference, Differences, diff, differences, differences_below};
pub use edit::{Edited, Effect, Watch, build, build_after, edit, edit_watched};
pub use error::TreeError;
pub use fetch::{Basis, EachRun, Place, ReadAt, Sought, fetch};
pub use read::{Entries, entries, get, node_at, nth, place, range, rank};
pub use salvage::{Salvaged, salvage};
pub use shape::{Shape, TreeParams};
pub use stream::{Stream, StreamReader, store};
pub use walk::{Stats, Visit, stats, walk, walk_content};

use crate::id::ChunkId;

/// The longest key, and the longest head of a value, in bytes.
pub const MAX_KEY: usize = 64 << 10;

/// A tree in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Tree {
    /// The node at the top. Two trees have equal entries if and only if they have equal roots.
    pub root: ChunkId,
    /// How many entries there are.
    pub entries: u64,
}
