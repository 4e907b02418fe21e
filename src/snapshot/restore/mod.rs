//! Bringing a snapshot back: the difference between the target's present state and the snapshot
//! becomes changes on the target, after a snapshot of that present state was taken.
//!
//! Databases are changed in one transaction and compared with the snapshot by root hash before it
//! commits; directories are staged, renamed into place, and compared afterwards.

mod condition;
mod error;
mod links;
mod owners;
mod records;
mod rows;
mod rules;
mod wanted;

pub use condition::{Condition, ConditionError};
pub use error::RestoreError;
pub use records::{Follow, Kept, Pin, PinnedWith, RecordRules, Relatives, Stays};
pub use rules::Overwrite;
pub use wanted::KeyRange;

use std::collections::BTreeMap;
use std::sync::Arc;

use wanted::{Expected, TreeChanges, Wanted};

use super::capture::{self, CaptureOptions, Captured, Mode};
use super::opened::{self, Snapshot, TreeRecord};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::report::{Event, Fate, Silent};
use crate::source::{
    Applied, Extras, Fit, Kind, Owners, PathFilter, Shortfall, Source, Target, display_key,
};
use crate::tree::{self, Change, Difference, Tree, Value};

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
    /// What becomes of files and records that it has in another form.
    pub overwrite: Overwrite,
    /// Which records, of a database, and which rows stay as they are.
    pub records: RecordRules,
    /// Which paths, of files; others are as if neither side had them.
    pub paths: PathFilter,
    /// What the owners and groups of files were called, where they are to be those that are called
    /// so here; otherwise those with the same numbers.
    pub owners: Option<Owners>,
}

/// Which entries of a source to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All.
    Everything,
    /// Some trees: tables.
    Trees(Vec<String>),
    /// The entries of one tree with this key, or below it.
    Entries {
        /// The tree.
        tree: String,
        /// Which keys: given the key of an entry, whether it belongs to the selection.
        keys: KeyRange,
    },
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
    /// Bytes in the contents of what is new or another.
    pub bytes: u64,
}

/// What a restore did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Restored {
    /// The snapshot that was taken before; none when the targets were empty.
    pub before: Option<SnapshotId>,
    /// What was applied.
    pub applied: Applied,
    /// Bytes of contents of files that came from the repository; the others were there.
    pub bytes_fetched: u64,
    /// The trees that were read again and have the root they must have.
    pub verified: Vec<VerifiedTree>,
    /// What stayed as it was although the snapshot says otherwise.
    pub kept: Vec<Kept>,
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
    /// Its root hash: the snapshot's, if all of it was restored.
    pub root: String,
}

/// What a restore would do.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Planned {
    /// What would be changed.
    pub trees: Vec<TreePlan>,
    /// What would stay as it is although the snapshot says otherwise.
    pub kept: Vec<Kept>,
    /// Why a database would refuse it.
    pub conflicts: Vec<Conflict>,
}

/// What keeps a database from being restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// Which database.
    pub source: String,
    /// What it says.
    pub reason: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What a restore would change. Databases try it in a transaction that is rolled back. Nothing is
