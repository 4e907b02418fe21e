//! SQLite files: read in one transaction while the application goes on writing (in WAL mode), and
//! restored by row difference in another.

mod connection;
mod error;
mod schema;
mod statement;
mod target;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

pub use error::SqliteError;
pub use target::SqliteTarget;

use self::connection::{Access, Connection, field};
use self::schema::{Table, quote};
use super::key;
use super::record::{Field, KeyKind, RowWriter};
use super::sort::{BUDGET, Duplicates, Sorter};
use super::{Delta, Description, Kind, Parent, Source, TreeInfo};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::tree::{Change, Changes, Content};

/// An SQLite file as a [`Source`].
pub struct Sqlite {
    name: String,
    path: PathBuf,
    exclude_tables: Vec<String>,
    session: Option<Session>,
}

/// An open transaction.
struct Session {
    db: Connection,
    tables: Vec<Table>,
    /// Whether a target holds it open beyond [`Source::end`].
    held: bool,
}

impl Sqlite {
    /// The file that `url` names: `sqlite:///absolute/path`, `sqlite://relative/path` or a path.
    /// The rows of excluded tables are left out; their structure is not.
    pub fn new(
        name: impl Into<String>,
        url: &str,
        exclude_tables: Vec<String>,
    ) -> Result<Self, SqliteError> {
        let path = path_of(url)?;
        Ok(Self { name: name.into(), path, exclude_tables, session: None })
    }

    /// Whether a URL is for this source.
    pub fn accepts(url: &str) -> bool {
        url.starts_with("sqlite:")
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn session(&mut self) -> Result<&mut Session, SqliteError> {
        self.session.as_mut().ok_or(SqliteError::NotBegun)
    }

    /// Reads the catalogue within the open transaction.
    fn describe(&mut self, ctx: &Context) -> Result<Description, Failure> {
        let file =
            self.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let excluded = self.exclude_tables.clone();
        let session = self.session()?;
        let catalog = schema::read(&mut session.db, &file, &excluded)?;
        for (table, reason) in catalog.hidden {
            ctx.report(Event::Skipped { item: table, reason: reason.to_owned() });
        }
        let mut trees = Vec::with_capacity(catalog.tables.len());
        for table in &catalog.tables {
            trees.push(TreeInfo {
                name: table.tree.clone(),
                header: table.header.to_json(),
                estimate: estimate(&mut session.db, table)?,
            });
        }
        session.tables = catalog.tables;
        Ok(Description { header: catalog.header.to_json(), trees, ..Description::default() })
    }
}

impl Source for Sqlite {
    fn kind(&self) -> Kind {
        Kind::Database
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn begin(
        &mut self,
        _parent: Option<&dyn Parent>,
        ctx: &Context,
    ) -> Result<Description, Failure> {
        if !self.session.as_ref().is_some_and(|session| session.held) {
            let mut db = Connection::open(&self.path, Access::Read)?;
            db.execute("BEGIN")?;
            self.session = Some(Session { db, tables: Vec::new(), held: false });
        }
        // The first read fixes the instant that all others see.
        self.describe(ctx)
    }

    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        _parent: Option<&'a dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        let session = self.session()?;
        let table = session
            .tables
            .iter()
            .find(|table| table.tree == tree.name)
            .ok_or_else(|| SqliteError::NoTable { table: tree.name.clone() })?;
        ctx.phase(format!("reading table {}", tree.name), tree.estimate);
        let records = Records::new(&mut session.db, table);
        Ok(Delta::Everything(if table.ordered {
            Box::new(records.map(|record| record.map(put)))
        } else {
            sorted(records)?
        }))
    }

    fn end(&mut self) -> Result<(), Failure> {
        match self.session.take_if(|session| !session.held) {
            Some(session) => Ok(session.db.close()?),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite")
            .field("name", &self.name)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

type Record = (Vec<u8>, Vec<u8>);

fn put((key, row): Record) -> Change {
    Change::put(key, Vec::new(), Content::Inline(row))
}

/// All records in the order of their keys, where the file cannot give that.
fn sorted<'a>(
    records: impl Iterator<Item = Result<Record, Failure>>,
) -> Result<Changes<'a>, Failure> {
    let mut sorter = Sorter::new(BUDGET, Duplicates::Refuse);
    for record in records {
        let (key, row) = record?;
        sorter.push(&key, &row)?;
    }
    let sorted = sorter.finish()?;
    Ok(Box::new(sorted.map(|record| Ok(put(record?)))))
}

/// The rows of a table as keys and rows.
struct Records<'a> {
    rows: connection::Rows<'a>,
    table: &'a Table,
    /// Which columns of the answer make the key.
    key: Vec<usize>,
    /// How many columns of the answer make the row.
    width: usize,
    writer: RowWriter,
}

impl<'a> Records<'a> {
    fn new(db: &'a mut Connection, table: &'a Table) -> Self {
        let mut columns = table.columns();
        let width = columns.len();
        let key = if table.header.key_kind == KeyKind::Rowid {
            columns.extend(table.key_columns());
            vec![width]
        } else {
            table.header.key_fields().unwrap_or_default()
        };
        let mut sql = format!("SELECT {} FROM {}", columns.join(", "), quote(&table.header.table));
        if table.ordered {
            sql.push_str(" ORDER BY ");
            sql.push_str(&table.key_columns().join(", "));
        }
        let rows = db.stream(sql);
        let writer = RowWriter::default();
        Self { rows, table, key, width, writer }
    }

    fn record(&mut self, row: &SqliteRow) -> Result<Record, Failure> {
        let error = |source| SqliteError::Value { table: self.table.tree.clone(), source };
        self.writer.begin();
        let mut key = Vec::new();
        let mut fields: Vec<Field<'_>> = Vec::with_capacity(row.len());
        for index in 0..row.len() {
            fields.push(field(row, index).map_err(error)?);
        }
        for field in &fields[..self.width] {
            self.writer.push(field);
        }
        for index in &self.key {
            key::push(&mut key, &fields[*index]);
        }
        let row = self.writer.end().to_vec();
        Ok((key, row))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        Some(row.map_err(Failure::from).and_then(|row| self.record(&row)))
    }
}

/// The highest row number: as good a guess as any, and quick.
fn estimate(db: &mut Connection, table: &Table) -> Result<Option<u64>, SqliteError> {
    let by_number = table.header.key_kind == KeyKind::Rowid || table.has_rowid_field();
    let column = match (by_number, &table.key_columns()[..]) {
        (true, _) => table.rowid().map(str::to_owned),
        (false, [only]) if table.ordered => Some(only.clone()),
        _ => None,
    };
    let Some(column) = column else { return Ok(None) };
    let sql = format!("SELECT max({column}) FROM {}", quote(&table.header.table));
    let highest = db.rows(&sql, &[])?.first().map_or(0, |row| row.integer(0));
    Ok(u64::try_from(highest).ok())
}

fn path_of(url: &str) -> Result<PathBuf, SqliteError> {
    let path = match url.strip_prefix("sqlite:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None if url.contains("://") => "",
        None => url,
    };
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if path.is_empty() || path == ":memory:" {
        return Err(SqliteError::Url { url: url.to_owned() });
    }
    Ok(PathBuf::from(path))
}
