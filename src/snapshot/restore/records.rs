//! What the tables of a live database will hold after a restore, where that is not simply what
//! the snapshot says: rows that stay as they are, and records that come alone or with relatives.
//!
//! Everything is an edit of trees. The tables as they must be are computed first, from the
//! snapshot and from what is there; what has to be done is the difference between what is there
//! and that, and what is compared at the end is that (docs/adr/0015).

use std::collections::{BTreeMap, BTreeSet};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::condition::{Bound, Condition};
use super::error::RestoreError;
use super::rows::{Reader, Reference, Table, Tables};
use super::wanted::Wanted;
use crate::hint::Failure;
use crate::snapshot::opened::TreeRecord;
use crate::source::Extras;
use crate::source::key::{format_key, parse_key};
use crate::source::record::Field;
use crate::source::sort::{BUDGET, Duplicates, Sorter};
use crate::tree::{self, Change, Difference, Key, Tree, Value};

/// How many missing parents an error names.
const NAMED: usize = 10;

/// What of a database stays as it is, and which records are restored. Nothing by default: all
/// records are restored.
#[derive(Debug, Clone, Default)]
pub struct RecordRules {
    /// Tables whose rows stay as they are when a whole database is restored: names or patterns.
    /// Rows go only when what they refer to goes.
    pub keep_live: Vec<String>,
    /// Rows that stay as they are.
    pub pins: Vec<Pin>,
    /// What records must fulfil, all of it, to be restored.
    pub only: Vec<Condition>,
    /// Which others are restored with them.
    pub relatives: Relatives,
}

/// A row that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its table.
    pub table: String,
    /// Its key as people write it.
    pub key: String,
    /// How much stays with it.
    pub with: PinnedWith,
}

/// What stays with a pinned row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinnedWith {
    /// Nothing.
    Nothing,
    /// Its rows in tables that only link two others: the groups and permissions of an account.
    Links,
}

/// Which records are restored besides those that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Relatives {
    /// Those that they refer to, where the target has not got them.
    pub parents: Follow,
    /// Those that refer to them.
    pub children: Follow,
}

/// Whether foreign keys are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Follow {
    /// They are not.
    #[default]
    No,
    /// They are, however far they lead.
    Yes,
}

/// What a restore leaves as it is although the snapshot says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Kept {
    /// Which database.
    pub source: String,
    /// Which table.
    pub tree: String,
    /// Why.
    pub reason: Stays,
    /// Rows that stay.
    pub rows: u64,
    /// Rows that go all the same, since what they refer to goes.
    pub removed: u64,
}

/// Why rows stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stays {
    /// Their table is kept live.
    KeptLive,
    /// They are pinned, or a pinned row needs them.
    Pinned,
}

/// The tables of a database on their way to what they must be.
pub(super) struct Records<'a> {
    rules: &'a RecordRules,
    wanted: &'a Wanted<'a>,
    tables: Tables,
    reader: Reader<'a>,
    /// In the snapshot.
    stored: BTreeMap<String, Tree>,
    present: &'a BTreeMap<String, Tree>,
    /// After the restore, of those that are restored or change with them.
    expected: BTreeMap<String, Tree>,
    pinned: Vec<Pinned>,
    /// Rows of the target that stay: their tables and fields.
    held: Vec<(String, Vec<Field<'static>>)>,
    kept: BTreeMap<(String, Stays), (u64, u64)>,
}

/// Rows of one table that stay.
enum Pinned {
    Row { tree: String, key: Key },
    Links { tree: String, reference: Reference, values: Vec<Field<'static>> },
}

impl<'a> Records<'a> {
    pub(super) fn new(
        rules: &'a RecordRules,
        wanted: &'a Wanted<'a>,
        all: &[TreeRecord],
        present: &'a BTreeMap<String, Tree>,
        reader: Reader<'a>,
    ) -> Result<Self, Failure> {
        let stored = all.iter().map(|record| (record.info.name.clone(), record.tree)).collect();
        let mut records = Self {
            rules,
            wanted,
            tables: Tables::of(all)?,
            reader,
            stored,
            present,
            expected: BTreeMap::new(),
            pinned: Vec::new(),
            held: Vec::new(),
            kept: BTreeMap::new(),
        };
        // In an empty database there is nothing that could stay.
        let is_alive = present.values().any(|tree| tree.entries > 0);
        for pin in rules.pins.iter().filter(|_| is_alive) {
            records.pin(pin)?;
        }
        Ok(records)
    }

