//! Everything a tree is made of, without asking what it means: for `check`, and for finding what
//! is still in use.

use super::Tree;
use super::change::Content;
use super::error::TreeError;
use super::node::Node;
use super::stream::{Stream, pieces};
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// What a walk comes to.
#[derive(Debug)]
pub enum Visit<'a> {
    /// A node, before it is read.
    Node(ChunkId),
    /// A chunk of a content, or of the lists above it.
    Chunk {
        /// Which chunk.
        id: ChunkId,
        /// The entry whose content it is.
        key: &'a [u8],
    },
    /// Something that cannot be read, so that nothing is known of what is below it.
    Broken {
        /// The entry, or the last one below the node; empty for the root.
        key: &'a [u8],
        /// Why.
        error: TreeError,
    },
}

/// Visits every chunk that a tree needs, parents before children; what is needed more than once,
/// more than once. Goes on after damage. Reads nodes and lists of chunks, but no content.
///
/// The answer of `visit` counts at nodes: whether to go on below, or whether that is known.
pub fn walk(reader: &dyn ChunkReader, tree: Tree, visit: &mut dyn FnMut(Visit<'_>) -> bool) {
    let mut path = Vec::new();
    if visit(Visit::Node(tree.root)) {
        match Node::read_root(reader, &tree) {
            Ok(root) => path.push((root, 0)),
            Err(error) => drop(visit(Visit::Broken { key: &[], error })),
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
                walk_stream(reader, stream, node.key(entry), visit);
            }
        } else if visit(Visit::Node(node.child(entry).id)) {
            match node.read_child(reader, entry) {
                Ok(child) => path.push((child, 0)),
                Err(error) => drop(visit(Visit::Broken { key: node.key(entry), error })),
            }
        }
    }
}

/// Visits every chunk that the content of one entry needs, in the same way.
pub fn walk_content(
    reader: &dyn ChunkReader,
    content: &Content,
    key: &[u8],
    visit: &mut dyn FnMut(Visit<'_>) -> bool,
) {
    if let Content::Stored(stream) = content {
        walk_stream(reader, *stream, key, visit);
    }
}

fn walk_stream(
    reader: &dyn ChunkReader,
    stream: Stream,
    key: &[u8],
    visit: &mut dyn FnMut(Visit<'_>) -> bool,
) {
    let Stream { length, depth, root } = stream;
    visit(Visit::Chunk { id: root, key });
    let mut total = 0;
    for depth in (0..depth).rev() {
        total = 0;
        for piece in pieces(reader, stream, depth) {
            match piece {
                Ok(piece) => {
                    total += u64::from(piece.length);
                    visit(Visit::Chunk { id: piece.id, key });
                }
                Err(error) => {
                    // Deeper lists are read through this one: they would only fail again.
                    visit(Visit::Broken { key, error });
                    return;
                }
            }
        }
    }
    if depth > 0 && total != length {
        let reason = "its chunks have another length than the stream";
        visit(Visit::Broken { key, error: TreeError::BadStream { root, chunk: root, reason } });
    }
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
