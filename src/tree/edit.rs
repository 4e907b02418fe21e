//! Changes into trees. Every level of a tree is a sorted list of entries, cut into nodes; the list
//! of a level's nodes is the level above. One editor per level takes sorted changes, rewrites the
//! nodes they touch until its cuts coincide with old ones again, and hands the level above what
//! became of its nodes, as sorted changes. So an edit streams through all levels at once, and
//! memory holds about one node for each.

use std::collections::VecDeque;
use std::rc::Rc;

use super::change::{Change, Changes, Content, Value};
use super::error::TreeError;
use super::node::{Builder, Child, Item, MAX_LEVEL, Node, Stowed};
use super::old::{Old, OldIds, OldNodes, OldStreams};
use super::shape::Shape;
use super::stow::{self, Ready, Task};
use super::stream::Before;
use super::{MAX_KEY, Tree};
use crate::hint::{ErrorKind, Hint as _};
use crate::id::ChunkId;
use crate::repo::{ChunkReader, ChunkWriter, Class};

/// Makes a tree of the puts among `changes`; there is nothing to delete.
pub fn build(
    writer: &dyn ChunkWriter,
    shape: &Shape,
    changes: Changes<'_>,
) -> Result<Tree, TreeError> {
    run(Editor::new(writer, shape), changes, None)
}

/// The same as [`build`] of what takes the place of another tree, of which much may still be true:
/// nodes that are much like those of `before` are offered as their successors. What of `before`
/// cannot be read makes no difference but that.
pub fn build_after(
    reader: &dyn ChunkReader,
    writer: &dyn ChunkWriter,
    shape: &Shape,
    before: Option<Tree>,
    changes: Changes<'_>,
) -> Result<Tree, TreeError> {
    let before = before.map(|tree| Old::open(reader, &tree));
    let before = unless_damaged(before.transpose())?.flatten();
    run(Editor { before: before.flatten(), ..Editor::new(writer, shape) }, changes, None)
}

/// What was read, or nothing where it is damaged.
fn unless_damaged<T>(read: Result<T, TreeError>) -> Result<Option<T>, TreeError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == ErrorKind::Damage => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an edit did to one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// There was none.
    Added,
    /// There was another.
    Changed,
    /// It is gone.
    Removed,
    /// It was put, and is as it was.
    Unchanged,
}

/// One entry that an edit put or deleted.
#[derive(Debug)]
pub struct Edited<'a> {
    /// Which one.
    pub key: &'a [u8],
    /// What became of it.
    pub effect: Effect,
    /// The head of its value; of that which it had where it is gone.
    pub head: &'a [u8],
    /// The length of its content; 0 where it is gone.
    pub length: u64,
    /// The length of the content that it had; 0 where it is new.
    pub was: u64,
}

/// Hears of every entry that an edit puts or deletes, in order of the keys.
pub type Watch<'a> = &'a mut dyn FnMut(Edited<'_>);

/// The same as [`edit`], watched.
pub fn edit_watched(
    reader: &dyn ChunkReader,
    writer: &dyn ChunkWriter,
    shape: &Shape,
    tree: Option<Tree>,
    changes: Changes<'_>,
    watch: Watch<'_>,
) -> Result<Tree, TreeError> {
    let mut editor = Editor { watch: Some(watch), ..Editor::new(writer, shape) };
    if let Some(tree) = &tree {
        editor.old = Old::open(reader, tree)?.map(Rc::new);
    }
    run(editor, changes, tree)
}

/// Makes the tree that results from `changes` to `tree` (`None`: to the empty one). It is the
/// same tree that [`build`] would make of the same entries; only nodes that changed are written.
/// To delete what is not there, or put what is there, changes nothing.
///
/// `reader` has to give the nodes of `tree`; what is written here is not read back.
pub fn edit(
    reader: &dyn ChunkReader,
    writer: &dyn ChunkWriter,
    shape: &Shape,
    tree: Option<Tree>,
    changes: Changes<'_>,
) -> Result<Tree, TreeError> {
    let mut editor = Editor::new(writer, shape);
    if let Some(tree) = &tree {
        editor.old = Old::open(reader, tree)?.map(Rc::new);
    }
    run(editor, changes, tree)
}

fn run(mut editor: Editor<'_>, changes: Changes<'_>, old: Option<Tree>) -> Result<Tree, TreeError> {
    let (writer, shape) = (editor.writer, editor.shape);
    let mut streams = editor.old.as_ref().map(|old| OldStreams::new(Rc::clone(old)));
    let reader = editor.old.as_ref().map(|old| old.reader);
    let changes = Announced {
        changes: checked(changes),
        old: editor.old.clone(),
        window: 1,
        taken: VecDeque::new(),
    };
    let tasks = changes.map(|change| {
        let change = change?;
        let before = match (&mut streams, &change.value, reader) {
            (Some(streams), Some(Value { content: Content::Reader(_), .. }), Some(reader)) => {
                let before = streams.get(&change.key)?;
                before.map_or(Before::Nothing, |stream| Before::Stream(reader, stream))
            }
            _ => Before::Nothing,
        };
        Ok(Task { change, before })
    });
    stow::in_order(writer, shape, tasks, |Ready { key, value }| {
        let item =
            value.as_ref().map(|(head, content)| Item::Value { head: head.as_slice(), content });
        if let Some((head, _)) = &value {
            too_long("head of the value", &key, head.len())?;
        }
        editor.change(0, &key, item)
    })?;
    editor.finish(old)
}

/// Changes, some of which are taken before they are needed, so that the nodes they touch can be
/// read together.
struct Announced<'a, I> {
    changes: I,
    old: Option<Rc<Old<'a>>>,
    /// How many to take the next time: twice as many each time, so that a small edit reads little.
    window: usize,
    taken: VecDeque<Result<Change, TreeError>>,
}

