//! The state between two snapshots: where a database's changes were followed, the later snapshot
//! holds the transactions since the earlier one, and so any of them can be the last.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::derive::{Apply, derive};
use super::manifest::{Manifest, Reason, Skipped, SourceRecord};
use super::opened::{Snapshot, TreeRecord};
use super::timeline::{Filter, SelectError, Timeline};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::{SnapshotId, unhex};
use crate::repo::Repo;
use crate::source::record::{Field, RowReader, RowWriter};
use crate::source::sort::{BUDGET, Duplicates, Sorted, Sorter};
use crate::source::{CHANGES, COMMITS, Commit, Kind, LARGE_OBJECTS, Logged};
use crate::time::Timestamp;
use crate::tree::{self, Change, Content, Tree};

/// Up to where transactions are taken, in the order in which they were committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// Up to the last one that was committed at or before this time, by the server's clock.
    Time(Timestamp),
    /// Up to this position of the server's log: `16/B374D848`.
    Lsn(u64),
    /// Up to the one before the transaction with this number.
    BeforeTransaction(u32),
}

impl Until {
    /// Whether a transaction still belongs to the state.
    fn admits(&self, commit: &Commit) -> bool {
        match self {
            Self::Time(time) => commit.time <= *time,
            Self::Lsn(lsn) => commit.position().is_some_and(|position| position <= *lsn),
            Self::BeforeTransaction(xid) => commit.xid != *xid,
        }
    }
}

/// A state between two snapshots.
#[derive(Debug)]
pub struct Between {
    /// The snapshot before.
    pub earlier: Snapshot,
    /// The one that holds the transactions since.
    pub later: Snapshot,
    until: Until,
    /// Per database, how many of the transactions belong to the state.
    counts: BTreeMap<String, u32>,
    /// When the last of them was committed.
    time: Timestamp,
}

/// Finds the state that `until` means; `None` where no snapshot holds the transactions around it,
/// or the state is exactly that of a snapshot.
pub fn between(
    repo: &Arc<Repo>,
    timeline: &Timeline,
    filter: &Filter,
    until: &Until,
) -> Result<Option<Between>, Failure> {
    let opened = |id: SnapshotId, manifest: &Manifest| Snapshot {
        repo: Arc::clone(repo),
        id,
        manifest: manifest.clone(),
    };
    for (id, manifest) in timeline.iter(filter) {
        let parent = manifest.parent.and_then(|id| timeline.find(id));
        let Some((parent_id, parent)) = parent.filter(|_| manifest.reason == Reason::Backup) else {
            continue;
        };
        if matches!(until, Until::Time(time) if !(parent.time <= *time && *time < manifest.time)) {
            continue;
        }
        let (earlier, later) = (opened(*parent_id, parent), opened(*id, manifest));
        let mut between = Between {
            time: parent.time,
            earlier,
            later,
            until: until.clone(),
            counts: BTreeMap::new(),
        };
        if between.count()? {
            return Ok(Some(between));
        }
    }
    Ok(None)
}

impl Between {
    /// Counts the transactions that belong to the state; says whether it lies between the two.
    fn count(&mut self) -> Result<bool, Failure> {
        let mut found = false;
        let databases = self.later.manifest.sources.iter();
        for source in databases.filter(|source| source.kind == Kind::Database) {
            let Some(commits) = self.later.aid(source, COMMITS)? else { continue };
            let (mut count, mut all) = (0, true);
            for entry in tree::entries(&*self.later.repo, commits, &[], &[]) {
                let (_, value) = entry?;
                let bytes = value.content.bytes(&*self.later.repo, usize::MAX)?;
                let commit: Commit = serde_json::from_slice(&bytes).map_err(unreadable)?;
                if !self.until.admits(&commit) {
                    all = false;
                    break;
                }
                count += 1;
                self.time = self.time.max(commit.time);
            }
            found |= match self.until {
                Until::Time(_) => count > 0,
                Until::Lsn(_) => count > 0 && !all,
                Until::BeforeTransaction(_) => !all,
            };
            self.counts.insert(source.name.clone(), count);
        }
        Ok(found)
    }

