//! The rows of a table in the order of their keys: from the server where it can sort that way,
//! else through an external sort.

use std::vec;

use bytes::Bytes;

use super::super::key;
use super::super::record::{Form, KeyKind, RowWriter};
use super::super::sort::{BUDGET, Duplicates, SortError, Sorter, push_keyless};
use super::catalog::Table;
use super::connect::{CopyOut, Db};
use super::copytext::row_of_line;
use super::error::PostgresError;
use crate::context::Context;
use crate::hint::Failure;
use crate::tree::{Change, Changes, Content};

/// All rows of a table, as changes against an empty tree.
pub(super) fn rows<'a>(
    db: &'a mut Db,
    table: &Table,
    encoding: &str,
    ctx: &'a Context,
) -> Result<Changes<'a>, Failure> {
    let order = table.server_order(encoding);
    let sql = format!(
        "COPY (SELECT {} FROM ONLY {} {}) TO STDOUT",
        table.stored("").join(", "),
        table.sql(),
        order.as_deref().unwrap_or_default()
    );
    let lines = Lines::new(db.copy_out(&format!("reading table {}", table.tree), &sql)?);
    let ordered = Ordered { lines, rows: Rows::new(table), ctx, last: Vec::new(), over: false };
    if order.is_some() { Ok(Box::new(ordered)) } else { ordered.sort(table.header.key_kind) }
}

/// Lines on their way from the server.
pub(super) struct Lines<'a> {
    stream: CopyOut<'a>,
    batch: vec::IntoIter<Bytes>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(stream: CopyOut<'a>) -> Self {
        Self { stream, batch: Vec::new().into_iter() }
    }

    /// The next line, its newline included: "always one per row" (PostgreSQL manual, "Message
    /// Flow", "COPY Operations").
    pub(super) fn next(&mut self, ctx: &Context) -> Result<Option<Bytes>, Failure> {
        if self.batch.len() == 0 {
            ctx.check_cancelled()?;
            self.batch = self.stream.next()?.into_iter();
        }
        Ok(self.batch.next())
    }
}

/// Turns the lines of one table into rows.
pub(super) struct Rows {
    tree: String,
    forms: Vec<Form>,
    key_fields: Vec<usize>,
    writer: RowWriter,
    scratch: Vec<u8>,
}

impl Rows {
    pub(super) fn new(table: &Table) -> Self {
        Self {
            tree: table.tree.clone(),
            forms: table.forms(),
            key_fields: table.header.key_fields().unwrap_or_default(),
            writer: RowWriter::default(),
            scratch: Vec::new(),
        }
    }

    /// The row of a line.
    pub(super) fn row(&mut self, line: &[u8]) -> Result<&[u8], PostgresError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let row = row_of_line(line, &self.forms, &mut self.scratch, &mut self.writer);
        row.ok_or_else(|| PostgresError::Answer {
            doing: format!("reading table {}", self.tree),
            reason: "a line does not fit the columns".to_owned(),
        })
    }

    /// The key and the row of a line.
    fn entry(&mut self, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), PostgresError> {
        let row = self.row(line)?.to_vec();
        let mut key = Vec::with_capacity(16);
        key::push_of_row(&mut key, &row, &self.key_fields)
            .map_err(|source| PostgresError::Row { table: self.tree.clone(), source })?;
        Ok((key, row))
    }
}

/// Rows that the server has sorted by their keys. It is checked that they are.
struct Ordered<'a> {
    lines: Lines<'a>,
    rows: Rows,
    ctx: &'a Context,
    last: Vec<u8>,
    over: bool,
}

impl Ordered<'_> {
    fn step(&mut self) -> Result<Option<Change>, Failure> {
        let Some(line) = self.lines.next(self.ctx)? else { return Ok(None) };
        let (key, row) = self.rows.entry(&line)?;
        // No key is empty, so the first one is always greater.
        if key <= self.last {
            return Err(PostgresError::Order { table: self.rows.tree.clone() }.into());
        }
        self.last.clone_from(&key);
        Ok(Some(Change::put(key, Vec::new(), Content::Inline(row))))
    }

    fn sort<'s>(mut self, kind: KeyKind) -> Result<Changes<'s>, Failure> {
        let keyed = kind == KeyKind::Primary;
        let mut sorter =
            Sorter::new(BUDGET, if keyed { Duplicates::Refuse } else { Duplicates::Number });
        while let Some(line) = self.lines.next(self.ctx)? {
            if keyed {
                let (key, row) = self.rows.entry(&line)?;
                sorter.push(&key, &row)?;
            } else {
                push_keyless(&mut sorter, self.rows.row(&line)?)?;
            }
        }
        let change = |entry: Result<(Vec<u8>, Vec<u8>), SortError>| {
            let (key, row) = entry?;
            Ok(Change::put(key, Vec::new(), Content::Inline(row)))
        };
        Ok(Box::new(sorter.finish()?.map(change)))
    }
}

impl Iterator for Ordered<'_> {
    type Item = Result<Change, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let step = self.step();
        self.over = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}
