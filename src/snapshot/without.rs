//! A snapshot in the place of another one, without some of what that held: because it is lost, or
//! because nobody shall have it any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::capture::SIZES;
use super::manifest::{Manifest, SourceRecord};
use super::opened::{self, Snapshot, TreeRecord};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::repo::{ChunkWriter, Compression, Repo};
use crate::source::{Entry, EntryKind, Kind, OWNERS, POSITION};
use crate::tree::{self, Change, Key, Tree, Value};

/// Entries that stay, in the order of their keys.
pub(super) type Staying<'a> = Box<dyn Iterator<Item = Result<(Key, Value), Failure>> + 'a>;

/// Where what stays is written: into the repository, or nowhere.
pub(super) struct Writing<'a> {
    pub(super) repo: &'a Arc<Repo>,
    pub(super) writer: &'a dyn ChunkWriter,
}

impl Writing<'_> {
    /// The tree of what stays. No content is read: it stays where it is.
    pub(super) fn tree(&self, kind: Kind, entries: Staying<'_>) -> Result<Tree, Failure> {
        let shape = opened::shape(self.repo, kind)?;
        let changes =
            entries.map(|entry| entry.map(|(key, value)| Change { key, value: Some(value) }));
        Ok(tree::build(self.writer, &shape, Box::new(changes))?)
    }

    /// A source whose trees are these now. Of what only helps the next capture, what may name an
    /// entry that is gone does not stay.
    pub(super) fn source(
        &self,
        source: &SourceRecord,
        header: &[u8],
        trees: &[TreeRecord],
        mut aids: Vec<TreeRecord>,
        mut notes: BTreeMap<String, Vec<u8>>,
    ) -> Result<SourceRecord, Failure> {
        aids.retain(|aid| aid.info.name == OWNERS);
        notes.retain(|name, _| ![POSITION, SIZES].contains(&name.as_str()));
        let shape = opened::shape(self.repo, Kind::Database)?;
        let store = |changes| tree::build(self.writer, &shape, changes);
        Ok(SourceRecord {
            catalogue: store(opened::catalogue(header, trees)?)?,
            help: store(opened::help(&aids, &notes)?)?,
            entries: trees.iter().map(|record| record.tree.entries).sum(),
            ..source.clone()
        })
    }
}

/// Commits what `work` makes of a snapshot in its place, and forgets it. Between the two both are
/// there: nothing is lost if this stops in the middle.
pub(super) fn replace(
    snapshot: &Snapshot,
    ctx: &Context,
    work: impl FnOnce(&Writing<'_>) -> Result<Manifest, Failure>,
) -> Result<SnapshotId, Failure> {
    let repo = &snapshot.repo;
    let new = repo.write(Compression::Auto, ctx, |session| {
        session.rely_on(snapshot.id)?;
        let manifest = work(&Writing { repo, writer: session })?;
        session.flush()?;
        let manifest = Manifest { written: session.written(), ..manifest };
        Ok(session.commit(&manifest.encode()?)?)
    })?;
    repo.forget(snapshot.id)?;
    Ok(new)
}

/// Makes a directory again of files of which some are gone: folders that are gone and still have
/// something in them are made, and of further names of a file whose first name is gone the first
/// takes its place.
pub(super) struct Fitting {
    /// The folders that the last entry is in, outermost first.
    folders: Vec<Key>,
    /// By the first name of a file that is gone, the name that took its place.
    heirs: HashMap<Key, Key>,
    kind: Kind,
}

impl Fitting {
    pub(super) fn new(kind: Kind) -> Self {
        Self { folders: Vec::new(), heirs: HashMap::new(), kind }
    }

    /// What stands for the next entry that stays: the folders that it lacks, and itself.
    pub(super) fn fit(
        &mut self,
        key: Key,
        mut value: Value,
        is_gone: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<(Key, Value)>, Failure> {
        if self.kind == Kind::Database {
            return Ok(vec![(key, value)]);
        }
        let mut entry = Entry::decode(&value.head)?;
        if let Some(first) = entry.link.take() {
            if is_gone(&first) {
                let heir = self.heirs.entry(first).or_insert_with(|| key.clone());
                entry.link = (*heir != key).then(|| heir.clone());
                value.head = entry.encode();
            } else {
                entry.link = Some(first);
            }
        }
        let mut fitted = Vec::new();
        while self.folders.last().is_some_and(|folder| !is_below(&key, folder)) {
            self.folders.pop();
        }
        for folder in folders_of(&key) {
            if is_gone(&folder) && !self.folders.contains(&folder) {
                let Entry { uid, gid, mtime, .. } = entry;
                let made = Entry::new(EntryKind::Directory, 0o700, uid, gid, mtime);
                let content = tree::Content::empty();
                fitted.push((folder.clone(), Value { head: made.encode(), content }));
                self.folders.push(folder);
            }
        }
        if entry.is_directory() {
            self.folders.push(key.clone());
        }
        fitted.push((key, value));
        Ok(fitted)
    }
}

fn is_below(key: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || key.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&0))
}

/// The keys of the folders that an entry is in, outermost first.
fn folders_of(key: &[u8]) -> Vec<Key> {
    let root = (!key.is_empty()).then(Key::new);
    let ends = key.iter().enumerate().filter(|(_, byte)| **byte == 0);
    root.into_iter().chain(ends.map(|(end, _)| key[..end].to_vec())).collect()
}
