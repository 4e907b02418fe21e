//! The tree that is edited: its nodes and streams, asked for in ascending order.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::Tree;
use super::error::TreeError;
use super::node::Node;
use super::stream::Stream;
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// The tree that is edited.
pub(super) struct Old<'a> {
    pub(super) reader: &'a dyn ChunkReader,
    pub(super) root: Rc<Node>,
    /// Nodes read last. The editors of neighbouring levels, and who looks ahead for streams, need
    /// the same ones at about the same time.
    recent: RefCell<VecDeque<(ChunkId, Rc<Node>)>>,
    /// Nodes that were read ahead, the last time and the time before.
    ahead: RefCell<[HashMap<ChunkId, Bytes>; 2]>,
}

impl<'a> Old<'a> {
    const RECENT: usize = 32;

    /// `None` for a tree without entries.
    pub(super) fn open(
        reader: &'a dyn ChunkReader,
        tree: &Tree,
    ) -> Result<Option<Self>, TreeError> {
        let root = Rc::new(Node::read_root(reader, tree)?);
        Ok((root.len() > 0).then(|| Self {
            reader,
            root,
            recent: RefCell::default(),
            ahead: RefCell::default(),
        }))
    }

    /// Reads the nodes in which these keys are or would be, in ascending order, by several
    /// threads. What cannot be read is tried again where it is needed.
    pub(super) fn read_ahead(&self, keys: &[&[u8]]) {
        let mut read = HashMap::new();
        // The error belongs to whoever needs the node.
        let _ = self.read_below(keys, &mut read);
        let mut ahead = self.ahead.borrow_mut();
        ahead.swap(0, 1);
        ahead[0] = read;
    }

    /// Level by level, so that as much as possible is read at once.
    fn read_below(
        &self,
        keys: &[&[u8]],
        read: &mut HashMap<ChunkId, Bytes>,
    ) -> Result<(), Failure> {
        let mut nodes = vec![(Rc::clone(&self.root), keys)];
        while nodes.first().is_some_and(|(node, _)| node.level() > 0) {
            let mut children = Vec::new();
            for (node, keys) in &nodes {
                // Past the last key there is still the last node, which an appended entry joins.
                let place = |key: &&[u8]| node.lower_bound(key).min(node.len() - 1);
                let shares = keys.chunk_by(|a, b| place(a) == place(b));
                children.extend(shares.map(|keys| (Rc::clone(node), place(&keys[0]), keys)));
            }
            let ids: Vec<_> = children.iter().map(|(node, at, _)| node.child(*at).id).collect();
            let found = Mutex::new(vec![None; ids.len()]);
            let keep = |index: usize, bytes: Bytes| {
                found.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(bytes);
                Ok(())
            };
            self.reader.read_chunks(&ids, rayon::current_num_threads(), &keep)?;
            let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
            nodes.clear();
            for ((node, at, keys), bytes) in children.into_iter().zip(found) {
                let Some(bytes) = bytes else { continue };
                read.insert(node.child(at).id, bytes.clone());
                if node.level() > 1 {
                    nodes.push((Rc::new(node.decode_child(at, bytes)?), keys));
                }
            }
        }
        Ok(())
    }

    fn child(&self, parent: &Node, at: usize) -> Result<Rc<Node>, TreeError> {
        let id = parent.child(at).id;
        let mut recent = self.recent.borrow_mut();
        if let Some((_, node)) = recent.iter().find(|(known, _)| *known == id) {
            return Ok(Rc::clone(node));
        }
        let ahead = self.ahead.borrow_mut().iter_mut().find_map(|read| read.remove(&id));
        let node = Rc::new(match ahead {
            Some(bytes) => parent.decode_child(at, bytes)?,
            None => parent.read_child(self.reader, at)?,
        });
        recent.truncate(Self::RECENT - 1);
        recent.push_front((id, Rc::clone(&node)));
        Ok(node)
    }
}

/// Goes forward through the old nodes of one level without reading those that are passed over.
pub(super) struct OldNodes {
    level: u8,
    /// The root, until it was handed out, where it is itself of this level.
    root: Option<Rc<Node>>,
    /// From the root to a node one level above; each with the place of the child to go on with.
    path: Vec<(Rc<Node>, usize)>,
}

