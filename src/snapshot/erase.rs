//! Removing paths from history: from snapshots that hold them, others without them are made.

use std::collections::HashMap;

use super::manifest::{Manifest, SourceRecord};
use super::opened::{Snapshot, TreeRecord};
use super::path::Paths;
use super::repair::Doing;
use super::scope::Scope;
use super::without::{Fitting, Staying, Writing, replace};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::id::{ChunkId, SnapshotId};
use crate::source::{CHANGES, COMMITS, Entry, Kind, PathFilter};
use crate::tree::{self, Tree};

/// What shall be in no snapshot any more.
#[derive(Debug, Clone, Default)]
pub struct Unwanted {
    /// Files and folders that this does not admit, of any storage and of the configuration.
    pub patterns: PathFilter,
    /// Paths as in `coeval ls`: records, tables, files, folders, sources.
    pub paths: Vec<String>,
}

/// A snapshot that held some of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    /// Which one.
    pub id: SnapshotId,
    /// The one that takes its place; none in a dry run.
    pub new: Option<SnapshotId>,
    /// How many entries it has less.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
}

/// Takes paths out of one snapshot after the other.
#[derive(Debug)]
pub struct Eraser<'a> {
    unwanted: &'a Unwanted,
    doing: Doing,
    /// The last tree of each name that had nothing of it: neighbours in time are often the same.
    clean: HashMap<(Kind, String, String), ChunkId>,
}

impl<'a> Eraser<'a> {
    /// One that does it, or says what it would do.
    pub fn new(unwanted: &'a Unwanted, doing: Doing) -> Self {
        Self { unwanted, doing, clean: HashMap::new() }
    }

    /// Puts a snapshot without what is unwanted in the place of one that holds some of it; none
    /// where it holds nothing. The old one is forgotten, and stays readable until the next
    /// collection. `each` hears the path of everything that goes.
    pub fn erase(
        &mut self,
        snapshot: &Snapshot,
        each: &mut dyn FnMut(&str) -> Result<(), Failure>,
        ctx: &Context,
    ) -> Result<Option<Erased>, Failure> {
        let mut scopes = Vec::new();
        for path in &self.unwanted.paths {
            match Scope::of(snapshot, path) {
                Ok(scope) => scopes.push(scope),
                // This snapshot never had it.
                Err(failure) if failure.kind() == ErrorKind::Usage => {}
                Err(failure) => return Err(failure),
            }
        }
        let gone = Gone { patterns: &self.unwanted.patterns, scopes };
        let scratch = snapshot.repo.scratch()?;
        let dry = Writing { repo: &snapshot.repo, writer: &scratch };
        let (mut entries, mut bytes) = (0, 0);
        let mut told = |path: &str, length: u64| {
            entries += 1;
            bytes += length;
            each(path)
        };
        if self.rest(snapshot, &gone, &dry, &mut told, ctx)?.is_none() {
            return Ok(None);
        }
        let new = match self.doing {
            Doing::DryRun => None,
            Doing::Apply => Some(replace(snapshot, ctx, |writing| {
                let rest = self.rest(snapshot, &gone, writing, &mut |_, _| Ok(()), ctx)?;
                Ok(rest.unwrap_or_else(|| snapshot.manifest.clone()))
            })?),
        };
        Ok(Some(Erased { id: snapshot.id, new, entries, bytes }))
    }