/// stored, and the targets stay as they are.
pub fn plan(
    snapshot: &Snapshot,
    destinations: &mut [Destination<'_>],
    ctx: &Context,
) -> Result<Planned, Failure> {
    let mut planned = Planned::default();
    for destination in destinations {
        destination.target.begin(ctx)?;
        let done = plan_one(snapshot, destination, &mut planned, ctx);
        destination.target.rollback()?;
        done?;
    }
    Ok(planned)
}

fn plan_one(
    snapshot: &Snapshot,
    destination: &mut Destination<'_>,
    planned: &mut Planned,
    ctx: &Context,
) -> Result<(), Failure> {
    let mut wanted = Wanted::of(snapshot, destination, ctx)?;
    let source = destination.target.as_source();
    let present = source.begin(None, ctx)?;
    let trees = capture::capture_trees(wanted.to_scratch(), source, &present, None, ctx)?.trees;
    source.end()?;
    let trees = by_name(trees);
    wanted.empty_what_was_not_there(&trees)?;
    let fit = destination.target.fit(&wanted.description, ctx)?;
    let present = match fit {
        Fit::Kept => trees,
        Fit::Rebuilt => BTreeMap::new(),
    };
    let (kind, source) = (destination.kind, destination.name.clone());
    let plan = |tree: &str| {
        let (changes, tree) = (Applied::default(), tree.to_owned());
        TreePlan { kind, source: source.clone(), tree, changes, bytes: 0 }
    };
    if kind != Kind::Database {
        for record in &wanted.trees {
            let old = present.get(&record.info.name).copied();
            let mut plan = plan(&record.info.name);
            for difference in wanted.differences(record.tree, old) {
                let difference = difference?;
                plan.count(&difference);
                if ctx.reporter.wants_entries() {
                    ctx.report(entry_event(destination, &difference));
                }
            }
            planned.trees.push(plan);
        }
        return Ok(());
    }
    let expected = wanted.expect(destination, &present, fit)?;
    for (name, tree) in &expected.trees {
        let mut plan = plan(name);
        let old = present.get(name).copied();
        for difference in tree::differences(&wanted.scratch, old, Some(*tree)) {
            plan.count(&difference?);
        }
        planned.trees.push(plan);
    }
    planned.kept.extend(expected.kept.iter().cloned());
    let changes = TreeChanges::new(&wanted, &present, &expected);
    // Where everything is made anew, it is as it was when it was captured.
    if fit == Fit::Kept
        && let Err(refusal) = destination.target.apply(&changes, ctx)
    {
        let (reason, hint) = (refusal.to_string(), refusal.hint());
        planned.conflicts.push(Conflict { source, reason, hint });
    }
    Ok(())
}

impl TreePlan {
    fn count(&mut self, difference: &Difference) {
        self.changes.count(difference);
        self.bytes += new_bytes(difference);
    }
}

/// Bytes that the target does not have at this place.
fn new_bytes(difference: &Difference) -> u64 {
    let Some(new) = &difference.new else { return 0 };
    let is_there =
        difference.old.as_ref().is_some_and(|old| links::same_content(&old.content, &new.content));
    if is_there { 0 } else { new.content.length() }
}

/// What would become of an entry of files.
fn entry_event(destination: &Destination<'_>, difference: &Difference) -> Event {
    let fate = match (&difference.old, &difference.new) {
        (None, _) => Fate::Added,
        (_, None) => Fate::Removed,
        (Some(_), Some(_)) => Fate::Changed,
    };
    let Destination { kind, name, .. } = destination;
    let path = [kind.as_str(), name].join("/");
    let path = path.trim_end_matches('/');
    let item = match difference.key.as_slice() {
        b"" => format!("/{path}"),
        key => format!("/{path}/{}", display_key(key)),
    };
    Event::Entry { item, fate, bytes: new_bytes(difference) }
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
    let mut restored = Restored {
        before: before.snapshot.as_ref().map(|snapshot| snapshot.id),
        applied: Applied::default(),
        bytes_fetched: 0,
        verified: vec![],
        kept: vec![],
    };
    let mut staged = Vec::new();
    for destination in destinations.iter_mut() {
        let mut wanted = Wanted::of(snapshot, destination, ctx)?;
        wanted.empty_what_was_not_there(&before.of(destination))?;
        let expected = apply_one(&wanted, destination, &before, &mut restored, ctx)?;
        staged.push((wanted, expected));
    }
    let is_database = |destination: &Destination<'_>| destination.kind == Kind::Database;
    // Databases are compared while they can still be rolled back; files once they are in place.
    // Rows may name files, so files become final first.
    for (destination, (wanted, expected)) in destinations.iter_mut().zip(&staged) {
        if is_database(destination) {
            restored.verified.extend(verify(wanted, destination, expected, &before, ctx)?);
        }
    }
    for (destination, (wanted, expected)) in destinations.iter_mut().zip(&staged) {
        if !is_database(destination) {
            destination.target.commit()?;
            restored.verified.extend(verify(wanted, destination, expected, &before, ctx)?);
        }
    }
    for destination in destinations.iter_mut().filter(|destination| is_database(destination)) {
        destination.target.commit()?;
    }
    Ok(restored)
}

/// The present state of the targets, committed as a snapshot unless there is nothing in them.
struct Before {
    snapshot: Option<Snapshot>,
    trees: BTreeMap<(Kind, String), BTreeMap<String, Tree>>,
}

impl Before {
    /// The trees that were in a target.
    fn of(&self, destination: &Destination<'_>) -> BTreeMap<String, Tree> {
        let source = (destination.kind, destination.name.clone());
        self.trees.get(&source).cloned().unwrap_or_default()
    }
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
    let Captured { id, manifest, .. } =
        capture::capture(&snapshot.repo, &mut sources, options, mode, ctx)?;
    let Some(id) = id else {
        return Ok(Before { snapshot: None, trees: BTreeMap::new() });
    };
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
    Ok(Before { snapshot: Some(before), trees })
}

/// Stages the changes of one source; gives what its trees must be afterwards.
fn apply_one(
    wanted: &Wanted<'_>,
    destination: &mut Destination<'_>,
    before: &Before,
    restored: &mut Restored,
    ctx: &Context,
) -> Result<Expected, Failure> {
    let fit = destination.target.fit(&wanted.description, ctx)?;
    let present = match fit {
        Fit::Kept => before.of(destination),
        Fit::Rebuilt if destination.selection == Selection::Everything => BTreeMap::new(),
        Fit::Rebuilt => return Err(RestoreError::StructureDiffers.into()),
    };
    if fit == Fit::Rebuilt && before.snapshot.is_some() && !destination.records.pins.is_empty() {
        return Err(RestoreError::CannotPin.into());
    }
    let expected = wanted.expect(destination, &present, fit)?;
    let left = leftovers(wanted, destination, ctx)?;
    let mut changes = TreeChanges::new(wanted, &present, &expected);
    changes.left = left;
    let what = format!("restoring {}/{}", destination.kind.as_str(), destination.name);
    ctx.phase(what, None);
    restored.applied.add(destination.target.apply(&changes, ctx)?);
    restored.bytes_fetched += changes.bytes_fetched.into_inner();
    restored.kept.extend(expected.kept.iter().cloned());
    Ok(expected)
}

/// Reads what a restore that was cut short left in a target, if any did.
fn leftovers(
    wanted: &Wanted<'_>,
    destination: &mut Destination<'_>,
    ctx: &Context,
) -> Result<Option<Tree>, Failure> {
    let Some(mut source) = destination.target.leftovers()? else { return Ok(None) };
    ctx.phase("reading what a restore that was cut short had got ready", None);
    // What of it cannot be read is fetched again: nothing that anybody has to know.
    let quiet = Context { reporter: Arc::new(Silent), ..ctx.clone() };
    let mut description = source.begin(None, &quiet)?;
    description.aids.clear();
    let trees =
        capture::capture_trees(wanted.to_scratch(), &mut *source, &description, None, &quiet)?
            .trees;
    source.end()?;
    Ok(trees.first().map(|record| record.tree))
}

/// Reads a target again and compares its roots with those that it could get.
fn verify(
    wanted: &Wanted<'_>,
    destination: &mut Destination<'_>,
    expected: &Expected,
    before: &Before,
    ctx: &Context,
) -> Result<Vec<VerifiedTree>, Failure> {
    let (kind, name) = (destination.kind, destination.name.clone());
    ctx.phase(format!("verifying {}/{name}", kind.as_str()), None);
    let expected = &attainable(wanted, destination, &expected.trees, before)?;
    let source = destination.target.as_source();
    let mut description = source.begin(None, ctx)?;
    description.trees.retain(|info| expected.contains_key(&info.name));
    description.aids.clear();
    // A database was read under the same locks and can prove what it wrote since; of a directory,
    // everything is read.
    let parent = before.snapshot.as_ref().filter(|_| kind == Kind::Database);
    let parent = opened::parent_source(parent, source);
    let to = wanted.to_scratch();
    let trees = capture::capture_trees(to, source, &description, parent.as_ref(), ctx)?.trees;
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
            let found = found.get(tree).copied();
            let difference = tree::differences(&wanted.scratch, found, Some(*expected))
                .next()
                .transpose()?
                .map(|difference| crate::id::hex(&difference.key));
            Err(RestoreError::Mismatch { path, key: difference }.into())
        })
        .collect()
}