impl OldNodes {
    pub(super) fn new(old: &Old<'_>, level: u8) -> Self {
        let root = Rc::clone(&old.root);
        if root.level() == level {
            Self { level, root: Some(root), path: Vec::new() }
        } else {
            Self { level, root: None, path: vec![(root, 0)] }
        }
    }

    /// The first node not yet handed out whose last key is not below `from`, or else the last
    /// node of all; `None` after that one.
    pub(super) fn next(
        &mut self,
        old: &Old<'_>,
        from: Option<&[u8]>,
    ) -> Result<Option<Rc<Node>>, TreeError> {
        if let Some(root) = self.root.take() {
            return Ok(Some(root));
        }
        self.leave_finished();
        if self.path.is_empty() {
            return Ok(None);
        }
        if let Some(from) = from {
            while self.path.len() > 1
                && self.path.last().is_some_and(|(node, _)| node.last_key() < Some(from))
            {
                self.path.pop();
            }
        }
        while let Some((node, at)) = self.path.last_mut() {
            if let Some(from) = from {
                // Past the last key there is still the last node, which an appended entry joins.
                *at = node.lower_bound(from).clamp(*at, node.len() - 1);
            }
            let child = old.child(node, *at)?;
            if node.level() == self.level + 1 {
                *at += 1;
                return Ok(Some(child));
            }
            self.path.push((child, 0));
        }
        Ok(None)
    }

    /// Climbs out of nodes whose children have all been handed out.
    fn leave_finished(&mut self) {
        while let Some((node, at)) = self.path.last()
            && *at == node.len()
        {
            self.path.pop();
            if let Some((_, at)) = self.path.last_mut() {
                *at += 1;
            }
        }
    }
}

/// Finds the nodes of one level that new ones take the place of, whose keys ascend. Reads only the
/// nodes above.
pub(super) struct OldIds {
    /// The nodes above; none for the level of the root.
    above: Option<OldNodes>,
    parent: Option<Rc<Node>>,
}

impl OldIds {
    /// `None` above the root.
    pub(super) fn new(old: &Old<'_>, level: u8) -> Option<Self> {
        let above = (level < old.root.level()).then(|| OldNodes::new(old, level + 1));
        (level <= old.root.level()).then_some(Self { above, parent: None })
    }

    /// The node that had this key in its range; the last one, for keys after all.
    pub(super) fn get(&mut self, old: &Old<'_>, key: &[u8]) -> Result<ChunkId, TreeError> {
        let Some(above) = &mut self.above else { return Ok(old.root.id()) };
        if self.parent.as_ref().is_none_or(|parent| parent.last_key() < Some(key))
            && let Some(parent) = above.next(old, Some(key))?
        {
            self.parent = Some(parent);
        }
        let last = |node: &Node| node.child(node.lower_bound(key).min(node.len() - 1)).id;
        Ok(self.parent.as_deref().map_or(old.root.id(), last))
    }
}

/// Finds the streams of old entries, whose keys ascend: a file that is read again is often what it
/// was, and then its chunk need not be looked up in the index.
pub(super) struct OldStreams<'a> {
    old: Rc<Old<'a>>,
    leaves: OldNodes,
    leaf: Option<Rc<Node>>,
}

impl<'a> OldStreams<'a> {
    pub(super) fn new(old: Rc<Old<'a>>) -> Self {
        let leaves = OldNodes::new(&old, 0);
        Self { old, leaves, leaf: None }
    }

    /// The stream that was the content of the entry with this key.
    pub(super) fn get(&mut self, key: &[u8]) -> Result<Option<Stream>, TreeError> {
        if self.leaf.as_ref().is_none_or(|leaf| leaf.last_key() < Some(key)) {
            match self.leaves.next(&self.old, Some(key))? {
                Some(leaf) => self.leaf = Some(leaf),
                None => return Ok(None),
            }
        }
        let found = self.leaf.as_ref().and_then(|leaf| {
            let at = leaf.lower_bound(key);
            (at < leaf.len() && leaf.key(at) == key).then(|| leaf.stream(at)).flatten()
        });
        Ok(found)
    }
}
