//! Deletes and inserts many rows with few statements.

use std::io::Read as _;

use super::SqliteError;
use super::connection::{Connection, placeholder};
use super::schema::{Table, quote};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::Applied;
use crate::source::key;
use crate::source::record::{Field, KeyKind, RowReader};
use crate::tree::{Change, Content};

/// Rows in one statement.
const BATCH_ROWS: usize = 200;
/// Parameters in one statement: SQLite's default limit is 32,766.
const BATCH_PARAMETERS: usize = 30_000;
/// Bytes of rows in one statement.
const BATCH_BYTES: usize = 1 << 20;

/// Gathers rows of one table into statements.
pub(super) struct Writer<'a> {
    db: &'a mut Connection,
    table: &'a Table,
    key_columns: Vec<String>,
    columns: Vec<String>,
    /// Keys to delete for good, then those whose row is replaced.
    gone: Vec<Vec<Field<'static>>>,
    replaced: Vec<Vec<Field<'static>>>,
    rows: Vec<Vec<Field<'static>>>,
    bytes: usize,
    pub(super) inserted: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(db: &'a mut Connection, table: &'a Table) -> Self {
        let key_columns = table.key_columns();
        let mut columns = table.columns();
        if table.header.key_kind == KeyKind::Rowid {
            columns.extend(table.key_columns());
        }
        let (gone, replaced, rows) = (Vec::new(), Vec::new(), Vec::new());
        Self { db, table, key_columns, columns, gone, replaced, rows, bytes: 0, inserted: 0 }
    }

    pub(super) fn delete(
        &mut self,
        change: &Change,
        applied: &mut Applied,
    ) -> Result<(), SqliteError> {
        let key = self.key(&change.key)?;
        let keys = if change.value.is_some() { &mut self.replaced } else { &mut self.gone };
        keys.push(key);
        if (keys.len() + 1) * self.key_columns.len() > BATCH_PARAMETERS || keys.len() == BATCH_ROWS
        {
            self.flush_deletes(applied)?;
        }
        Ok(())
    }

    pub(super) fn flush_deletes(&mut self, applied: &mut Applied) -> Result<(), SqliteError> {
        let (gone, replaced) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.replaced));
        applied.deleted += self.delete_keys(&gone)?;
        let updated = self.delete_keys(&replaced)?;
        applied.updated += updated;
        applied.inserted += (replaced.len() as u64).saturating_sub(updated);
        Ok(())
    }

    fn delete_keys(&mut self, keys: &[Vec<Field<'static>>]) -> Result<u64, SqliteError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let table = quote(&self.table.header.table);
        let sql = match &self.key_columns[..] {
            [only] => {
                let list: Vec<_> = keys.iter().flatten().map(placeholder).collect();
                format!("DELETE FROM {table} WHERE {only} IN ({})", list.join(","))
            }
            columns => format!(
                "DELETE FROM {table} WHERE ({}) IN (VALUES {})",
                columns.join(","),
                tuples(keys)
            ),
        };
        self.db.run(&sql, &keys.iter().flatten().collect::<Vec<_>>())
    }

    pub(super) fn insert(&mut self, change: Change, ctx: &Context) -> Result<(), Failure> {
        let Some(value) = change.value else { return Ok(()) };
        let bytes = read(&self.table.tree, value.content)?;
        let row = RowReader::new(&bytes).map(|field| field.map(Field::into_owned));
        let mut row = row.collect::<Result<Vec<_>, _>>()?;
        if self.table.header.key_kind == KeyKind::Rowid {
            row.extend(self.key(&change.key)?);
        }
        if row.len() != self.columns.len() {
            return Err(SqliteError::Record { table: self.table.tree.clone() }.into());
        }
        self.bytes += bytes.len();
        self.rows.push(row);
        if self.rows.len() == BATCH_ROWS
            || (self.rows.len() + 1) * self.columns.len() > BATCH_PARAMETERS
            || self.bytes > BATCH_BYTES
        {
            self.flush_inserts(ctx)?;
        }
        Ok(())
    }

    pub(super) fn flush_inserts(&mut self, ctx: &Context) -> Result<(), SqliteError> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let done = self.insert_rows(&rows, self.columns.len());
        if let Err(error) = done {
            if !self.table.has_rowid_field() {
                return Err(error);
            }
            // The row number is only there to keep the order. Where only some records are
            // restored, another row may have it by now.
            for row in &rows {
                let row = std::slice::from_ref(row);
                if self.insert_rows(row, self.columns.len()).is_err() {
                    self.insert_rows(row, self.columns.len() - 1)?;
                }
            }
        }
        let (items, bytes) = (rows.len() as u64, std::mem::take(&mut self.bytes) as u64);
        self.inserted += items;
        ctx.report(Event::Progress { items, bytes });
        Ok(())
    }

    /// Inserts the first `width` fields of each row.
    fn insert_rows(
        &mut self,
        rows: &[Vec<Field<'static>>],
        width: usize,
    ) -> Result<(), SqliteError> {
        let rows: Vec<&[Field<'static>]> = rows.iter().map(|row| &row[..width]).collect();
        let sql = format!(
            "INSERT INTO {} ({}) VALUES {}",
            quote(&self.table.header.table),
            self.columns[..width].join(","),
            tuples(&rows)
        );
        let fields: Vec<_> = rows.iter().flat_map(|row| row.iter()).collect();
        self.db.run(&sql, &fields).map(|_| ())
    }

    fn key(&self, key: &[u8]) -> Result<Vec<Field<'static>>, SqliteError> {
        key::decode(key)
            .filter(|fields| fields.len() == self.key_columns.len())
            .ok_or_else(|| SqliteError::Record { table: self.table.tree.clone() })
    }
}

/// `(?,?),(?,?)` for rows of values.
fn tuples<'a>(rows: &[impl AsRef<[Field<'a>]>]) -> String {
    let mut text = String::new();
    for row in rows {
        text.push_str(if text.is_empty() { "(" } else { ",(" });
        for (index, field) in row.as_ref().iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(placeholder(field));
        }
        text.push(')');
    }
    text
}

fn read(table: &str, content: Content) -> Result<Vec<u8>, SqliteError> {
    let error = |source| SqliteError::Content { table: table.to_owned(), source };
    match content {
        Content::Inline(bytes) => Ok(bytes),
        Content::Reader(mut reader) => {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(error)?;
            Ok(bytes)
        }
        Content::Stored(_) => Err(error(std::io::Error::other("it is still in the repository"))),
    }
}
