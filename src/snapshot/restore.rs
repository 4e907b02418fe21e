//! Bringing a snapshot back: the difference between the target's present state and the snapshot
//! becomes changes on the target, after a snapshot of that present state was taken.
//!
//! Databases are changed in one transaction and compared with the snapshot by root hash before it
//! commits; directories are staged, renamed into place, and compared afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::capture::{self, CaptureOptions, Captured, Mode};
use super::manifest::SourceRecord;
use super::opened::{Snapshot, TreeRecord};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint};
use crate::id::SnapshotId;
use crate::repo::ChunkReader;
use crate::source::{
    Applied, Description, Entry, Extras, Fit, Kind, Plan, Source, Target, TreeInfo,
};
use crate::tree::{self, Change, Changes, Difference, Tree};

/// Where one source of a snapshot goes.
pub struct Destination<'a> {
    /// Which source of the snapshot.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What it is restored into.
    pub target: &'a mut dyn Target,
    /// Which of its entries.
    pub selection: Selection,
    /// What becomes of entries that the snapshot does not have.
    pub extras: Extras,
}

/// Which entries of a source to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All.
    Everything,
    /// One tree: a table.
    Tree(String),
    /// The entries of one tree with this key, or below it.
    Entries {
        /// The tree.
        tree: String,
        /// Which keys: given the key of an entry, whether it belongs to the selection.
        keys: KeyRange,
    },
}

/// A set of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    /// Just this one: a record.
    Exactly(Vec<u8>),
    /// This one and all that continue it after a NUL byte: a file, or a folder with all in it.
    Below(Vec<u8>),
}

/// How many entries of a tree a restore changes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TreePlan {
    /// Which part of the application.
    pub kind: Kind,
    /// Which source.
    pub source: String,
    /// Which tree; "" for files.
    pub tree: String,
    /// The changes.
    #[serde(flatten)]
    pub changes: Applied,
}

/// What a restore did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Restored {
    /// The snapshot that was taken before; none when the targets were empty.
    pub before: Option<SnapshotId>,
    /// What was applied.
    pub applied: Applied,
    /// The trees that were read again and have the root they must have.
    pub verified: Vec<VerifiedTree>,
}

/// A tree of a target that was read again after the restore.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct VerifiedTree {
    /// Which part of the application.
    pub kind: Kind,
    /// Which source.
    pub source: String,
    /// Which tree.
    pub tree: String,
    /// Entries in it.
    pub entries: u64,
    /// Its root hash: the snapshot's.
    pub root: String,
}

