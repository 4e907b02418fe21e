//! Everything a tree is made of, without asking what it means: for `check`, and for finding what
//! is still in use.

use super::Tree;
use super::error::TreeError;
use super::node::Node;
use super::stream::{Stream, pieces};
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// What a chunk is in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A node.
    Node,
    /// A part of a list of chunks.
    List,
    /// A part of the bytes of a content.
    Bytes {
        /// How many bytes the tree says that it has.
        length: u64,
    },
}

/// Whether to go down from a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descent {
    /// Visit what is below.
    Into,
    /// It is known what is below.
    Over,
}

/// Is told of every chunk of a tree.
pub trait Visitor {
    /// A chunk, before it is read. With [`Descent::Over`] a node, or a list at the top of a
    /// stream, is not read; at other chunks the answer does not count. Bytes are never read.
    fn visit(&mut self, id: &ChunkId, part: Part) -> Descent;

    /// Something that cannot be read, so that nothing is known of what is below. To go on with
    /// the rest is to return `Ok`.
    fn damaged(&mut self, error: TreeError) -> Result<(), TreeError> {
        Err(error)
    }
}

/// Visits every chunk that a tree needs, parents before children; chunks that are needed more
/// than once, more than once.
pub fn walk(
    reader: &dyn ChunkReader,
    tree: Tree,
    visitor: &mut dyn Visitor,
) -> Result<(), TreeError> {
    let mut path = Vec::new();
    if visitor.visit(&tree.root, Part::Node) == Descent::Into {
        match Node::read_root(reader, &tree) {
            Ok(root) => path.push((root, 0)),
            Err(error) => visitor.damaged(error)?,
        }
    }
    while let Some((node, at)) = path.last_mut() {
        if *at == node.len() {
            path.pop();
            continue;
        }
        let entry = *at;
        *at += 1;
        if node.level() == 0 {
            if let Some(stream) = node.stream(entry) {
                walk_stream(reader, stream, visitor)?;
            }
        } else if visitor.visit(&node.child(entry).id, Part::Node) == Descent::Into {
            match node.read_child(reader, entry) {
                Ok(child) => path.push((child, 0)),
                Err(error) => visitor.damaged(error)?,
            }
        }
    }
    Ok(())
}

fn walk_stream(
    reader: &dyn ChunkReader,
    stream: Stream,
    visitor: &mut dyn Visitor,
) -> Result<(), TreeError> {
    let Stream { length, depth, root } = stream;
    if depth == 0 {
        visitor.visit(&root, Part::Bytes { length });
        return Ok(());
    }
    if visitor.visit(&root, Part::List) == Descent::Over {
        return Ok(());
    }
    let mut total = 0;
    for depth in (0..depth).rev() {
        for piece in pieces(reader, stream, depth) {
            match piece {
                Ok(piece) if depth == 0 => {
                    total += u64::from(piece.length);
                    visitor.visit(&piece.id, Part::Bytes { length: piece.length.into() });
                }
                Ok(piece) => {
                    visitor.visit(&piece.id, Part::List);
                }
                // Deeper lists are read through this one: they would only fail again.
                Err(error) => return visitor.damaged(error),
            }
        }
    }
    if total == length {
        return Ok(());
    }
    let reason = "its chunks have another length than the stream";
    visitor.damaged(TreeError::BadStream { root, chunk: root, reason })
}

/// How large a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Entries.
    pub entries: u64,
    /// Levels, of which a tree with one node has one.
    pub levels: u8,
    /// Nodes on all levels.
    pub nodes: u64,
}

/// Counts the nodes of a tree without reading its leaves.
pub fn stats(reader: &dyn ChunkReader, tree: Tree) -> Result<Stats, TreeError> {
    let root = Node::read_root(reader, &tree)?;
    let mut stats = Stats { entries: root.entries(), levels: root.level() + 1, nodes: 1 };
    let mut path = vec![(root, 0)];
    while let Some((node, at)) = path.last_mut() {
        match node.level() {
            2.. if *at < node.len() => {
                let child = node.read_child(reader, *at)?;
                *at += 1;
                stats.nodes += 1;
                path.push((child, 0));
            }
            1 => {
                stats.nodes += node.len() as u64;
                path.pop();
            }
            _ => {
                path.pop();
            }
        }
    }
    Ok(stats)
}