/// The most changes that are taken ahead, and the most bytes of contents.
const AHEAD: usize = 64;
const AHEAD_BYTES: usize = 1 << 20;

impl<I: Iterator<Item = Result<Change, TreeError>>> Announced<'_, I> {
    fn take_ahead(&mut self) {
        let mut bytes = 0;
        while self.taken.len() < self.window && bytes < AHEAD_BYTES {
            let Some(change) = self.changes.next() else { break };
            let content = change.as_ref().ok().and_then(|change| change.value.as_ref());
            match content.map(|value| &value.content) {
                Some(Content::Inline(content)) => bytes += content.len(),
                // An open file, perhaps: those are opened one by one.
                Some(Content::Reader(_)) => bytes = AHEAD_BYTES,
                Some(Content::Stored(_)) | None => {}
            }
            let is_last = change.is_err();
            self.taken.push_back(change);
            if is_last {
                break;
            }
        }
        self.window = (2 * self.window).min(AHEAD);
        let keys: Vec<&[u8]> = self.taken.iter().flatten().map(|change| &*change.key).collect();
        if let Some(old) = self.old.as_ref().filter(|_| keys.len() > 1) {
            old.read_ahead(&keys);
        }
    }
}

impl<I: Iterator<Item = Result<Change, TreeError>>> Iterator for Announced<'_, I> {
    type Item = Result<Change, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.taken.is_empty() {
            self.take_ahead();
        }
        self.taken.pop_front()
    }
}

/// The changes, as long as they are in order and their keys not too long.
fn checked(changes: Changes<'_>) -> impl Iterator<Item = Result<Change, TreeError>> {
    let mut last: Option<Vec<u8>> = None;
    changes.map(move |change| {
        let change = change.map_err(TreeError::Changes)?;
        let key = &change.key;
        too_long("key", key, key.len())?;
        match &mut last {
            Some(after) if *after >= *key => {
                return Err(TreeError::Unsorted { key: change.key, after: std::mem::take(after) });
            }
            Some(after) => after.clone_from(key),
            None => last = Some(key.clone()),
        }
        Ok(change)
    })
}

fn too_long(part: &'static str, key: &[u8], length: usize) -> Result<(), TreeError> {
    if length <= MAX_KEY {
        return Ok(());
    }
    Err(TreeError::TooLong { part, key: key[..key.len().min(MAX_KEY)].to_vec(), length })
}

/// The editor of one level.
struct Level {
    builder: Builder,
    /// `None` above the root of the old tree.
    old: Option<OldNodes>,
    /// The old node that is being copied, and the first of its entries that is not yet.
    open: Option<(Rc<Node>, usize)>,
    /// The old node that was opened last: what is written next takes its place, and after it has
    /// been copied to its end, only what is written first.
    replaced: Option<ChunkId>,
    /// The nodes of a tree that is not edited.
    before: Option<OldIds>,
    /// Whether the level above still has to be told that the open node is gone.
    stale: bool,
    /// The first node of a level that may be the top one: there is no level above until there is
    /// a second.
    first: Option<(Vec<u8>, Child)>,
    /// The node written last, and its child if it has only one.
    written: Option<(ChunkId, Option<Child>)>,
}

struct Editor<'a> {
    writer: &'a dyn ChunkWriter,
    shape: &'a Shape,
    old: Option<Rc<Old<'a>>>,
    /// What is not edited, but what the new tree may be much like.
    before: Option<Old<'a>>,
    levels: Vec<Level>,
    watch: Option<Watch<'a>>,
}

impl<'a> Editor<'a> {
    fn new(writer: &'a dyn ChunkWriter, shape: &'a Shape) -> Self {
        Self { writer, shape, old: None, before: None, levels: Vec::new(), watch: None }
    }