/// What a restore would change. Nothing is stored, and the targets stay as they are.
pub fn plan(
    snapshot: &Snapshot,
    destinations: &mut [Destination<'_>],
    ctx: &Context,
) -> Result<Vec<TreePlan>, Failure> {
    let mut plans = Vec::new();
    for destination in destinations {
        destination.target.begin(ctx)?;
        let planned = plan_one(snapshot, destination, ctx);
        destination.target.rollback()?;
        plans.extend(planned?);
    }
    Ok(plans)
}

fn plan_one(
    snapshot: &Snapshot,
    destination: &mut Destination<'_>,
    ctx: &Context,
) -> Result<Vec<TreePlan>, Failure> {
    let repo = &snapshot.repo;
    let wanted = Wanted::of(snapshot, destination)?;
    let scratch = repo.scratch()?;
    let source = destination.target.as_source();
    let present = source.begin(ctx)?;
    let trees = capture::capture_trees(repo, &scratch, source, &present, None, ctx)?.trees;
    source.end()?;
    let before = match destination.target.fit(&wanted.description, ctx)? {
        Fit::Kept => by_name(trees),
        Fit::Rebuilt => BTreeMap::new(),
    };
    wanted
        .trees
        .iter()
        .map(|record| {
            let old = before.get(&record.info.name).copied();
            let mut changes = Applied::default();
            for difference in wanted.differences(&scratch, record, old) {
                changes.count(&difference?);
            }
            let (kind, source) = (destination.kind, destination.name.clone());
            Ok(TreePlan { kind, source, tree: record.info.name.clone(), changes })
        })
        .collect()
}

/// Restores. On success every target is what the snapshot says, proven by root hash; on failure
/// databases are as they were, and files can be brought back with the snapshot taken before.
pub fn restore(
    snapshot: &Snapshot,
    destinations: &mut [Destination<'_>],
    options: &CaptureOptions,
    ctx: &Context,
) -> Result<Restored, Failure> {
    let mut begun = 0;
    let result = (|| {
        for destination in destinations.iter_mut() {
            destination.target.begin(ctx)?;
            begun += 1;
        }
        apply_all(snapshot, destinations, options, ctx)
    })();
    if result.is_err() {
        for destination in destinations.iter_mut().take(begun) {
            destination.target.rollback()?;
        }
    }
    result
}

fn apply_all(
    snapshot: &Snapshot,
    destinations: &mut [Destination<'_>],
    options: &CaptureOptions,
    ctx: &Context,
) -> Result<Restored, Failure> {
    let before = take_before(snapshot, destinations, options, ctx)?;
    let mut restored =
        Restored { before: before.id, applied: Applied::default(), verified: vec![] };
    let mut expected = Vec::new();
    for destination in destinations.iter_mut() {
        let (applied, roots) = apply_one(snapshot, destination, &before, ctx)?;
        restored.applied.add(applied);
        expected.push(roots);
    }
    let is_database = |destination: &Destination<'_>| destination.kind == Kind::Database;
    // Databases are compared while they can still be rolled back; files once they are in place.
    // Rows may name files, so files become final first.
    for (destination, roots) in destinations.iter_mut().zip(&expected) {
        if is_database(destination) {
            restored.verified.extend(verify(snapshot, destination, roots, ctx)?);
        }
    }
    for (destination, roots) in destinations.iter_mut().zip(&expected) {
        if !is_database(destination) {
            destination.target.commit()?;
            restored.verified.extend(verify(snapshot, destination, roots, ctx)?);
        }
    }
    for destination in destinations.iter_mut().filter(|destination| is_database(destination)) {
        destination.target.commit()?;
    }
    Ok(restored)
}

/// The present state of the targets, committed as a snapshot unless there is nothing in them.
struct Before {
    id: Option<SnapshotId>,
    trees: BTreeMap<(Kind, String), BTreeMap<String, Tree>>,
}

fn take_before(
    snapshot: &Snapshot,
    destinations: &mut [Destination<'_>],
    options: &CaptureOptions,
    ctx: &Context,
) -> Result<Before, Failure> {
    ctx.phase("taking a snapshot of what is there", None);
    let mut sources: Vec<&mut dyn Source> =
        destinations.iter_mut().map(|destination| destination.target.as_source()).collect();
    let mode = Mode::CommitUnlessEmpty;
    let Captured { id, manifest } =
        capture::capture(&snapshot.repo, &mut sources, options, mode, ctx)?;
    let Some(id) = id else { return Ok(Before { id: None, trees: BTreeMap::new() }) };
    if let Some(skipped) = manifest.skipped.first() {
        return Err(RestoreError::CannotSave {
            item: skipped.item.clone(),
            reason: skipped.reason.clone(),
        }
        .into());
    }
    let before = Snapshot { repo: Arc::clone(&snapshot.repo), id, manifest };
    let mut trees = BTreeMap::new();
    for source in &before.manifest.sources {
        trees.insert((source.kind, source.name.clone()), by_name(before.trees(source)?));
    }
    Ok(Before { id: Some(id), trees })
}

/// Stages the changes of one source; gives the roots that its trees must have afterwards.
fn apply_one(
    snapshot: &Snapshot,
    destination: &mut Destination<'_>,
    before: &Before,
    ctx: &Context,
) -> Result<(Applied, BTreeMap<String, Tree>), Failure> {
    let wanted = Wanted::of(snapshot, destination)?;
    let fit = destination.target.fit(&wanted.description, ctx)?;
    let source = (destination.kind, destination.name.clone());
    let present = match fit {
        Fit::Kept => before.trees.get(&source).cloned().unwrap_or_default(),
        Fit::Rebuilt if destination.selection == Selection::Everything => BTreeMap::new(),
        Fit::Rebuilt => return Err(RestoreError::StructureDiffers.into()),
    };
    let expected = wanted.expected(snapshot, &present)?;
    let trees = wanted.trees.iter().map(|record| record.info.clone()).collect();
    let changes = TreeChanges { snapshot, wanted: &wanted, trees, present: &present };
    let what = format!("restoring {}/{}", destination.kind.as_str(), destination.name);
    ctx.phase(what, None);
    Ok((destination.target.apply(&changes, ctx)?, expected))
}

/// Reads a target again and compares its roots.
fn verify(
    snapshot: &Snapshot,
    destination: &mut Destination<'_>,
    expected: &BTreeMap<String, Tree>,
    ctx: &Context,
) -> Result<Vec<VerifiedTree>, Failure> {
    let (kind, name) = (destination.kind, destination.name.clone());
    ctx.phase(format!("verifying {}/{name}", kind.as_str()), None);
    let scratch = snapshot.repo.scratch()?;
    let source = destination.target.as_source();
    let mut description = source.begin(ctx)?;
    description.trees.retain(|info| expected.contains_key(&info.name));
    description.aids.clear();
    let trees =
        capture::capture_trees(&snapshot.repo, &scratch, source, &description, None, ctx)?.trees;
    source.end()?;
    let found = by_name(trees);
    expected
        .iter()
        .map(|(tree, expected)| {
            if found.get(tree) == Some(expected) {
                return Ok(VerifiedTree {
                    kind,
                    source: name.clone(),
                    tree: tree.clone(),
                    entries: expected.entries,
                    root: expected.root.to_string(),
                });
            }
            let path = format!("{}/{name}/{tree}", kind.as_str());
            let difference = tree::differences(&scratch, found.get(tree).copied(), Some(*expected))
                .next()
                .transpose()?
                .map(|difference| crate::id::hex(&difference.key));
            Err(RestoreError::Mismatch { path, key: difference }.into())
        })
        .collect()
}

fn by_name(trees: Vec<TreeRecord>) -> BTreeMap<String, Tree> {
    trees.into_iter().map(|record| (record.info.name, record.tree)).collect()
}

/// What of a source is wanted.
struct Wanted {
    kind: Kind,
    description: Description,
    trees: Vec<TreeRecord>,
    keys: Option<KeyRange>,
    extras: Extras,
}

impl Wanted {
    fn of(snapshot: &Snapshot, destination: &Destination<'_>) -> Result<Self, Failure> {
        let source = find_source(snapshot, destination.kind, &destination.name)?;
        let description = snapshot.description(source)?;
        let all = snapshot.trees(source)?;
        let (trees, keys) = match &destination.selection {
            Selection::Everything => (all, None),
            Selection::Tree(name) => (pick(all, name), None),
            Selection::Entries { tree, keys } => (pick(all, tree), Some(keys.clone())),
        };
        let Destination { kind, extras, .. } = *destination;
        Ok(Self { kind, description, trees, keys, extras })
    }

    /// The differences of one tree that are wanted.
    fn differences<'a>(
        &'a self,
        reader: &'a dyn ChunkReader,
        record: &TreeRecord,
        old: Option<Tree>,
    ) -> impl Iterator<Item = Result<Difference, Failure>> + 'a {
        // With extras kept, what stands below a folder that becomes a file must go all the same.
        let mut replaced: Option<Vec<u8>> = None;
        let mut admits = move |difference: &Difference| {
            if !self.keys.as_ref().is_none_or(|keys| keys.contains(&difference.key)) {
                return Ok(false);
            }
            let Some(value) = &difference.new else {
                let doomed =
                    replaced.as_ref().is_some_and(|above| is_below(&difference.key, above));
                return Ok(doomed || self.extras == Extras::Delete);
            };
            if self.kind != Kind::Database && !Entry::decode(&value.head)?.is_directory() {
                replaced = Some(difference.key.clone());
            }
            Ok(true)
        };
        tree::differences(reader, old, Some(record.tree)).filter_map(move |difference| {
            let difference = match difference {
                Ok(difference) => difference,
                Err(error) => return Some(Err(error.into())),
            };
            match admits(&difference) {
                Ok(true) => Some(Ok(difference)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// The trees after the restore: the wanted ones, or, where not everything is restored, the
    /// present ones with the planned changes.
    fn expected(
        &self,
        snapshot: &Snapshot,
        present: &BTreeMap<String, Tree>,
    ) -> Result<BTreeMap<String, Tree>, Failure> {
        let whole = self.keys.is_none() && self.extras == Extras::Delete;
        let repo = &snapshot.repo;
        let mut expected = BTreeMap::new();
        for record in &self.trees {
            let old = present.get(&record.info.name).copied();
            let tree = if whole || old.is_none() && self.keys.is_none() {
                record.tree
            } else {
                let scratch = repo.scratch()?;
                let changes = self.changes(snapshot, record, old);
                let shape = super::opened::shape(repo, self.kind)?;
                tree::edit(&scratch, &scratch, &shape, old, changes)?
            };
            expected.insert(record.info.name.clone(), tree);
        }
        Ok(expected)
    }

    /// The changes of one tree, with contents as the repository stores them.
    fn changes<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        record: &TreeRecord,
        old: Option<Tree>,
    ) -> Changes<'a> {
        Box::new(self.differences(&*snapshot.repo, record, old).map(|difference| {
            let Difference { key, new: value, .. } = difference?;
            Ok(Change { key, value })
        }))
    }
}

impl KeyRange {
    /// Whether a key is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Exactly(only) => key == only,
            Self::Below(top) => is_below(key, top) || key == top,
        }
    }
}

/// Whether a path's key lies in the folder with the key `above`.
fn is_below(key: &[u8], above: &[u8]) -> bool {
    above.is_empty() || key.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&0))
}

fn pick(all: Vec<TreeRecord>, name: &str) -> Vec<TreeRecord> {
    all.into_iter().filter(|record| record.info.name == name).collect()
}

/// A source of a snapshot by kind and name.
pub(super) fn find_source<'s>(
    snapshot: &'s Snapshot,
    kind: Kind,
    name: &str,
) -> Result<&'s SourceRecord, RestoreError> {
    snapshot.manifest.source(kind, name).ok_or_else(|| RestoreError::NoSource {
        kind,
        name: name.to_owned(),
        there: snapshot
            .manifest
            .sources
            .iter()
            .map(|source| format!("/{}/{}", source.kind.as_str(), source.name))
            .collect(),
    })
}