/// The expected trees, but for what a directory said that it cannot hold.
fn attainable(
    wanted: &Wanted<'_>,
    destination: &mut Destination<'_>,
    expected: &BTreeMap<String, Tree>,
    before: &Before,
) -> Result<BTreeMap<String, Tree>, Failure> {
    let mut attainable = expected.clone();
    let (before, scratch) = (before.of(destination), &wanted.scratch);
    let mut shortfalls = destination.target.shortfalls()?.peekable();
    // Only directories fall short, and they have one tree.
    let (Some((name, tree)), Some(_)) = (expected.first_key_value(), shortfalls.peek()) else {
        return Ok(attainable);
    };
    let old = |key: &[u8]| match before.get(name) {
        Some(old) => tree::get(scratch, *old, key),
        None => Ok(None),
    };
    let changes = shortfalls.map(|shortfall| {
        let (key, shortfall) = shortfall?;
        let value = match shortfall {
            Shortfall::AsBefore => old(&key)?,
            Shortfall::Head(head) => {
                tree::get(scratch, *tree, &key)?.map(|value| Value { head, ..value })
            }
        };
        Ok(Change { key, value })
    });
    let shape = wanted.shape()?;
    let tree = tree::edit(scratch, scratch, &shape, Some(*tree), Box::new(changes))?;
    attainable.insert(name.clone(), tree);
    Ok(attainable)
}

fn by_name(trees: Vec<TreeRecord>) -> BTreeMap<String, Tree> {
    trees.into_iter().map(|record| (record.info.name, record.tree)).collect()
}

impl Applied {
    fn count(&mut self, difference: &Difference) {
        match (&difference.old, &difference.new) {
            (None, _) => self.inserted += 1,
            (_, None) => self.deleted += 1,
            (Some(_), Some(_)) => self.updated += 1,
        }
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
