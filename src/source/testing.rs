//! What the tests of all sources and targets need: trees as they would be in a repository, and
//! the plan that a restore would make of them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use super::{Applied, Delta, Description, Fit, Parent, Plan, Source, Target, TreeInfo};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::report::Recorder;
use crate::time::{ManualClock, Timestamp};
use crate::tree::{Change, Changes, Content, EachRun, Key, Place, Sought, Stream, Value};

/// Heads and contents by key.
pub(crate) type Tree = BTreeMap<Key, (Vec<u8>, Vec<u8>)>;

/// A source as it was captured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Captured {
    pub(crate) description: Description,
    pub(crate) trees: BTreeMap<String, Tree>,
}

impl Parent for Captured {
    fn description(&self) -> Result<Description, Failure> {
        Ok(self.description.clone())
    }

    fn entries(&self, tree: &str) -> Result<Option<Changes<'_>>, Failure> {
        let Some(tree) = self.trees.get(tree) else { return Ok(None) };
        Ok(Some(Box::new(tree.iter().map(|(key, (head, bytes))| {
            Ok(Change::put(key.clone(), head.clone(), Content::Inline(bytes.clone())))
        }))))
    }

    fn count(&self, tree: &str) -> Result<Option<u64>, Failure> {
        Ok(self.trees.get(tree).map(|tree| tree.len() as u64))
    }
}

/// The bytes of a content outside of a repository.
pub(crate) fn read(content: Content) -> Vec<u8> {
    match content {
        Content::Inline(bytes) => bytes,
        Content::Reader(mut reader) => {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        }
        Content::Stored(_) => unreachable!("sources store nothing"),
    }
}

/// Captures, and says how many entries were put into trees that are not aids.
pub(crate) fn capture_since(
    source: &mut dyn Source,
    parent: Option<&Captured>,
    ctx: &Context,
) -> Result<(Captured, usize), Failure> {
    let parent = parent.map(|parent| (parent, parent as &dyn Parent));
    let description = source.begin(parent.map(|(_, parent)| parent), ctx)?;
    let mut captured = Captured { description: description.clone(), ..Captured::default() };
    let mut puts = 0;
    for info in description.trees.iter().chain(&description.aids) {
        let delta = source.changes(info, parent.map(|(_, parent)| parent), ctx)?;
        let (mut tree, changes) = match delta {
            Delta::Everything(changes) => (Tree::new(), changes),
            Delta::SinceParent(changes) => (parent.unwrap().0.trees[&info.name].clone(), changes),
        };
        let mut last: Option<Key> = None;
        for change in changes {
            let change = change?;
            assert!(last.as_ref().is_none_or(|last| *last < change.key), "not in order");
            last = Some(change.key.clone());
            match change.value {
                None => assert!(tree.remove(&change.key).is_some(), "deletes what is not there"),
                Some(value) => {
                    puts += usize::from(description.trees.contains(info));
                    tree.insert(change.key, (value.head, read(value.content)));
                }
            }
        }
        captured.trees.insert(info.name.clone(), tree);
    }
    source.end()?;
    Ok((captured, puts))
}

/// A context whose clock runs far ahead, so that files just written count as old.
pub(crate) fn later() -> Context {
    recorded().0
}

/// The same, with the events.
pub(crate) fn recorded() -> (Context, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let clock = Arc::new(ManualClock::new(Timestamp::new(1 << 40, 0)));
    let reporter = Arc::<Recorder>::clone(&recorder);
    (Context { clock, reporter, ..Context::new() }, recorder)
}

/// Everything of a restore but the commit.
pub(crate) fn apply(
    target: &mut dyn Target,
    wanted: &Captured,
    ctx: &Context,
) -> Result<Applied, Failure> {
    target.begin(ctx)?;
    let (mut now, _) = capture_since(target.as_source(), None, ctx)?;
    if target.fit(&wanted.description, ctx)? == Fit::Rebuilt {
        now.trees.clear();
    }
    target.apply(&Difference { now: &now, wanted }, ctx)
}

/// The naive difference of two captures as a plan.
pub(crate) struct Difference<'a> {
    pub(crate) now: &'a Captured,
    pub(crate) wanted: &'a Captured,
}

impl Plan for Difference<'_> {
    fn wanted(&self) -> &Description {
        &self.wanted.description
    }

    fn trees(&self) -> &[TreeInfo] {
        &self.wanted.description.trees
    }

    /// Contents of more than a few bytes are as the repository would give them.
    fn changes<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure> {
        Ok(Box::new(self.naive(tree).into_iter().map(|(key, value)| {
            let Some((head, bytes)) = value else { return Ok(Change::delete(key)) };
            Ok(Change::put(key, head, content_of(bytes)))
        })))
    }

    fn opened<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure> {
        Ok(Box::new(self.naive(tree).into_iter().map(|(key, value)| {
            let Some((head, bytes)) = value else { return Ok(Change::delete(key)) };
            Ok(Change::put(key, head, Content::Reader(Box::new(io::Cursor::new(bytes)))))
        })))
    }

    /// Gives the bytes in short runs, last first, so that nobody relies on another order.
    fn fetch(
        &self,
        sought: &[Sought<'_>],
        _ctx: &Context,
        each: &EachRun<'_>,
    ) -> Result<(), Failure> {
        let contents = self.wanted.trees.values().flat_map(|tree| tree.values());
        let by_root: HashMap<_, _> =
            contents.map(|(_, bytes)| (stream_of(bytes).root, bytes)).collect();
        for (index, Sought { stream, .. }) in sought.iter().enumerate().rev() {
            let runs: Vec<_> = by_root[&stream.root].chunks(INLINE - 1).enumerate().collect();
            for (n, run) in runs.into_iter().rev() {
                let place = Place { stream: index, offset: (n * (INLINE - 1)) as u64 };
                each(run, &[place])?;
            }
        }
        Ok(())
    }

    fn present(&self, _tree: &TreeInfo, _key: &[u8]) -> Result<Option<Value>, Failure> {
        Ok(None)
    }

    fn is_left(&self, _key: &[u8], _content: &Content) -> Result<bool, Failure> {
        Ok(false)
    }
}

/// Contents shorter than this stand in the tree.
const INLINE: usize = 16;

fn content_of(bytes: Vec<u8>) -> Content {
    if bytes.len() < INLINE { Content::Inline(bytes) } else { Content::Stored(stream_of(&bytes)) }
}

fn stream_of(bytes: &[u8]) -> Stream {
    let root = ChunkId::new(*blake3::hash(bytes).as_bytes());
    Stream { length: bytes.len() as u64, depth: 0, root }
}

impl Difference<'_> {
    #[expect(clippy::type_complexity, reason = "what a tree holds, or nothing, by key")]
    fn naive(&self, tree: &TreeInfo) -> BTreeMap<Key, Option<(Vec<u8>, Vec<u8>)>> {
        let empty = Tree::new();
        let now = self.now.trees.get(&tree.name).unwrap_or(&empty);
        let wanted = &self.wanted.trees[&tree.name];
        let gone = now.keys().filter(|key| !wanted.contains_key(*key));
        let put = wanted.iter().filter(|(key, value)| now.get(*key) != Some(value));
        let gone = gone.map(|key| (key.clone(), None));
        gone.chain(put.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
    }
}