    /// The trees after the restore, and what stays.
    pub(super) fn settle(
        mut self,
        source: &str,
    ) -> Result<(BTreeMap<String, Tree>, Vec<Kept>), Failure> {
        let live = if self.wanted.is_whole() {
            patterns(&self.rules.keep_live)?
        } else {
            GlobSet::empty()
        };
        let mut kept = BTreeSet::new();
        for record in &self.wanted.trees {
            let name = &record.info.name;
            match self.present.get(name) {
                Some(present) if live.is_match(name) => {
                    self.expected.insert(name.clone(), *present);
                    self.kept.insert((name.clone(), Stays::KeptLive), (present.entries, 0));
                    kept.insert(name.clone());
                }
                _ => self.take(record)?,
            }
        }
        if self.rules.relatives.children == Follow::Yes {
            self.bring_children()?;
        }
        if !self.wanted.is_whole() || !self.rules.only.is_empty() {
            self.bring_parents()?;
        }
        self.keep_parents()?;
        if self.rules.relatives.children == Follow::Yes {
            let chosen = |name: &String| self.wanted.trees.iter().any(|r| r.info.name == *name);
            kept.extend(self.tables.iter().map(|(name, _)| name.clone()).filter(|n| !chosen(n)));
        }
        self.remove_orphans(&kept)?;
        let kept = self.kept.into_iter().map(|((tree, reason), (rows, removed))| {
            let source = source.to_owned();
            Kept { source, tree, reason, rows, removed }
        });
        Ok((self.expected, kept.collect()))
    }

    /// Finds a pinned row. One that is not there cannot stay.
    fn pin(&mut self, pin: &Pin) -> Result<(), Failure> {
        let table = self.tables.named(&pin.table)?;
        let key = parse_key(&table.header, &pin.key)?;
        let Some(row) = self.row(self.present.get(&pin.table), &key)? else {
            return Err(
                RestoreError::NotPinned { row: format!("{}/{}", pin.table, pin.key) }.into()
            );
        };
        let tree = pin.table.clone();
        self.pinned.push(Pinned::Row { tree, key });
        if pin.with == PinnedWith::Links {
            for (tree, table) in self.tables.iter().filter(|(_, table)| table.is_link()) {
                for reference in table.references.iter().filter(|r| r.parent == pin.table) {
                    if let Some(values) = reference.parent_values(&row) {
                        let (tree, reference) = (tree.clone(), reference.clone());
                        self.pinned.push(Pinned::Links { tree, reference, values });
                    }
                }
            }
        }
        self.held.push((pin.table.clone(), row));
        Ok(())
    }

    fn row(&self, tree: Option<&Tree>, key: &[u8]) -> Result<Option<Vec<Field<'static>>>, Failure> {
        let Some(tree) = tree else { return Ok(None) };
        let value = tree::get(self.reader.scratch, *tree, key)?;
        value.map(|value| self.reader.fields(&value.content)).transpose()
    }