    /// How many transactions are taken.
    pub fn transactions(&self) -> u64 {
        self.counts.values().map(|count| u64::from(*count)).sum()
    }

    /// Writes the state as a snapshot. Files are as in the snapshot before.
    pub fn derive(&self, ctx: &Context) -> Result<Snapshot, Failure> {
        let mut databases = BTreeMap::new();
        let mut skipped = Vec::new();
        for (name, count) in &self.counts {
            let database = Transactions::read(&self.later, name, *count, ctx)?;
            let lost = database.lost.iter().map(|table| Skipped {
                item: format!("/database/{name}/{table}"),
                reason: "the log does not tell all of its changes: it is as in the snapshot before"
                    .to_owned(),
            });
            skipped.extend(lost);
            let large = |snapshot: &Snapshot| {
                let source = snapshot.manifest.source(Kind::Database, name);
                let trees = source.map(|source| snapshot.trees(source)).transpose()?;
                let mut trees = trees.into_iter().flatten();
                let found = trees.find(|record| record.info.name == LARGE_OBJECTS);
                Ok::<_, Failure>(found.map(|record| record.tree))
            };
            if large(&self.earlier)? != large(&self.later)? {
                skipped.push(Skipped {
                    item: format!("/database/{name}/{LARGE_OBJECTS}"),
                    reason: "no log tells of large objects: they are as in the snapshot before"
                        .to_owned(),
                });
            }
            databases.insert(name.clone(), database);
        }
        let reason = Reason::Transaction {
            after: self.earlier.id,
            before: self.later.id,
            transactions: self.transactions(),
        };
        let earlier = &self.earlier;
        let mut edit =
            |source: &SourceRecord, record: &TreeRecord, apply: Apply<'_>| match databases
                .get_mut(&source.name)
                .filter(|_| source.kind == Kind::Database)
            {
                Some(database) => database.edit(earlier, record, apply),
                None => Ok(None),
            };
        derive(&self.earlier, self.time, reason, skipped, &mut edit, ctx)
    }
}

/// The changes of one database's transactions, by table and key.
struct Transactions {
    /// Keys: the table's name, a NUL byte, the record's key with its length before it, and the
    /// place in the log.
    sorted: std::iter::Peekable<Sorted>,
    tables: BTreeSet<String>,
    /// Tables that were emptied, and where in the log for the last time.
    emptied: BTreeMap<String, Vec<u8>>,
    lost: BTreeSet<String>,
}

impl Transactions {
    fn read(later: &Snapshot, name: &str, count: u32, ctx: &Context) -> Result<Self, Failure> {
        let source = later.manifest.source(Kind::Database, name);
        let changes = source.map(|source| later.aid(source, CHANGES)).transpose()?.flatten();
        let mut sorter = Sorter::new(BUDGET, Duplicates::Refuse);
        let (mut tables, mut emptied, mut lost) =
            (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        if let Some(changes) = changes {
            for entry in tree::entries(&*later.repo, changes, &[], &[]) {
                ctx.check_cancelled()?;
                let (at, value) = entry?;
                if at.first_chunk().is_none_or(|number| u32::from_be_bytes(*number) >= count) {
                    break;
                }
                let bytes = value.content.bytes(&*later.repo, usize::MAX)?;
                let logged: Logged<'_> = serde_json::from_slice(&bytes).map_err(unreadable)?;
                let table = logged.table.into_owned();
                if logged.lost {
                    lost.insert(table);
                    continue;
                }
                tables.insert(table.clone());
                if logged.key.is_empty() {
                    emptied.insert(table, at);
                    continue;
                }
                let record = unhex(&logged.key).ok_or_else(|| damaged("a key is no key"))?;
                let mut key = table.into_bytes();
                key.push(0);
                key.extend_from_slice(&record);
                // Keys of one table are free of each other's beginnings, so this sorts as they do.
                key.extend_from_slice(&at);
                sorter.push(&key, &bytes)?;
            }
        }
        let sorted = sorter.finish()?.peekable();
        Ok(Self { sorted, tables, emptied, lost })
    }

    /// A table as it is after the transactions; none where they leave it alone.
    fn edit(
        &mut self,
        earlier: &Snapshot,
        record: &TreeRecord,
        apply: Apply<'_>,
    ) -> Result<Option<Tree>, Failure> {
        let table = &record.info.name;
        if !self.tables.contains(table) || self.lost.contains(table) {
            return Ok(None);
        }
        let emptied = self.emptied.remove(table);
        let base = if emptied.is_some() { None } else { Some(record.tree) };
        let prefix = [table.as_bytes(), &[0]].concat();
        let folded = Folded {
            sorted: &mut self.sorted,
            repo: &earlier.repo,
            prefix,
            emptied,
            base,
            last: None,
        };
        apply(base, Box::new(folded)).map(Some)
    }
}

/// The last state of each record of a table that changed, in the order of their keys.
struct Folded<'a> {
    sorted: &'a mut std::iter::Peekable<Sorted>,
    repo: &'a Repo,
    /// What the table's entries begin with.
    prefix: Vec<u8>,
    /// Where in the log the table was last emptied; what happened before counts for nothing.
    emptied: Option<Vec<u8>>,
    base: Option<Tree>,
    /// The record that is being followed.
    last: Option<Change>,
}

