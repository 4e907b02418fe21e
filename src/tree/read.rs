//! Reading a tree: one entry, or entries in order.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::Tree;
use super::change::{Change, Changes, Key, Value};
use super::error::TreeError;
use super::node::{Child, Node};
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// The most nodes that are read ahead of a cursor at a time.
const AHEAD: usize = 64;

/// The value of a key, or `None` where the tree has no such entry.
pub fn get(reader: &dyn ChunkReader, tree: Tree, key: &[u8]) -> Result<Option<Value>, TreeError> {
    let mut node = Node::read_root(reader, &tree)?;
    loop {
        let at = node.lower_bound(key);
        if at == node.len() {
            return Ok(None);
        }
        if node.level() == 0 {
            return Ok((node.key(at) == key).then(|| node.value(at)));
        }
        node = node.read_child(reader, at)?;
    }
}

/// The value of a key, with the number of the entry in the order of the keys, counted from 0;
/// `None` where the tree has no such entry.
pub fn place(
    reader: &dyn ChunkReader,
    tree: Tree,
    key: &[u8],
) -> Result<Option<(u64, Value)>, TreeError> {
    let mut node = Node::read_root(reader, &tree)?;
    let mut before = 0;
    loop {
        let at = node.lower_bound(key);
        if at == node.len() {
            return Ok(None);
        }
        if node.level() == 0 {
            let number = before + at as u64;
            return Ok((node.key(at) == key).then(|| (number, node.value(at))));
        }
        before += (0..at).map(|at| node.child(at).entries).sum::<u64>();
        node = node.read_child(reader, at)?;
    }
}

/// How many entries have keys below `key`: the number of the first that has not.
pub fn rank(reader: &dyn ChunkReader, tree: Tree, key: &[u8]) -> Result<u64, TreeError> {
    let mut node = Node::read_root(reader, &tree)?;
    let mut before = 0;
    loop {
        let at = node.lower_bound(key);
        if at == node.len() {
            return Ok(before + node.entries());
        }
        if node.level() == 0 {
            return Ok(before + at as u64);
        }
        before += (0..at).map(|at| node.child(at).entries).sum::<u64>();
        node = node.read_child(reader, at)?;
    }
}

/// The entry with this number; `None` where there are fewer. The other way round from [`place`].
pub fn nth(
    reader: &dyn ChunkReader,
    tree: Tree,
    number: u64,
) -> Result<Option<(Key, Value)>, TreeError> {
    if number >= tree.entries {
        return Ok(None);
    }
    let mut node = Node::read_root(reader, &tree)?;
    let mut left = number;
    while node.level() > 0 {
        let mut at = 0;
        while left >= node.child(at).entries {
            left -= node.child(at).entries;
            at += 1;
        }
        node = node.read_child(reader, at)?;
    }
    // That a node has as many entries as its parent says was checked when it was read.
    let at = usize::try_from(left).unwrap_or(usize::MAX);
    Ok((at < node.len()).then(|| (node.key(at).to_vec(), node.value(at))))
}

/// The entries whose keys begin with `prefix`, as puts in order. An empty prefix means all.
pub fn range<'a>(reader: &'a dyn ChunkReader, tree: Tree, prefix: &[u8]) -> Changes<'a> {
    Box::new(entries(reader, tree, &[], prefix).map(|entry| {
        let (key, value) = entry.map_err(Failure::from)?;
        Ok(Change { key, value: Some(value) })
    }))
}

/// The entries whose keys begin with `prefix`, in order, from `from` on. Both may be empty.
pub fn entries<'a>(
    reader: &'a dyn ChunkReader,
    tree: Tree,
    from: &[u8],
    prefix: &[u8],
) -> Entries<'a> {
    let cursor = Cursor::new(reader, tree);
    Entries { cursor, from: from.max(prefix).to_vec(), prefix: prefix.to_vec() }
}

/// Entries of a tree in order; see [`entries`]. Reads the nodes that it comes to, and holds one of
/// each level. After an error it is over.
#[derive(Debug)]
pub struct Entries<'a> {
    cursor: Cursor<'a>,
    /// Where to begin; empty once begun.
    from: Key,
    prefix: Key,
}

impl Entries<'_> {
    fn advance(&mut self) -> Result<Option<(Key, Value)>, TreeError> {
        let from = std::mem::take(&mut self.from);
        loop {
            match self.cursor.here(&from)? {
                None => return Ok(None),
                Some(Here { child: Some(_), .. }) => {
                    self.cursor.read_ahead(None);
                    self.cursor.enter()?;
                }
                Some(here) => {
                    let entry = here
                        .key
                        .starts_with(&self.prefix)
                        .then(|| (here.key.to_vec(), here.value()));
                    match entry {
                        Some(_) => self.cursor.skip(),
                        None => self.cursor.end(),
                    }
                    return Ok(entry);
                }
            }
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(Key, Value), TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.cursor.end();
        }
        next.transpose()
    }
}

