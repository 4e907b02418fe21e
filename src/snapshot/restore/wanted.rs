//! What of a snapshot is wanted in a target, and the changes that bring it there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::links::{self, Links, same, same_content};
use super::records::{Kept, Records};
use super::rows::Reader;
use super::rules::{Above, Overwrite, Rules};
use super::{Destination, RestoreError, Selection, owners};
use crate::context::Context;
use crate::hint::Failure;
use crate::repo::Scratch;
use crate::report::Event;
use crate::snapshot::capture::{self, To};
use crate::snapshot::manifest::SourceRecord;
use crate::snapshot::opened::{self, Snapshot, TreeRecord};
use crate::source::record::DatabaseHeader;
use crate::source::{
    Description, Extras, Fit, Kind, LARGE_OBJECTS, Owners, Plan, TreeInfo, large_objects,
};
use crate::tree::{
    self, Change, Changes, Content, Difference, EachRun, Shape, Sought, Tree, Value,
};

/// A set of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    /// Just this one: a record.
    Exactly(Vec<u8>),
    /// This one and all that continue it after a NUL byte: a file, or a folder with all in it.
    Below(Vec<u8>),
}

/// What of a source is wanted.
pub(super) struct Wanted<'s> {
    kind: Kind,
    snapshot: &'s Snapshot,
    pub(super) description: Description,
    pub(super) trees: Vec<TreeRecord>,
    /// All trees of the snapshot's source.
    pub(super) all: Vec<TreeRecord>,
    whole: bool,
    rules: Rules,
    /// Where trees of the restore are that are not in the repository.
    pub(super) scratch: Scratch<'s>,
}

impl<'s> Wanted<'s> {
    pub(super) fn of(
        snapshot: &'s Snapshot,
        destination: &Destination<'_>,
        ctx: &Context,
    ) -> Result<Self, Failure> {
        let source = find_source(snapshot, destination.kind, &destination.name)?;
        let description = snapshot.description(source)?;
        let all = snapshot.trees(source)?;
        let (mut trees, keys) = match &destination.selection {
            Selection::Everything => (all.clone(), None),
            Selection::Trees(names) => {
                (names.iter().flat_map(|name| pick(&all, name)).collect(), None)
            }
            Selection::Entries { tree, keys } => (pick(&all, tree), Some(keys.clone())),
        };
        let whole = destination.selection == Selection::Everything;
        let Destination { kind, extras, overwrite, .. } = *destination;
        let (is_files, paths) = (kind != Kind::Database, destination.paths.clone());
        let rules = Rules { is_files, keys, paths, extras, overwrite };
        let scratch = snapshot.repo.scratch()?;
        if let Some(owners) = &destination.owners {
            if *owners == Owners::default() {
                let item = capture::path(kind, &destination.name);
                let reason = "the snapshot has no names of owners: their numbers are restored";
                ctx.report(Event::Skipped { item, reason: reason.to_owned() });
            }
            let shape = opened::shape(&snapshot.repo, kind)?;
            for TreeRecord { tree, .. } in &mut trees {
                *tree = owners::renumber(&scratch, &shape, *tree, owners, &rules, ctx)?;
            }
        }
        Ok(Self { kind, snapshot, description, trees, all, whole, rules, scratch })
    }

    /// Wants no large objects where the snapshot says that there were none, and there are some
    /// now: they have a tree only where there are any.
    pub(super) fn empty_what_was_not_there(
        &mut self,
        present: &BTreeMap<String, Tree>,
    ) -> Result<(), Failure> {
        let is_known = self.all.iter().any(|record| record.info.name == LARGE_OBJECTS);
        if self.kind != Kind::Database
            || !self.whole
            || is_known
            || !present.contains_key(LARGE_OBJECTS)
            || !DatabaseHeader::from_json(&self.description.header)?.large_objects
        {
            return Ok(());
        }
        let none = Box::new(std::iter::empty());
        let tree = tree::edit(&self.scratch, &self.scratch, &self.shape()?, None, none)?;
        let record = TreeRecord { info: large_objects(), tree };
        self.trees.push(record.clone());
        self.all.push(record);
        Ok(())
    }