    /// Tells of what is about to be done to an entry; `old` is where it stood.
    fn tell(&mut self, key: &[u8], old: Option<(Rc<Node>, usize)>, item: Option<&Item<'_>>) {
        let Some(watch) = &mut self.watch else { return };
        let old = old.map(|(node, at)| node.value(at));
        let edited = match (item, &old) {
            (Some(Item::Value { head, content }), old) => {
                let (length, same) = match content {
                    Stowed::Inline(bytes) => {
                        let same =
                            |old: &Value| matches!(&old.content, Content::Inline(b) if b == bytes);
                        (bytes.len() as u64, old.as_ref().is_some_and(same))
                    }
                    Stowed::Stored(stream) => {
                        let same =
                            |old: &Value| matches!(&old.content, Content::Stored(s) if s == stream);
                        (stream.length, old.as_ref().is_some_and(same))
                    }
                };
                let was = old.as_ref().map_or(0, |old| old.content.length());
                let effect = match old {
                    None => Effect::Added,
                    Some(old) if same && old.head == *head => Effect::Unchanged,
                    Some(_) => Effect::Changed,
                };
                Edited { key, effect, head, length, was }
            }
            (None, Some(old)) => Edited {
                key,
                effect: Effect::Removed,
                head: &old.head,
                length: 0,
                was: old.content.length(),
            },
            (None | Some(Item::Child(_)), _) => return,
        };
        watch(edited);
    }

    /// Whether the old tree has a level above this one.
    fn is_below_old_root(&self, level: usize) -> bool {
        self.old.as_ref().is_some_and(|old| level < usize::from(old.root.level()))
    }

    /// Puts or deletes one entry of a level.
    ///
    /// At level 0 keys ascend. Above, what a deletion names may lie after what a later put names:
    /// when the end of a level is deleted, its last node turns out only then. By then all entries
    /// between the two are deleted, so that the put still comes after everything in the builder.
    fn change(
        &mut self,
        level: usize,
        key: &[u8],
        item: Option<Item<'_>>,
    ) -> Result<(), TreeError> {
        if level == self.levels.len() {
            self.add_level()?;
        }
        self.copy_below(level, key)?;
        let mut old = None;
        if let Some((node, at)) = &mut self.levels[level].open
            && *at < node.len()
            && node.key(*at) == key
        {
            old = Some((Rc::clone(node), *at));
            *at += 1;
        }
        if level == 0 {
            self.tell(key, old, item.as_ref());
        }
        match item {
            Some(item) => self.push(level, key, |builder| builder.push(key, item)),
            None => Ok(()),
        }
    }

    fn add_level(&mut self) -> Result<(), TreeError> {
        let number = u8::try_from(self.levels.len()).unwrap_or(u8::MAX);
        if number > MAX_LEVEL {
            return Err(TreeError::TooHigh);
        }
        let old = self.old.as_ref().filter(|old| number <= old.root.level());
        self.levels.push(Level {
            builder: Builder::new(number),
            old: old.map(|old| OldNodes::new(old, number)),
            open: None,
            replaced: None,
            before: self.before.as_ref().and_then(|before| OldIds::new(before, number)),
            stale: false,
            first: None,
            written: None,
        });
        Ok(())
    }

    /// Copies the old entries below `key`, or steps over whole nodes of them.
    fn copy_below(&mut self, level: usize, key: &[u8]) -> Result<(), TreeError> {
        loop {
            if self.levels[level].open.is_some() {
                self.copy_open(level, Some(key))?;
                if self.levels[level].open.is_some() {
                    return Ok(());
                }
            }
            if !self.open_next(level, Some(key))? {
                return Ok(());
            }
        }
    }

    /// Copies entries of the open node, up to `key` or to its end, where it is closed.
    fn copy_open(&mut self, level: usize, key: Option<&[u8]>) -> Result<(), TreeError> {
        let Some((node, mut at)) = self.levels[level].open.take() else { return Ok(()) };
        let end = key.map_or(node.len(), |key| node.lower_bound(key)).max(at);
        // In place while entries are pushed: what is written may be this very node again.
        self.levels[level].open = Some((Rc::clone(&node), end));
        while at < end {
            self.push(level, node.key(at), |builder| builder.copy(&node, at))?;
            at += 1;
        }
        if end == node.len() {
            self.forget_open(level)?;
            self.levels[level].open = None;
        }
        Ok(())
    }

    /// Opens the next old node: where the last cut is also an old one, the next that `key` can be
    /// in. Says whether there was one.
    fn open_next(&mut self, level: usize, key: Option<&[u8]>) -> Result<bool, TreeError> {
        let (Some(old), Level { old: Some(nodes), builder, open, replaced, stale, .. }) =
            (&self.old, &mut self.levels[level])
        else {
            return Ok(false);
        };
        let from = key.filter(|_| builder.is_empty());
        let Some(node) = nodes.next(old, from)? else { return Ok(false) };
        *replaced = Some(node.id());
        (*open, *stale) = (Some((node, 0)), true);
        Ok(true)
    }