/// A place in a tree, before an entry of a node at any level: the entry stands for the whole
/// subtree, which can be passed over unread or entered.
pub(super) struct Cursor<'a> {
    reader: &'a dyn ChunkReader,
    /// The tree, as long as its root has not been read.
    fresh: Option<Tree>,
    /// From the root down. None is finished.
    path: Vec<Step>,
    /// How many nodes to read ahead the next time: twice as many each time, so that who wants
    /// little reads little.
    window: usize,
}

/// A node on the way to where a cursor is.
struct Step {
    node: Node,
    /// The entry to go on with.
    at: usize,
    /// Children that were read ahead.
    ahead: HashMap<ChunkId, Bytes>,
}

impl Step {
    fn new(node: Node) -> Self {
        Self { node, at: 0, ahead: HashMap::new() }
    }

    /// The children that are still to come.
    fn children(&self) -> impl Iterator<Item = ChunkId> {
        let all = if self.node.level() > 0 { self.node.len() } else { 0 };
        (self.at..all).map(|at| self.node.child(at).id)
    }
}

/// What a cursor stands before.
pub(super) struct Here<'c> {
    node: &'c Node,
    at: usize,
    pub(super) level: u8,
    /// The key, or the last one of the subtree.
    pub(super) key: &'c [u8],
    /// `None` at an entry of a leaf.
    pub(super) child: Option<Child>,
}

impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.iter().map(|step| (step.node.id(), step.at));
        f.debug_list().entries(path).finish()
    }
}

impl Here<'_> {
    /// The value of an entry of a leaf.
    pub(super) fn value(&self) -> Value {
        self.node.value(self.at)
    }

    /// Equal exactly if the values are.
    pub(super) fn value_bytes(&self) -> &[u8] {
        self.node.value_bytes(self.at)
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(reader: &'a dyn ChunkReader, tree: impl Into<Option<Tree>>) -> Self {
        Self { reader, fresh: tree.into(), path: Vec::new(), window: 1 }
    }

    /// What comes next, passing over what ends before `from`; `None` at the end.
    pub(super) fn here(&mut self, from: &[u8]) -> Result<Option<Here<'_>>, TreeError> {
        if let Some(tree) = self.fresh.take() {
            let root = Node::read_root(self.reader, &tree)?;
            self.path.push(Step::new(root));
            self.leave_finished();
        }
        if !from.is_empty() {
            while let Some(Step { node, at, .. }) = self.path.last_mut() {
                *at = node.lower_bound(from).max(*at);
                if *at < node.len() {
                    break;
                }
                self.leave_finished();
            }
        }
        Ok(self.path.last().map(|Step { node, at, .. }| Here {
            node,
            at: *at,
            level: node.level(),
            key: node.key(*at),
            child: (node.level() > 0).then(|| node.child(*at)),
        }))
    }

    /// Reads the subtree before which the cursor stands, and some of those after it, by several
    /// threads; but none that `beside` stands before too, since both will pass over it. What cannot be
    /// read is tried again when it is entered.
    pub(super) fn read_ahead(&mut self, beside: Option<&Self>) {
        let Some(step) = self.path.last_mut() else { return };
        if step.children().next().is_none_or(|next| step.ahead.contains_key(&next)) {
            return;
        }
        let beside = beside.and_then(|beside| beside.path.last());
        let passed_over: HashSet<ChunkId> = beside.into_iter().flat_map(Step::children).collect();
        let wanted = step.children().filter(|id| !passed_over.contains(id));
        let wanted: Vec<ChunkId> = wanted.take(self.window).collect();
        self.window = (2 * self.window).min(AHEAD);
        let read = Mutex::new(HashMap::new());
        let keep = |index: usize, bytes| {
            let id = wanted[index];
            read.lock().unwrap_or_else(PoisonError::into_inner).insert(id, bytes);
            Ok(())
        };
        if wanted.len() > 1
            && self.reader.read_chunks(&wanted, rayon::current_num_threads(), &keep).is_err()
        {
            // Its error is that of the node which cannot be read, and belongs to who enters it.
            self.window = 1;
        }
        step.ahead = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    }

    /// Goes to the first entry of the subtree before which the cursor stands.
    pub(super) fn enter(&mut self) -> Result<(), TreeError> {
        if let Some(Step { node, at, ahead }) = self.path.last_mut() {
            let child = match ahead.remove(&node.child(*at).id) {
                Some(bytes) => node.decode_child(*at, bytes)?,
                None => node.read_child(self.reader, *at)?,
            };
            self.path.push(Step::new(child));
        }
        Ok(())
    }

    /// Passes over the entry, with all that is below it.
    pub(super) fn skip(&mut self) {
        if let Some(step) = self.path.last_mut() {
            step.at += 1;
        }
        self.leave_finished();
    }

    /// Goes to the end of the tree.
    pub(super) fn end(&mut self) {
        self.fresh = None;
        self.path.clear();
    }

    fn leave_finished(&mut self) {
        while let Some(step) = self.path.last()
            && step.at == step.node.len()
        {
            self.path.pop();
            if let Some(step) = self.path.last_mut() {
                step.at += 1;
            }
        }
    }
}