    /// What a table will hold of what was asked for.
    fn take(&mut self, record: &TreeRecord) -> Result<(), Failure> {
        let name = &record.info.name;
        let old = self.present.get(name).copied();
        let pins: Vec<&Pinned> =
            self.pinned.iter().filter(|pinned| pinned.tree() == name).collect();
        let conditions = self.conditions(name)?;
        let all = pins.is_empty() && conditions.is_empty();
        let expected = if all && self.wanted.takes_all(old) {
            record.tree
        } else {
            let (mut held, mut rows) = (Vec::new(), 0);
            let mut choose = |difference: Difference| -> Result<Option<Change>, Failure> {
                let Difference { key, old, new } = difference;
                let fields = |value: &Option<Value>| {
                    value.as_ref().map(|value| self.reader.fields(&value.content)).transpose()
                };
                if pins.iter().any(|pinned| pinned.is_row(&key)) {
                    rows += 1;
                    return Ok(None);
                }
                if !all {
                    let (before, after) = (fields(&old)?, fields(&new)?);
                    let links = |row: &Option<Vec<Field<'static>>>| {
                        row.as_ref().is_some_and(|row| pins.iter().any(|pin| pin.links(row)))
                    };
                    if links(&before) || links(&after) {
                        rows += u64::from(before.is_some());
                        held.extend(before);
                        return Ok(None);
                    }
                    let meant = |row: &Option<Vec<Field<'static>>>| {
                        row.as_ref().is_some_and(|row| conditions.iter().all(|c| c.holds(row)))
                    };
                    // What is replaced is the set of records that fulfil the conditions; what is
                    // merged are those of the snapshot.
                    let before = self.wanted.extras() == Extras::Delete && meant(&before);
                    if !before && !meant(&after) {
                        return Ok(None);
                    }
                }
                Ok(Some(Change { key, value: new }))
            };
            let differences = self.wanted.differences(record.tree, old);
            let changes = differences.filter_map(|d| d.and_then(&mut choose).transpose());
            let tree = self.reader.edit(old, changes)?;
            if rows > 0 {
                self.kept.insert((name.clone(), Stays::Pinned), (rows, 0));
            }
            self.held.extend(held.into_iter().map(|row| (name.clone(), row)));
            tree
        };
        self.expected.insert(name.clone(), expected);
        Ok(())
    }

    fn conditions(&self, tree: &str) -> Result<Vec<Bound>, Failure> {
        let header = &self.tables.named(tree)?.header;
        let bound = self.rules.only.iter().map(|condition| condition.bind(header));
        Ok(bound.collect::<Result<_, _>>()?)
    }

    /// The tree as it will be, as far as that is settled.
    fn now(&self, tree: &str) -> Option<Tree> {
        self.expected.get(tree).or_else(|| self.present.get(tree)).copied()
    }

    /// The records of the snapshot that were asked for.
    fn chosen(&self, record: &TreeRecord) -> Result<Tree, Failure> {
        let conditions = self.conditions(&record.info.name)?;
        if conditions.is_empty() && !self.wanted.has_keys() {
            return Ok(record.tree);
        }
        let entries = tree::entries(self.reader.scratch, record.tree, &[], self.wanted.prefix());
        let choose = |(key, value): (Key, Value)| -> Result<Option<Change>, Failure> {
            let fields = self.reader.fields(&value.content)?;
            let meant = self.wanted.has_key(&key) && conditions.iter().all(|c| c.holds(&fields));
            Ok(meant.then_some(Change { key, value: Some(value) }))
        };
        let chosen = entries.filter_map(|e| e.map_err(Failure::from).and_then(choose).transpose());
        self.reader.edit(None, chosen)
    }

    /// Adds the records of the snapshot that refer to those that were asked for, and those that
    /// refer to these.
    fn bring_children(&mut self) -> Result<(), Failure> {
        let mut chosen: BTreeMap<String, Tree> = BTreeMap::new();
        for record in &self.wanted.trees {
            chosen.insert(record.info.name.clone(), self.chosen(record)?);
        }
        let asked_for: BTreeSet<String> = chosen.keys().cloned().collect();
        let mut queue: Vec<String> = asked_for.iter().cloned().collect();
        while let Some(parent) = queue.pop() {
            let Some(parents) = chosen.get(&parent).copied() else { continue };
            let children: Vec<(String, Reference)> = self.referring(&parent);
            for (child, reference) in children {
                let Some(stored) = self.stored.get(&child).copied() else { continue };
                let old = chosen.get(&child).copied();
                let more = self.refer(stored, &reference, parents)?;
                let changes = tree::range(self.reader.scratch, more, &[]);
                let all = self.reader.edit(old, changes)?;
                if old != Some(all) {
                    chosen.insert(child.clone(), all);
                    queue.push(child);
                }
            }
        }
        for (name, rows) in chosen {
            let old = self.now(&name);
            let scratch = self.reader.scratch;
            let put = |entry: Result<(Key, Value), tree::TreeError>| -> Result<_, Failure> {
                let (key, value) = entry?;
                let there = old.map(|old| tree::get(scratch, old, &key)).transpose()?.flatten();
                let pinned = self.pinned.iter().any(|p| *p.tree() == name && p.is_row(&key));
                let takes = there.is_none() || self.wanted.replaces();
                Ok((takes && !pinned).then_some(Change { key, value: Some(value) }))
            };
            let entries = tree::entries(scratch, rows, &[], &[]);
            let tree = self.reader.edit(old, entries.filter_map(|e| put(e).transpose()))?;
            self.expected.insert(name, tree);
        }
        Ok(())
    }

    fn referring(&self, parent: &str) -> Vec<(String, Reference)> {
        let mut found = Vec::new();
        for (name, table) in self.tables.iter() {
            let to = table.references.iter().filter(|reference| reference.parent == parent);
            found.extend(to.map(|reference| (name.clone(), reference.clone())));
        }
        found
    }

    /// The rows of `child` that refer to one of `parents`.
    fn refer(
        &mut self,
        child: Tree,
        reference: &Reference,
        parents: Tree,
    ) -> Result<Tree, Failure> {
        let scratch = self.reader.scratch;
        let mut sorter = Sorter::new(BUDGET, Duplicates::Refuse);
        for entry in tree::entries(scratch, child, &[], &[]) {
            let (key, value) = entry?;
            let row = self.reader.fields(&value.content)?;
            if let Some(values) = reference.values(&row)
                && self.reader.parent(reference, Some(parents), &values)?.is_some()
            {
                sorter.push(&key, &[])?;
            }
        }
        let changes = sorter.finish()?.map(|entry| {
            let (key, _) = entry?;
            let value = tree::get(scratch, child, &key)?;
            Ok(Change { key, value })
        });
        self.reader.edit(None, changes)
    }

    /// Adds the records of the snapshot that the restored ones refer to and the target has not
    /// got, and those that these refer to; or names them.
    fn bring_parents(&mut self) -> Result<(), Failure> {
        let mut missing = BTreeSet::new();
        let mut queue: Vec<String> = self.expected.keys().cloned().collect();
        while let Some(name) = queue.pop() {
            let Some(table) = self.tables.get(&name) else { continue };
            let references = table.references.clone();
            for reference in references {
                let mut wanted = BTreeMap::new();
                let changed = tree::differences(
                    self.reader.scratch,
                    self.present.get(&name).copied(),
                    self.now(&name),
                );
                for difference in changed {
                    let Some(new) = difference?.new else { continue };
                    let row = self.reader.fields(&new.content)?;
                    let Some(values) = reference.values(&row) else { continue };
                    let parent = self.now(&reference.parent);
                    if self.reader.parent(&reference, parent, &values)?.is_some() {
                        continue;
                    }
                    let stored = self.stored.get(&reference.parent).copied();
                    wanted.extend(self.reader.parent(&reference, stored, &values)?);
                }
                if wanted.is_empty() {
                    continue;
                }
                let parent = &reference.parent;
                if self.rules.relatives.parents == Follow::Yes {
                    let puts = wanted
                        .into_iter()
                        .map(|(key, value)| Ok(Change { key, value: Some(value) }));
                    let tree = self.reader.edit(self.now(parent), puts)?;
                    self.expected.insert(parent.clone(), tree);
                    queue.push(parent.clone());
                } else {
                    let header = &self.tables.named(parent)?.header;
                    for key in wanted.keys() {
                        missing.insert(format!("{parent}/{}", format_key(header, key)?));
                    }
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let count = missing.len();
        let rows = missing.into_iter().take(NAMED).collect();
        Err(RestoreError::Parents { rows, count }.into())
    }

    /// Lets rows stay that are needed by rows that stay.
    fn keep_parents(&mut self) -> Result<(), Failure> {
        while let Some((name, row)) = self.held.pop() {
            let Some(table) = self.tables.get(&name) else { continue };
            for reference in table.references.clone() {
                let Some(values) = reference.values(&row) else { continue };
                let parent = &reference.parent;
                if self.reader.parent(&reference, self.now(parent), &values)?.is_some() {
                    continue;
                }
                let present = self.present.get(parent).copied();
                let Some((key, value)) = self.reader.parent(&reference, present, &values)? else {
                    continue;
                };
                self.held.push((parent.clone(), self.reader.fields(&value.content)?));
                let put = Change { key, value: Some(value) };
                let tree = self.reader.edit(self.now(parent), std::iter::once(Ok(put)))?;
                self.expected.insert(parent.clone(), tree);
                self.kept.entry((parent.clone(), Stays::Pinned)).or_default().0 += 1;
            }
        }
        Ok(())
    }

    /// Removes rows of these tables that refer to rows that go.
    fn remove_orphans(&mut self, names: &BTreeSet<String>) -> Result<(), Failure> {
        let mut again = true;
        while again {
            again = false;
            for name in names {
                let Some(table) = self.tables.get(name) else { continue };
                for reference in table.references.clone() {
                    again |= self.remove_orphans_by(name, &reference)?;
                }
            }
        }
        Ok(())
    }

    fn remove_orphans_by(&mut self, name: &str, reference: &Reference) -> Result<bool, Failure> {
        let (before, after) =
            (self.present.get(&reference.parent).copied(), self.now(&reference.parent));
        let Some(tree) = self.now(name) else { return Ok(false) };
        if !self.loses_rows(reference, before, after)? {
            return Ok(false);
        }
        let mut orphans = Sorter::new(BUDGET, Duplicates::Refuse);
        let mut count = 0;
        for entry in tree::entries(self.reader.scratch, tree, &[], &[]) {
            let (key, value) = entry?;
            let row = self.reader.fields(&value.content)?;
            let Some(values) = reference.values(&row) else { continue };
            // One that referred to nothing before is not for a restore to judge.
            if self.reader.parent(reference, after, &values)?.is_none()
                && self.reader.parent(reference, before, &values)?.is_some()
            {
                orphans.push(&key, &[])?;
                count += 1;
            }
        }
        if count == 0 {
            return Ok(false);
        }
        let deletions = orphans.finish()?.map(|entry| Ok(Change::delete(entry?.0)));
        let tree = self.reader.edit(Some(tree), deletions)?;
        self.expected.insert(name.to_owned(), tree);
        if let Some((rows, removed)) = self.kept.get_mut(&(name.to_owned(), Stays::KeptLive)) {
            *rows = rows.saturating_sub(count);
            *removed += count;
        }
        Ok(true)
    }

    /// Whether some row of a parent can no longer be referred to.
    fn loses_rows(
        &self,
        reference: &Reference,
        before: Option<Tree>,
        after: Option<Tree>,
    ) -> Result<bool, Failure> {
        for difference in tree::differences(self.reader.scratch, before, after) {
            let Difference { old, new, .. } = difference?;
            let values = |value: Option<Value>| -> Result<_, Failure> {
                let row = value.map(|value| self.reader.fields(&value.content)).transpose()?;
                Ok(row.and_then(|row| reference.parent_values(&row)))
            };
            let old = values(old)?;
            if old.is_some() && old != values(new)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Table {
    /// Whether its rows do nothing but link rows of two others.
    fn is_link(&self) -> bool {
        let refers = |column: &String| self.references.iter().any(|r| r.columns.contains(column));
        let mut columns = self.header.stored_columns().map(|column| &column.name);
        self.references.len() == 2
            && columns.all(|column| refers(column) || self.header.key.contains(column))
    }
}

impl Pinned {
    fn tree(&self) -> &String {
        match self {
            Self::Row { tree, .. } | Self::Links { tree, .. } => tree,
        }
    }

    fn is_row(&self, row: &[u8]) -> bool {
        matches!(self, Self::Row { key, .. } if key == row)
    }

    fn links(&self, row: &[Field<'static>]) -> bool {
        match self {
            Self::Row { .. } => false,
            Self::Links { reference, values, .. } => {
                reference.values(row).is_some_and(|found| found == *values)
            }
        }
    }
}

fn patterns(texts: &[String]) -> Result<GlobSet, RestoreError> {
    let mut set = GlobSetBuilder::new();
    for pattern in texts {
        let refuse = |source| RestoreError::Pattern { pattern: pattern.clone(), source };
        set.add(GlobBuilder::new(pattern).build().map_err(refuse)?);
    }
    set.build().map_err(|source| RestoreError::Pattern { pattern: texts.join(", "), source })
}