    /// How the trees are cut and stored.
    pub(super) fn shape(&self) -> Result<Shape, Failure> {
        opened::shape(&self.snapshot.repo, self.kind)
    }

    /// Where trees are captured only to be compared.
    pub(super) fn to_scratch(&self) -> To<'_, 'static> {
        To { reader: &self.snapshot.repo, writer: &self.scratch, watch: None, compare: false }
    }

    /// The differences of one tree that are wanted.
    pub(super) fn differences(
        &self,
        tree: Tree,
        old: Option<Tree>,
    ) -> impl Iterator<Item = Result<Difference, Failure>> {
        let mut above = Above::default();
        let mut admits = move |difference: &Difference| self.rules.admit(difference, &mut above);
        tree::differences(&self.scratch, old, Some(tree)).filter_map(move |difference| {
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

    /// What the target will hold. `fit` says whether it is a database whose rows are still there.
    pub(super) fn expect(
        &self,
        destination: &Destination<'_>,
        present: &BTreeMap<String, Tree>,
        fit: Fit,
    ) -> Result<Expected, Failure> {
        if self.kind != Kind::Database || fit == Fit::Rebuilt {
            return Ok(Expected { trees: self.expected(present)?, kept: Vec::new() });
        }
        let reader = Reader::new(&self.scratch, self.shape()?);
        let records = Records::new(&destination.records, self, &self.all, present, reader)?;
        let (trees, kept) = records.settle(&destination.name)?;
        Ok(Expected { trees, kept })
    }

    /// The trees after the restore: the wanted ones, or, where not everything is restored, the
    /// present ones with the planned changes.
    fn expected(
        &self,
        present: &BTreeMap<String, Tree>,
    ) -> Result<BTreeMap<String, Tree>, Failure> {
        let (shape, scratch) = (self.shape()?, &self.scratch);
        let mut expected = BTreeMap::new();
        for record in &self.trees {
            let old = present.get(&record.info.name).copied();
            let Rules { is_files, .. } = self.rules;
            let tree = if self.takes_all(old) {
                record.tree
            } else {
                let changes = self.changes(record.tree, old);
                let tree = tree::edit(scratch, scratch, &shape, old, changes)?;
                match old {
                    Some(old) if is_files => {
                        let relinked = links::orphans(scratch, old, tree);
                        tree::edit(scratch, scratch, &shape, Some(tree), relinked)?
                    }
                    _ => tree,
                }
            };
            expected.insert(record.info.name.clone(), tree);
        }
        Ok(expected)
    }

    /// Whether all of the source was asked for.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether a tree will be as the snapshot says, given what the target has in its place.
    pub(super) fn takes_all(&self, old: Option<Tree>) -> bool {
        self.rules.take_everything() || old.is_none() && self.rules.take_all()
    }

    /// What becomes of entries that the snapshot does not have.
    pub(super) fn extras(&self) -> Extras {
        self.rules.extras
    }

    /// Whether entries that are there in another form are replaced.
    pub(super) fn replaces(&self) -> bool {
        self.rules.overwrite != Overwrite::Never
    }

    /// Whether only some keys are wanted.
    pub(super) fn has_keys(&self) -> bool {
        self.rules.keys.is_some()
    }

    /// Whether this one is.
    pub(super) fn has_key(&self, key: &[u8]) -> bool {
        self.rules.keys.as_ref().is_none_or(|keys| keys.contains(key))
    }

    /// What the wanted keys begin with.
    pub(super) fn prefix(&self) -> &[u8] {
        match &self.rules.keys {
            None => &[],
            Some(KeyRange::Exactly(key) | KeyRange::Below(key)) => key,
        }
    }

    /// The changes of one tree, with contents as the repository stores them.
    pub(super) fn changes(&self, tree: Tree, old: Option<Tree>) -> Changes<'_> {
        let mut links = Links::new(&self.scratch, tree, old);
        let partial = self.rules.is_files && !self.rules.take_everything();
        let mut change = move |difference: Difference| {
            let Difference { key, old, new: mut value } = difference;
            if let (true, Some(new)) = (partial, &mut value) {
                links.settle(&key, new, |difference| {
                    self.rules.admit(difference, &mut Above::default())
                })?;
                // With its link settled it may be what is there already.
                if old.is_some_and(|old| same(&old, new)) {
                    return Ok(None);
                }
            }
            Ok(Some(Change { key, value }))
        };
        let differences = self.differences(tree, old);
        Box::new(
            differences.filter_map(move |difference| difference.and_then(&mut change).transpose()),
        )
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
pub(super) fn is_below(key: &[u8], above: &[u8]) -> bool {
    above.is_empty() || key.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&0))
}

fn pick(all: &[TreeRecord], name: &str) -> Vec<TreeRecord> {
    all.iter().filter(|record| record.info.name == name).cloned().collect()
}

/// A source of a snapshot by kind and name.
fn find_source<'s>(
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
pub(super) struct TreeChanges<'a> {
    pub(super) wanted: &'a Wanted<'a>,
    pub(super) trees: Vec<TreeInfo>,
    pub(super) present: &'a BTreeMap<String, Tree>,
    pub(super) expected: &'a Expected,
    /// What a restore that was cut short left.
    pub(super) left: Option<Tree>,
    /// Bytes of contents that came from the repository.
    pub(super) bytes_fetched: AtomicU64,
}

/// What a target will hold.
pub(super) struct Expected {
    /// The nodes are where [`Wanted::scratch`] finds them.
    pub(super) trees: BTreeMap<String, Tree>,
    /// What stays as it is.
    pub(super) kept: Vec<Kept>,
}

impl<'a> TreeChanges<'a> {
    pub(super) fn new(
        wanted: &'a Wanted<'a>,
        present: &'a BTreeMap<String, Tree>,
        expected: &'a Expected,
    ) -> Self {
        let has = |record: &&TreeRecord| expected.trees.contains_key(&record.info.name);
        let trees = wanted.all.iter().filter(has).map(|record| record.info.clone()).collect();
        Self { wanted, trees, present, expected, left: None, bytes_fetched: AtomicU64::new(0) }
    }
}

impl Plan for TreeChanges<'_> {
    fn wanted(&self) -> &Description {
        &self.wanted.description
    }

