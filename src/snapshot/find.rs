//! Searching many snapshots at the price of what differs between them.

use std::collections::{BTreeMap, HashMap};

use super::opened::{Snapshot, TreeRecord};
use super::scope::Scope;
use crate::context::Context;
use crate::hint::Failure;
use crate::source::{Kind, TreeInfo};
use crate::tree::{self, Key, Tree, Value};

/// An entry that is looked at, or was found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Which part of the application.
    pub kind: Kind,
    /// Which source.
    pub source: &'a str,
    /// Which tree.
    pub tree: &'a TreeInfo,
    /// Which entry.
    pub key: &'a [u8],
    /// The head of its value: the metadata of a file.
    pub head: &'a [u8],
    /// How many bytes its content has.
    pub length: u64,
}

/// Whether an entry is what is looked for.
pub type Wanted<'a> = dyn Fn(&Found<'_>) -> Result<bool, Failure> + 'a;

/// Searches one snapshot after the other. What was found in a tree is kept, so that in the next
/// snapshot only what differs is looked at; the order of the snapshots is free, but neighbours in
/// time differ least.
pub struct Finder<'a> {
    wanted: &'a Wanted<'a>,
    /// The last tree of each kind that was searched.
    known: HashMap<Line, Known>,
    /// Bytes that may still be kept.
    left: usize,
}

/// Trees that follow each other in time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Line {
    application: String,
    host: String,
    kind: Kind,
    source: String,
    tree: String,
    prefix: Key,
}

/// A tree with all that was found in it.
struct Known {
    tree: Tree,
    found: BTreeMap<Key, Match>,
}

struct Match {
    head: Vec<u8>,
    length: u64,
}

/// What an entry costs besides its bytes.
const OVERHEAD: usize = 96;

impl<'a> Finder<'a> {
    /// Bytes that are usually kept of what was found.
    pub const BUDGET: usize = 64 << 20;

    /// Looks for what is `wanted` and keeps about `budget` bytes of it. Where more is found, trees
    /// are searched as a whole each time.
    pub fn new(wanted: &'a Wanted<'a>, budget: usize) -> Self {
        Self { wanted, known: HashMap::new(), left: budget }
    }

    /// Calls `each` for what is found in a part of a snapshot, in the order of the keys.
    pub fn search(
        &mut self,
        snapshot: &Snapshot,
        scope: &Scope,
        ctx: &Context,
        each: &mut dyn FnMut(&Found<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let manifest = &snapshot.manifest;
        for source in manifest.sources.iter().filter(|s| scope.has_source(s.kind, &s.name)) {
            for record in snapshot.trees(source)? {
                if !scope.has_tree(source.kind, &source.name, &record.info.name) {
                    continue;
                }
                let line = Line {
                    application: manifest.application.clone(),
                    host: manifest.host.clone(),
                    kind: source.kind,
                    source: source.name.clone(),
                    tree: record.info.name.clone(),
                    prefix: scope.prefix().to_vec(),
                };
                let search = Search { snapshot, scope, ctx, line: &line, record: &record };
                let known = match self.known.remove(&line) {
                    Some(known) => self.update(&search, known)?,
                    None => None,
                };
                let known = match known {
                    Some(known) => {
                        for (key, Match { head, length }) in &known.found {
                            each(&search.found(key, head, *length))?;
                        }
                        Some(known)
                    }
                    None => self.walk(&search, each)?,
                };
                if let Some(known) = known {
                    self.known.insert(line, known);
                }
            }
        }
        Ok(())
    }

    /// What is known of an earlier tree, made true of this one; `None` where it is too much.
    fn update(&mut self, search: &Search<'_>, known: Known) -> Result<Option<Known>, Failure> {
        let Known { tree, mut found } = known;
        let (now, repo) = (search.record.tree, &*search.snapshot.repo);
        let differences =
            tree::differences_below(repo, Some(tree), Some(now), search.scope.prefix());
        for difference in differences {
            search.ctx.check_cancelled()?;
            let difference = difference?;
            if let Some(Match { head, .. }) = found.remove(&difference.key) {
                self.left += cost(&difference.key, &head);
            }
            let Some(value) = difference.new else { continue };
            let found_now = search.matching(self.wanted, &difference.key, &value)?;
            if let Some(length) = found_now
                && !self.keep(&mut found, difference.key, value.head, length)
            {
                return Ok(None);
            }
        }
        Ok(Some(Known { tree: now, found }))
    }

    /// Looks at all entries; what was found, unless it is too much to be kept.
    fn walk(
        &mut self,
        search: &Search<'_>,
        each: &mut dyn FnMut(&Found<'_>) -> Result<(), Failure>,
    ) -> Result<Option<Known>, Failure> {
        let mut found = Some(BTreeMap::new());
        let (tree, repo) = (search.record.tree, &*search.snapshot.repo);
        for entry in tree::entries(repo, tree, &[], search.scope.prefix()) {
            search.ctx.check_cancelled()?;
            let (key, value) = entry?;
            if let Some(length) = search.matching(self.wanted, &key, &value)? {
                each(&search.found(&key, &value.head, length))?;
                found = found.and_then(|mut found| {
                    self.keep(&mut found, key, value.head, length).then_some(found)
                });
            }
        }
        Ok(found.map(|found| Known { tree, found }))
    }

    /// Keeps what was found, or, where there is no room for it, nothing more of this tree.
    fn keep(
        &mut self,
        found: &mut BTreeMap<Key, Match>,
        key: Key,
        head: Vec<u8>,
        length: u64,
    ) -> bool {
        let cost = cost(&key, &head);
        if cost > self.left {
            self.left += found.iter().map(|(key, kept)| self::cost(key, &kept.head)).sum::<usize>();
            return false;
        }
        self.left -= cost;
        found.insert(key, Match { head, length });
        true
    }
}

fn cost(key: &[u8], head: &[u8]) -> usize {
    key.len() + head.len() + OVERHEAD
}

/// One tree in one snapshot.
struct Search<'s> {
    snapshot: &'s Snapshot,
    scope: &'s Scope,
    ctx: &'s Context,
    line: &'s Line,
    record: &'s TreeRecord,
}

impl Search<'_> {
    fn found<'f>(&'f self, key: &'f [u8], head: &'f [u8], length: u64) -> Found<'f> {
        let Line { kind, source, .. } = self.line;
        Found { kind: *kind, source, tree: &self.record.info, key, head, length }
    }

    /// The length of the content of an entry that is in the scope and wanted.
    fn matching(
        &self,
        wanted: &Wanted<'_>,
        key: &[u8],
        value: &Value,
    ) -> Result<Option<u64>, Failure> {
        if !self.scope.has_key(key) {
            return Ok(None);
        }
        let length = value.content.length();
        Ok(wanted(&self.found(key, &value.head, length))?.then_some(length))
    }
}

impl std::fmt::Debug for Finder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finder").field("left", &self.left).finish_non_exhaustive()
    }
}