/// The plan that a target gets.
struct TreeChanges<'a> {
    snapshot: &'a Snapshot,
    wanted: &'a Wanted,
    trees: Vec<TreeInfo>,
    present: &'a BTreeMap<String, Tree>,
}

impl Plan for TreeChanges<'_> {
    fn wanted(&self) -> &Description {
        &self.wanted.description
    }

    fn trees(&self) -> &[TreeInfo] {
        &self.trees
    }

    fn changes<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure> {
        let Some(record) = self.wanted.trees.iter().find(|record| record.info.name == tree.name)
        else {
            return Ok(Box::new(std::iter::empty()));
        };
        let old = self.present.get(&tree.name).copied();
        let changes = self.wanted.changes(self.snapshot, record, old);
        let repo = &self.snapshot.repo;
        Ok(Box::new(changes.map(|change| {
            change.map(|mut change| {
                change.value = change.value.map(|value| value.opened(repo));
                change
            })
        })))
    }
}

impl Applied {
    fn count(&mut self, difference: &Difference) {
        match (&difference.old, &difference.new) {
            (None, _) => self.inserted += 1,
            (_, None) => self.deleted += 1,
            (Some(_), Some(_)) => self.updated += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }
}

impl std::fmt::Debug for Destination<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Destination")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .field("selection", &self.selection)
            .finish_non_exhaustive()
    }
}