    fn trees(&self) -> &[TreeInfo] {
        &self.trees
    }

    fn changes<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure> {
        let old = self.present.get(&tree.name).copied();
        if self.wanted.kind == Kind::Database {
            let new = self.expected.trees.get(&tree.name).copied();
            return Ok(tree::diff(&self.wanted.scratch, old, new));
        }
        let Some(record) = self.wanted.trees.iter().find(|record| record.info.name == tree.name)
        else {
            return Ok(Box::new(std::iter::empty()));
        };
        Ok(self.wanted.changes(record.tree, old))
    }

    fn opened<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure> {
        let repo = &self.wanted.snapshot.repo;
        Ok(Box::new(self.changes(tree)?.map(|change| {
            change.map(|mut change| {
                change.value = change.value.map(|value| value.opened(repo));
                change
            })
        })))
    }

    fn fetch(
        &self,
        sought: &[Sought<'_>],
        ctx: &Context,
        each: &EachRun<'_>,
    ) -> Result<(), Failure> {
        let fetched = tree::fetch(&*self.wanted.snapshot.repo, sought, ctx.jobs, each)?;
        self.bytes_fetched.fetch_add(fetched, Ordering::Relaxed);
        Ok(())
    }

    fn present(&self, tree: &TreeInfo, key: &[u8]) -> Result<Option<Value>, Failure> {
        let Some(present) = self.present.get(&tree.name) else { return Ok(None) };
        Ok(tree::get(&self.wanted.scratch, *present, key)?)
    }

    fn is_left(&self, key: &[u8], content: &Content) -> Result<bool, Failure> {
        let Some(left) = self.left else { return Ok(false) };
        let left = tree::get(&self.wanted.scratch, left, key)?;
        Ok(left.is_some_and(|left| same_content(&left.content, content)))
    }
}
