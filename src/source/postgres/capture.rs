//! The rows of a table in the order of their keys: from the server where it can sort that way,
//! else through an external sort.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;

use super::super::key;
use super::super::record::{Field, Form, KeyKind, RowWriter};
use super::super::sort::{BUDGET, Duplicates, SortError, Sorter, push_keyless};
use super::catalog::{Table, ident};
use super::connect::{CopyOut, Db, Login};
use super::copytext::row_of_line;
use super::error::PostgresError;
use super::ranges::{self, Ranges};
use super::slot::Keys;
use crate::context::Context;
use crate::hint::Failure;
use crate::tree::{Change, Changes, Content};

/// All rows of a table, as changes against an empty tree: through several connections where the
/// table is large, the server can sort it, and `shared` names a snapshot that they can share.
pub(super) fn rows<'a>(
    db: &'a mut Db,
    table: &Table,
    encoding: &str,
    shared: Option<(&Arc<Login>, &str)>,
    ctx: &'a Context,
) -> Result<Changes<'a>, Failure> {
    let order = table.server_order(encoding);
    let plan = match (&order, shared) {
        (Some(order), Some((login, snapshot))) => {
            ranges::plan(db, login, snapshot, table, order, ctx)?
        }
        _ => None,
    };
    if let Some(plan) = plan {
        let feed = Feed::Ranges(plan.start()?);
        let tree = table.tree.clone();
        return Ok(Box::new(Ordered { feed, tree, ctx, last: Vec::new(), over: false }));
    }
    let sql = format!(
        "COPY (SELECT {} FROM ONLY {} {}) TO STDOUT",
        table.stored("").join(", "),
        table.sql(),
        order.as_deref().unwrap_or_default()
    );
    let lines = Lines::new(db.copy_out(&format!("reading table {}", table.tree), &sql)?);
    let rows = Rows::new(table);
    if order.is_none() {
        return sort(lines, rows, table.header.key_kind, ctx);
    }
    let (feed, tree) = (Feed::Lines(lines, rows), table.tree.clone());
    Ok(Box::new(Ordered { feed, tree, ctx, last: Vec::new(), over: false }))
}

/// What a statement gives that sorts by the key of a table, as changes against an empty tree.
pub(super) fn in_order<'a>(
    db: &'a mut Db,
    table: &Table,
    sql: &str,
    ctx: &'a Context,
) -> Result<Changes<'a>, PostgresError> {
    let lines = Lines::new(db.copy_out(&format!("reading table {}", table.tree), sql)?);
    let (feed, tree) = (Feed::Lines(lines, Rows::new(table)), table.tree.clone());
    Ok(Box::new(Ordered { feed, tree, ctx, last: Vec::new(), over: false }))
}

/// The rows with some keys as they are now, and the absence of those that are not there.
pub(super) fn again<'a>(
    db: &'a mut Db,
    table: Table,
    keys: Keys<'a>,
    ctx: &'a Context,
) -> impl Iterator<Item = Result<Change, Failure>> + 'a {
    let mut again = Again { db, keys, ctx, rows: Rows::new(&table), table };
    let mut batch = Vec::new().into_iter();
    let mut over = false;
    std::iter::from_fn(move || {
        if batch.len() == 0 && !over {
            match again.batch() {
                Ok(changes) => batch = changes.into_iter(),
                Err(error) => {
                    over = true;
                    return Some(Err(error));
                }
            }
        }
        batch.next().map(Ok)
    })
}

/// Rows on their way from the server, some keys at a time.
struct Again<'a> {
    db: &'a mut Db,
    keys: Keys<'a>,
    ctx: &'a Context,
    rows: Rows,
    table: Table,
}