impl Folded<'_> {
    /// Bytes of a place in the log.
    const AT: usize = 8;

    fn step(&mut self) -> Result<Option<Change>, Failure> {
        loop {
            let order = match self.sorted.peek() {
                Some(Ok((key, _))) => key[..key.len().min(self.prefix.len())].cmp(&self.prefix),
                Some(Err(_)) => Ordering::Equal,
                None => Ordering::Greater,
            };
            if order == Ordering::Greater {
                return Ok(self.last.take());
            }
            let Some(entry) = self.sorted.next() else { return Ok(self.last.take()) };
            let (key, value) = entry?;
            if order == Ordering::Less {
                continue;
            }
            let key = &key[self.prefix.len()..];
            let (key, at) = key.split_at(key.len() - Self::AT);
            if self.emptied.as_deref().is_some_and(|emptied| at < emptied) {
                continue;
            }
            let before = self.last.take_if(|last| last.key == key);
            let change = self.change(key, &value, before)?;
            if let Some(last) = self.last.replace(change) {
                return Ok(Some(last));
            }
        }
    }

    /// A logged change after the one `before` it of the same record.
    fn change(&self, key: &[u8], logged: &[u8], before: Option<Change>) -> Result<Change, Failure> {
        let logged: Logged<'_> = serde_json::from_slice(logged).map_err(unreadable)?;
        let Some(row) = logged.row else { return Ok(Change { key: key.to_vec(), value: None }) };
        let mut row = row.get().as_bytes().to_vec();
        if !logged.unchanged.is_empty() {
            let before = match (before, self.base) {
                (Some(before), _) => before.value,
                (None, Some(base)) => tree::get(self.repo, base, key)?,
                (None, None) => None,
            };
            let before = before.ok_or_else(|| damaged("a change has nothing to change"))?;
            let before = before.content.bytes(self.repo, usize::MAX)?;
            row = patched(&row, &before, &logged.unchanged)?;
        }
        Ok(Change::put(key, [], Content::Inline(row)))
    }
}

impl Iterator for Folded<'_> {
    type Item = Result<Change, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// A row with some fields of the row before.
fn patched(row: &[u8], before: &[u8], unchanged: &[usize]) -> Result<Vec<u8>, Failure> {
    let mut writer = RowWriter::default();
    writer.begin();
    let mut before = RowReader::new(before);
    for (index, field) in RowReader::new(row).enumerate() {
        let old = before.next().transpose()?;
        match old.filter(|_| unchanged.contains(&index)) {
            Some(old) => writer.push(&old),
            None => writer.push(&field? as &Field<'_>),
        }
    }
    Ok(writer.end().to_vec())
}

fn damaged(reason: impl Into<String>) -> Failure {
    SelectError::Log { reason: reason.into() }.into()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: serde_json::Error) -> Failure {
    damaged(error.to_string())
}
