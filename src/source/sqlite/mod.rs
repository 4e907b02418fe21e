//! SQLite files: read in one transaction while the application goes on writing (in WAL mode), and
//! restored by row difference in another.

mod connection;
mod error;
mod position;
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
use self::position::{Position, State};
use self::schema::{Table, quote};
use super::key;
use super::record::{self, Field, KeyKind, RowWriter};
use super::sort::{BUDGET, Duplicates, Sorter};
use super::{Delta, Description, Kind, POSITION, Parent, Source, TreeInfo};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::tree::{Change, Changes, Content};

/// An SQLite file as a [`Source`].
pub struct Sqlite {
    name: String,
    path: PathBuf,
    exclude_tables: Vec<String>,
    /// A connection in which no transaction is open, and what it last saw.
    idle: Option<(Connection, Seen)>,
    session: Option<Session>,
}

/// An open transaction.
struct Session {
    db: Connection,
    tables: Vec<Table>,
    /// What a capture sees; none where a target holds the transaction open beyond
    /// [`Source::end`].
    seen: Option<Seen>,
    /// Whether that is what the parent has.
    unchanged: bool,
}

/// Which state of the database a capture reads, for the next one to compare.
struct Seen {
    /// By the files; `None` where they could not tell.
    state: Option<State>,
    /// By the connection, for which it changes with every commit of another one.
    data_version: i64,
    /// The name of the note that says the same to other processes.
    token: String,
}

impl Seen {
    /// Begins a transaction, and looks at what it sees.
    fn begin(db: &mut Connection) -> Result<Self, SqliteError> {
        const VERSION: &str = "PRAGMA data_version";
        // The first read of a connection makes the files that it needs.
        db.rows(VERSION, &[])?;
        let before = db.state()?;
        db.execute("BEGIN")?;
        // The first read of a transaction fixes the instant that all others see.
        let data_version = db.rows(VERSION, &[])?.first().map_or(0, |row| row.integer(0));
        let state = db.state()?.filter(|state| before.as_ref() == Some(state));
        Ok(Self { state, data_version, token: String::new() })
    }

    /// Whether this is what a capture saw that left `position`; `last` is what the same connection
    /// saw before.
    fn is_that_of(&self, position: &Position, last: Option<&Self>) -> bool {
        let Some(now) = &self.state else { return false };
        let by_connection = last.is_some_and(|last| {
            last.token == position.token
                && last.data_version == self.data_version
                && last.state.as_ref().is_some_and(|last| last.file == now.file)
        });
        by_connection || position.state.as_ref() == Some(now)
    }
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
        Ok(Self { name: name.into(), path, exclude_tables, idle: None, session: None })
    }

    /// What a statement that changes nothing answers: the first value of the first row as text;
    /// `None` where there is no row, or NULL in it.
    pub fn ask(&self, sql: &str) -> Result<Option<String>, SqliteError> {
        let mut db = Connection::open(&self.path, Access::Read)?;
        let answer = db.rows(sql, &[]);
        db.close()?;
        Ok(answer?.first().and_then(connection::Answer::first))
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

    /// A connection with a new transaction, what that sees, and what the connection saw before.
    fn open(&mut self) -> Result<(Connection, Seen, Option<Seen>), SqliteError> {
        if let Some(Session { db, .. }) = self.session.take() {
            db.close()?;
        }
        let (mut db, last) = match self.idle.take() {
            Some((db, last)) if db.is_in_place() => (db, Some(last)),
            other => {
                if let Some((db, _)) = other {
                    db.close()?;
                }
                (Connection::open(&self.path, Access::Read)?, None)
            }
        };
        let seen = Seen::begin(&mut db)?;
        Ok((db, seen, last))
    }

    /// Reads the catalogue within the open transaction; says also whether everything in it can be
    /// captured.
    fn describe(&mut self, ctx: &Context) -> Result<(Description, bool), Failure> {
        let file =
            self.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let excluded = self.exclude_tables.clone();
        let session = self.session()?;
        let catalog = schema::read(&mut session.db, &file, &excluded)?;
        let complete = catalog.hidden.is_empty();
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
        let header = catalog.header.to_json();
        Ok((Description { header, trees, ..Description::default() }, complete))
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
        parent: Option<&dyn Parent>,
        ctx: &Context,
    ) -> Result<Description, Failure> {
        // Within a restore, its own transaction is read.
        if self.session.as_ref().is_some_and(|session| session.seen.is_none()) {
            return Ok(self.describe(ctx)?.0);
        }
        let options = record::hash_json(&self.exclude_tables);
        let parent = parent.map(Parent::description).transpose()?.and_then(|description| {
            let position = Position::of_note(description.notes.get(POSITION)?)?;
            (position.options == options).then_some((description, position))
        });
        let (db, mut seen, last) = self.open()?;
        if let Some((parent, position)) = parent
            && seen.is_that_of(&position, last.as_ref())
        {
            seen.token.clone_from(&position.token);
            self.session =
                Some(Session { db, tables: Vec::new(), seen: Some(seen), unchanged: true });
            let notes = [(POSITION.to_owned(), position.to_note())].into();
            return Ok(Description { aids: Vec::new(), notes, ..parent });
        }
        let state = seen.state.clone().filter(|state| state.is_settled(ctx.clock.now()));
        let position = Position::new(options, state)?;
        seen.token.clone_from(&position.token);
        self.session = Some(Session { db, tables: Vec::new(), seen: Some(seen), unchanged: false });
        let (mut description, complete) = self.describe(ctx)?;
        // What cannot be captured is to be told every time.
        if complete {
            description.notes.insert(POSITION.to_owned(), position.to_note());
        }
        Ok(description)
    }

    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        _parent: Option<&'a dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        let session = self.session()?;
        if session.unchanged {
            return Ok(Delta::SinceParent(Box::new(std::iter::empty())));
        }
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
        // Within a restore, its transaction goes on.
        if let Some(Session { mut db, seen: Some(seen), .. }) =
            self.session.take_if(|session| session.seen.is_some())
        {
            db.execute("ROLLBACK")?;
            self.idle = Some((db, seen));
        }
        Ok(())
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        if let Some((db, _)) = self.idle.take() {
            // A connection that has only read has nothing to lose.
            drop(db.close());
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
