//! The transactions between two snapshots, one by one, so that a restore can stop at any of them.
//! They are kept as two aids of the later snapshot: when each was committed, and what it changed.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::record::{self, RowWriter};
use super::super::spool::Spool;
use super::catalog::Table;
use super::decoding::{Operation, RowChange};
use super::error::PostgresError;
use super::position::{Lsn, Visible};
use super::slot::field;
use crate::hint::Failure;
use crate::id::hex;
use crate::source::record::Field;
use crate::time::Timestamp;
use crate::tree::{Change, Changes, Content};

/// The aid with a [`Commit`] for each transaction, by its number in the order of commits.
pub(crate) const COMMITS: &str = "transactions/commits";
/// The aid with all [`Logged`] changes, by the number of the transaction and their own in it.
pub(crate) const CHANGES: &str = "transactions/changes";

/// When a transaction became visible to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// The lower half of its number.
    pub xid: u32,
    /// Where the log says so.
    pub lsn: String,
    /// When, by the server's clock.
    pub time: Timestamp,
}

impl Commit {
    /// The same as `lsn`, as a number.
    pub(crate) fn position(&self) -> Option<u64> {
        parse_lsn(&self.lsn)
    }
}

/// The position in the log that a text like `16/B374D848` means.
pub fn parse_lsn(text: &str) -> Option<u64> {
    text.parse::<Lsn>().ok().map(|Lsn(position)| position)
}

/// One change of one row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Logged<'a> {
    /// The tree of its table.
    #[serde(borrow)]
    pub table: std::borrow::Cow<'a, str>,
    /// The key of its record, in hexadecimal digits; empty where all records are gone.
    pub key: String,
    /// The record; none where it is gone.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub row: Option<&'a RawValue>,
    /// Whether this is all that is known: that something in the table changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Fields of `row` that are as they were: large values, which the log does not repeat.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchanged: Vec<usize>,
}

/// What is written down.
pub(super) enum Entry<'a> {
    Row { table: &'a Table, change: &'a RowChange<'a>, old: Option<Vec<u8>>, new: Option<Vec<u8>> },
    Truncate(&'a Table),
}

/// Gathers the transactions that a snapshot sees and its parent did not.
pub(super) struct Transactions {
    before: Option<Visible>,
    commits: Spool,
    changes: Spool,
    /// The transaction that is being read, if it is one of those.
    current: Option<u32>,
    /// The number of the transaction, and of the next change in it.
    number: (u32, u32),
    row: RowWriter,
}

impl Transactions {
    /// `before` is what the parent sees; without it nothing is gathered.
    pub(super) fn new(before: Option<Visible>) -> Self {
        Self {
            before,
            commits: Spool::new(),
            changes: Spool::new(),
            current: None,
            number: (0, 0),
            row: RowWriter::default(),
        }
    }

    /// A transaction begins, which the snapshot sees if it is given.
    pub(super) fn begin(&mut self, seen: Option<u32>) {
        let is_new = |xid: &u32| self.before.as_ref().is_some_and(|before| !before.sees(*xid));
        self.current = seen.filter(is_new);
    }

    pub(super) fn commit(&mut self, lsn: Lsn, time: &str) -> Result<(), Failure> {
        let Some(xid) = self.current.take() else { return Ok(()) };
        let time = timestamp(time).ok_or_else(|| PostgresError::Answer {
            doing: "reading the log of changes".to_owned(),
            reason: format!("`{time}` is no time"),
        })?;
        let commit = Commit { xid, lsn: lsn.to_string(), time };
        let number = self.number.0.to_be_bytes();
        self.commits.push(&number, Some(&record::json(&commit))).map_err(spool)?;
        self.number = (self.number.0 + 1, 0);
        Ok(())
    }

    /// Notes that a change of a table could not be told.
    pub(super) fn lose(&mut self, table: &Table) -> Result<(), Failure> {
        if self.current.is_none() {
            return Ok(());
        }
        let table = table.tree.as_str().into();
        self.log(&Logged { table, key: String::new(), row: None, lost: true, unchanged: vec![] })
    }

    pub(super) fn push(&mut self, entry: Entry<'_>) -> Result<(), Failure> {
        if self.current.is_none() {
            return Ok(());
        }
        match entry {
            Entry::Truncate(table) => self.write(table, &[], None),
            Entry::Row { table, change, old, new } => {
                let gone = old.filter(|old| new.as_ref() != Some(old));
                if let Some(gone) = &gone {
                    self.write(table, gone, None)?;
                }
                let (Some(new), Some(tuple)) = (new, &change.new) else { return Ok(()) };
                let unchanged = self.row_of(table, tuple);
                // The large value of a row whose key changed is under the key that it had.
                if unchanged.is_none() || gone.is_some() && unchanged != Some(Vec::new()) {
                    return self.lose(table);
                }
                debug_assert!(change.operation != Operation::Delete);
                self.write(table, &new, unchanged)
            }
        }
    }

    /// Makes the record of a tuple, and says which of its fields are unchanged; `None` if the
    /// table has other columns by now.
    fn row_of(&mut self, table: &Table, tuple: &super::decoding::Tuple<'_>) -> Option<Vec<usize>> {
        let mut unchanged = Vec::new();
        self.row.begin();
        for (index, column) in table.header.stored_columns().enumerate() {
            let (_, datum) = tuple.iter().find(|(name, _)| *name == column.name)?;
            if *datum == super::decoding::Datum::Unchanged {
                unchanged.push(index);
                self.row.push(&Field::Null);
            } else {
                self.row.push(&field(datum, column.form())?);
            }
        }
        Some(unchanged)
    }

    fn write(
        &mut self,
        table: &Table,
        key: &[u8],
        unchanged: Option<Vec<usize>>,
    ) -> Result<(), Failure> {
        let row = unchanged.is_some().then(|| self.row.end().to_vec());
        let row = match &row {
            Some(row) => Some(
                serde_json::from_slice(row)
                    .map_err(|error| PostgresError::Spool { source: io::Error::other(error) })?,
            ),
            None => None,
        };
        let table = table.tree.as_str().into();
        let unchanged = unchanged.unwrap_or_default();
        self.log(&Logged { table, key: hex(key), row, lost: false, unchanged })
    }

    fn log(&mut self, logged: &Logged<'_>) -> Result<(), Failure> {
        let (transaction, number) = self.number;
        let at = [transaction.to_be_bytes(), number.to_be_bytes()].concat();
        self.changes.push(&at, Some(&record::json(logged))).map_err(spool)?;
        self.number.1 += 1;
        Ok(())
    }

    /// Whether there are any.
    pub(super) const fn any(&self) -> bool {
        self.number.0 > 0
    }

    /// The entries of an aid. Each can be had once.
    pub(super) fn aid(&mut self, name: &str) -> Result<Changes<'static>, Failure> {
        let list = if name == COMMITS { &mut self.commits } else { &mut self.changes };
        let entries = std::mem::replace(list, Spool::new()).into_read().map_err(spool)?;
        Ok(Box::new(entries.map(|entry| {
            let (key, value) = entry.map_err(spool)?;
            Ok(Change::put(key, [], Content::Inline(value.unwrap_or_default())))
        })))
    }
}

fn spool(source: io::Error) -> PostgresError {
    PostgresError::Spool { source }
}

/// A time as the server prints it in UTC: `2026-11-21 16:42:13.867609+00`.
fn timestamp(text: &str) -> Option<Timestamp> {
    let text = text.strip_suffix("+00")?.replacen(' ', "T", 1);
    crate::time::parse_time(&format!("{text}Z"), Timestamp::new(0, 0)).ok()
}