impl Again<'_> {
    /// How many keys are asked for at once.
    const BATCH: usize = 256;

    fn batch(&mut self) -> Result<Vec<Change>, Failure> {
        let keys = self.keys.by_ref().take(Self::BATCH).collect::<Result<Vec<_>, Failure>>()?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let header = &self.table.header;
        let damaged = || PostgresError::Answer {
            doing: format!("reading table {}", self.table.tree),
            reason: "a key is damaged".to_owned(),
        };
        let type_of = |name: &String| {
            header.columns.iter().find(|c| c.name == *name).map(|c| c.declared_type.as_str())
        };
        let types: Vec<&str> =
            header.key.iter().map(type_of).collect::<Option<_>>().ok_or_else(damaged)?;
        let literals = |key: &Vec<u8>| {
            let fields = key::decode(key)?;
            let literals = fields.iter().zip(&types).map(|(field, of)| literal(field, of));
            Some(format!("({})", literals.collect::<Option<Vec<_>>>()?.join(", ")))
        };
        let values: Option<Vec<String>> = keys.iter().map(literals).collect();
        let columns: Vec<String> = header.key.iter().map(|name| ident(name)).collect();
        let pairs = columns.iter().zip(&self.table.key_operators);
        let same: Vec<String> = pairs.map(|(c, equals)| format!("t.{c} {equals} k.{c}")).collect();
        let sql = format!(
            "COPY (SELECT {} FROM ONLY {} AS t JOIN (VALUES {}) AS k({}) ON {}) TO STDOUT",
            self.table.stored("t.").join(", "),
            self.table.sql(),
            values.ok_or_else(damaged)?.join(", "),
            columns.join(", "),
            same.join(" AND ")
        );
        let doing = format!("reading table {}", self.table.tree);
        let mut lines = Lines::new(self.db.copy_out(&doing, &sql)?);
        let mut found = BTreeMap::new();
        while let Some(line) = lines.next(self.ctx)? {
            let (key, row) = self.rows.entry(&line)?;
            found.insert(key, row);
        }
        Ok(keys
            .into_iter()
            .map(|key| match found.remove(&key) {
                Some(row) => Change::put(key, Vec::new(), Content::Inline(row)),
                None => Change { key, value: None },
            })
            .collect())
    }
}

/// A value of a key as it stands in a statement; `None` for those that only SQLite has.
fn literal(field: &Field<'_>, of: &str) -> Option<String> {
    Some(match field {
        Field::Null => format!("NULL::{of}"),
        Field::Boolean(value) => format!("{value}::{of}"),
        Field::Integer(value) => format!("({value})::{of}"),
        Field::Text(bytes) => {
            format!("'{}'::{of}", str::from_utf8(bytes).ok()?.replace('\'', "''"))
        }
        Field::Real(_) | Field::Blob(_) => return None,
    })
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
    pub(super) fn entry(&mut self, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), PostgresError> {
        let row = self.row(line)?.to_vec();
        let mut key = Vec::with_capacity(16);
        key::push_of_row(&mut key, &row, &self.key_fields)
            .map_err(|source| PostgresError::Row { table: self.tree.clone(), source })?;
        Ok((key, row))
    }
}

/// Where sorted records come from.
enum Feed<'a> {
    Lines(Lines<'a>, Rows),
    Ranges(Ranges),
}

/// Rows that the server has sorted by their keys. It is checked that they are.
struct Ordered<'a> {
    feed: Feed<'a>,
    tree: String,
    ctx: &'a Context,
    last: Vec<u8>,
    over: bool,
}

impl Ordered<'_> {
    fn step(&mut self) -> Result<Option<Change>, Failure> {
        let entry = match &mut self.feed {
            Feed::Lines(lines, rows) => match lines.next(self.ctx)? {
                Some(line) => Some(rows.entry(&line)?),
                None => None,
            },
            Feed::Ranges(ranges) => ranges.next(self.ctx)?,
        };
        let Some((key, row)) = entry else { return Ok(None) };
        // No key is empty, so the first one is always greater.
        if key <= self.last {
            return Err(PostgresError::Order { table: self.tree.clone() }.into());
        }
        self.last.clone_from(&key);
        Ok(Some(Change::put(key, Vec::new(), Content::Inline(row))))
    }
}

/// Sorts what the server cannot.
fn sort<'s>(
    mut lines: Lines<'_>,
    mut rows: Rows,
    kind: KeyKind,
    ctx: &Context,
) -> Result<Changes<'s>, Failure> {
    let keyed = kind == KeyKind::Primary;
    let mut sorter =
        Sorter::new(BUDGET, if keyed { Duplicates::Refuse } else { Duplicates::Number });
    while let Some(line) = lines.next(ctx)? {
        if keyed {
            let (key, row) = rows.entry(&line)?;
            sorter.push(&key, &row)?;
        } else {
            push_keyless(&mut sorter, rows.row(&line)?)?;
        }
    }
    let change = |entry: Result<(Vec<u8>, Vec<u8>), SortError>| {
        let (key, row) = entry?;
        Ok(Change::put(key, Vec::new(), Content::Inline(row)))
    };
    Ok(Box::new(sorter.finish()?.map(change)))
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