    /// The manifest of what stays; none if that is all.
    fn rest(
        &mut self,
        snapshot: &Snapshot,
        gone: &Gone<'_>,
        writing: &Writing<'_>,
        told: &mut dyn FnMut(&str, u64) -> Result<(), Failure>,
        ctx: &Context,
    ) -> Result<Option<Manifest>, Failure> {
        let mut is_changed = false;
        let mut sources = Vec::new();
        for source in &snapshot.manifest.sources {
            if !gone.may_be_in(source) {
                sources.push(source.clone());
                continue;
            }
            let mut trees = snapshot.trees(source)?;
            let aids = snapshot.aids(source)?;
            // They hold records of their own, whoever removed those later.
            let log = |aid: &TreeRecord| [COMMITS, CHANGES].contains(&aid.info.name.as_str());
            let mut is_same = !aids.iter().any(log);
            let mut removed = 0;
            for record in &mut trees {
                ctx.check_cancelled()?;
                let mut told = |path: &str, length| {
                    removed += length;
                    told(path, length)
                };
                let tree = self.tree(source, record, gone, writing, &mut told)?;
                is_same &= tree == record.tree;
                record.tree = tree;
            }
            if is_same {
                sources.push(source.clone());
                continue;
            }
            is_changed = true;
            if gone.has_all_of(source) {
                continue;
            }
            let (header, notes) = (snapshot.header(source)?, snapshot.notes(source)?);
            let record = writing.source(source, &header, &trees, aids, notes)?;
            sources.push(SourceRecord { bytes: source.bytes.saturating_sub(removed), ..record });
        }
        let old = &snapshot.manifest;
        let new = old.rewritten(snapshot.id, old.tags.clone(), old.later.protection);
        Ok(is_changed.then_some(Manifest { sources, ..new }))
    }

    fn tree(
        &mut self,
        source: &SourceRecord,
        record: &TreeRecord,
        gone: &Gone<'_>,
        writing: &Writing<'_>,
        told: &mut dyn FnMut(&str, u64) -> Result<(), Failure>,
    ) -> Result<Tree, Failure> {
        let name = (source.kind, source.name.clone(), record.info.name.clone());
        if self.clean.get(&name) == Some(&record.tree.root) {
            return Ok(record.tree);
        }
        let paths = Paths::new(source.kind, &source.name, &record.info)?;
        let mut fitting = Fitting::new(source.kind);
        let mut count = 0;
        let count_ref = &mut count;
        let staying = tree::entries(&**writing.repo, record.tree, &[], &[]).map(move |entry| {
            let (key, value) = entry?;
            let is_directory =
                source.kind != Kind::Database && Entry::decode(&value.head)?.is_directory();
            if gone.has(source, &record.info.name, &key, is_directory) {
                *count_ref += 1;
                told(&paths.of(&key)?, value.content.length())?;
                return Ok(Vec::new());
            }
            let is_gone = |key: &[u8]| gone.has(source, &record.info.name, key, false);
            fitting.fit(key, value, is_gone)
        });
        let flat = staying.flat_map(|fitted| match fitted {
            Ok(fitted) => fitted.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(failure) => vec![Err(failure)],
        });
        let entries: Staying<'_> = Box::new(flat);
        let tree = writing.tree(source.kind, entries)?;
        if count == 0 {
            self.clean.insert(name, record.tree.root);
        }
        Ok(tree)
    }
}

/// What goes from one snapshot.
struct Gone<'a> {
    patterns: &'a PathFilter,
    scopes: Vec<Scope>,
}

impl Gone<'_> {
    fn may_be_in(&self, source: &SourceRecord) -> bool {
        let is_files = source.kind != Kind::Database;
        is_files && !self.patterns.is_empty()
            || self.scopes.iter().any(|scope| scope.has_source(source.kind, &source.name))
    }

    /// Whether the source as a whole was named.
    fn has_all_of(&self, source: &SourceRecord) -> bool {
        let is_whole = |scope: &Scope| scope.tree.is_none() && scope.keys.is_none();
        let mut scopes = self.scopes.iter().filter(|scope| is_whole(scope));
        scopes.any(|scope| scope.has_source(source.kind, &source.name))
    }

    #[expect(clippy::fn_params_excessive_bools, reason = "there is one, and its callers name it")]
    fn has(&self, source: &SourceRecord, tree: &str, key: &[u8], is_directory: bool) -> bool {
        let (kind, name) = (source.kind, &*source.name);
        // A directory without a root is none.
        let by_pattern = kind != Kind::Database && !key.is_empty();
        by_pattern && !self.patterns.admits(key, is_directory)
            || self
                .scopes
                .iter()
                .any(|scope| scope.has_tree(kind, name, tree) && scope.has_key(key))
    }
}