/// Why a restore did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot has no such source.
    #[error("the snapshot has no /{}/{name}", kind.as_str())]
    NoSource {
        /// Which part.
        kind: Kind,
        /// Which source.
        name: String,
        /// What it has.
        there: Vec<String>,
    },
    /// Something in the target could not be read, so it could not be saved before the restore.
    #[error(
        "{item} in the target cannot be read, so it cannot be saved before the restore: {reason}"
    )]
    CannotSave {
        /// What.
        item: String,
        /// Why.
        reason: String,
    },
    /// Part of a database cannot be restored into tables of another structure.
    #[error("the structure of the target differs from the snapshot's")]
    StructureDiffers,
    /// The target, read again, is not what it must be.
    #[error("{path} does not have the snapshot's root hash after the restore")]
    Mismatch {
        /// Which tree.
        path: String,
        /// The first key that differs, in hexadecimal.
        key: Option<String>,
    },
}

impl Hint for RestoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSource { .. } => ErrorKind::Usage,
            Self::Mismatch { .. } => ErrorKind::Damage,
            Self::CannotSave { .. } | Self::StructureDiffers => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoSource { there, .. } => format!("it has {}", there.join(", ")),
            Self::CannotSave { .. } => "make it readable, or move it away".to_owned(),
            Self::StructureDiffers => "restore the whole database instead of a part".to_owned(),
            Self::Mismatch { key, .. } => format!(
                "databases were rolled back; bring files back with `coeval undo` (first difference at key {})",
                key.as_deref().unwrap_or("unknown")
            ),
        })
    }
}