    /// Tells the level above that the open node is gone, unless it knows.
    fn forget_open(&mut self, level: usize) -> Result<(), TreeError> {
        if !std::mem::take(&mut self.levels[level].stale) || !self.is_below_old_root(level) {
            return Ok(());
        }
        let node = self.levels[level].open.as_ref().map(|(node, _)| Rc::clone(node));
        match node.as_deref().and_then(Node::last_key) {
            Some(key) => self.change(level + 1, key, None),
            None => Ok(()),
        }
    }

    /// Adds an entry to the node that is built, and ends the node where there is a boundary.
    fn push(
        &mut self,
        level: usize,
        key: &[u8],
        add: impl FnOnce(&mut Builder),
    ) -> Result<(), TreeError> {
        let Self { levels, shape, .. } = self;
        let builder = &mut levels[level].builder;
        let before = builder.weight();
        add(builder);
        if shape.is_cut(builder.level(), key, before, builder.weight()) {
            self.write_node(level)?;
        }
        Ok(())
    }

    /// Writes the node that was built, and tells the level above of it.
    fn write_node(&mut self, level: usize) -> Result<(), TreeError> {
        let mut builder = std::mem::take(&mut self.levels[level].builder);
        let Level { open, replaced, .. } = &mut self.levels[level];
        let mut predecessor = if open.is_some() { *replaced } else { replaced.take() };
        if let (Some(before), Some(ids)) = (&self.before, &mut self.levels[level].before) {
            let found = unless_damaged(ids.get(before, builder.last_key()))?;
            // That it is the very same is no reason not to look whether it is there: all is read
            // again, also to store again what was lost.
            let is_other = |id: &ChunkId| !before.reader.names(id, builder.finish());
            predecessor = found.filter(is_other);
        }
        let id = self.writer.write_successor(Class::Node, builder.finish(), predecessor)?;
        self.levels[level].written = Some((id, builder.only_child()));
        self.add_node(level, builder.last_key(), Child { id, entries: builder.entries() })?;
        builder.clear();
        self.levels[level].builder = builder;
        Ok(())
    }

    fn add_node(&mut self, level: usize, key: &[u8], child: Child) -> Result<(), TreeError> {
        if self.is_below_old_root(level) {
            if let Level { open: Some((node, _)), stale: stale @ true, .. } =
                &mut self.levels[level]
                && node.last_key() == Some(key)
            {
                *stale = false;
                if node.id() == child.id {
                    return Ok(()); // The very same node: nothing changes above.
                }
            }
        } else if level + 1 == self.levels.len() {
            let Some((first_key, first)) = self.levels[level].first.take() else {
                self.levels[level].first = Some((key.to_vec(), child));
                return Ok(());
            };
            self.change(level + 1, &first_key, Some(Item::Child(first)))?;
        }
        self.change(level + 1, key, Some(Item::Child(child)))
    }

    /// Brings every level to its end, and finds the root.
    fn finish(mut self, old: Option<Tree>) -> Result<Tree, TreeError> {
        let mut level = 0;
        while level < self.levels.len() {
            self.finish_level(level)?;
            level += 1;
        }
        let reached = self.levels.len();
        let top = self.old.as_ref().map(|old| usize::from(old.root.level()));
        if let (Some(tree), Some(top)) = (old, top)
            && reached <= top
        {
            return Ok(tree); // No change reached its root.
        }
        if let Some((_, root)) = self.levels.last_mut().and_then(|level| level.first.take()) {
            return self.collapse(root);
        }
        let root = self.writer.write_chunk(Class::Node, Builder::new(0).finish())?;
        Ok(Tree { root, entries: 0 })
    }

    fn finish_level(&mut self, level: usize) -> Result<(), TreeError> {
        loop {
            self.copy_open(level, None)?;
            if self.levels[level].builder.is_empty() {
                return Ok(());
            }
            if !self.open_next(level, None)? {
                return self.write_node(level);
            }
        }
    }

    /// The root is the lowest node that is alone on its level: goes down from the top while there
    /// is only one child. What was written in this edit is not read back.
    fn collapse(&self, mut root: Child) -> Result<Tree, TreeError> {
        for level in self.levels.iter().skip(1).rev() {
            let only_child = match (level.written, &self.old) {
                (Some((id, only_child)), _) if id == root.id => only_child,
                (_, Some(old)) => {
                    let node = Node::decode(root.id, old.reader.read_chunk(&root.id)?)?;
                    (node.len() == 1).then(|| node.child(0))
                }
                (_, None) => None,
            };
            match only_child {
                Some(child) => root = child,
                None => break,
            }
        }
        Ok(Tree { root: root.id, entries: root.entries })
    }
}
