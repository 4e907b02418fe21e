//! A connection to an SQLite file, made synchronous: sqlx behind a runtime of its own.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, ConnectOptions as _, Decode, Row as _, Sqlite, SqliteConnection,
    TypeInfo as _, ValueRef as _,
};
use tokio::runtime::Runtime;

use super::SqliteError;
use super::position::{Files, State};
use crate::source::record::Field;

/// How long to wait for another connection's lock.
const BUSY: Duration = Duration::from_secs(30);

/// Memory for pages of a restore, KiB. Without a write-ahead log, changed pages that do not fit are
/// written before the commit, and from then on nobody can read.
const CACHE: u32 = 64 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading; the file must be there.
    Read,
    /// Restoring; the file is made if it is missing. Constraints between rows are not enforced:
    /// the rows were consistent together when they were captured, but pass through states in
    /// which they are not.
    Restore,
}

pub(super) struct Connection {
    runtime: Runtime,
    inner: SqliteConnection,
    path: PathBuf,
    /// Closed last.
    files: Option<Arc<Files>>,
}

impl Connection {
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, SqliteError> {
        if access == Access::Read && !path.is_file() {
            return Err(SqliteError::Missing { path: path.to_owned() });
        }
        // A file from elsewhere may define views and triggers that call functions: those with
        // side effects are not for its schema.
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(access == Access::Restore)
            .busy_timeout(BUSY)
            .foreign_keys(false)
            .row_buffer_size(500)
            .pragma("trusted_schema", "OFF");
        options = match access {
            Access::Read => options.pragma("query_only", "ON"),
            Access::Restore => options
                .pragma("ignore_check_constraints", "ON")
                .pragma("cache_size", format!("-{CACHE}")),
        };
        let files = Files::open(path)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| SqliteError::Runtime { source })?;
        let inner = runtime
            .block_on(options.connect())
            .map_err(|source| SqliteError::Open { path: path.to_owned(), source })?;
        let files = files.map_or_else(|| Files::open(path), |files| Ok(Some(files)))?;
        Ok(Self { runtime, inner, path: path.to_owned(), files })
    }

    /// What the files say of the state that a new transaction would see; `None` where they cannot
    /// tell.
    pub(super) fn state(&self) -> Result<Option<State>, SqliteError> {
        self.files.as_ref().map_or(Ok(None), |files| files.state(&self.path))
    }

    /// Whether its path still names the file that was opened.
    pub(super) fn is_in_place(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.are_at(&self.path))
    }

    /// Closes the file, and waits until it is closed: a connection that is merely dropped holds its
    /// locks a little longer. An open transaction is rolled back.
    pub(super) fn close(self) -> Result<(), SqliteError> {
        let Self { runtime, inner, path, files: _held_until_the_end } = self;
        let closed = runtime.block_on(sqlx::Connection::close(inner));
        closed.map_err(|source| query_error(&path, "close", source))
    }

    /// Runs one statement, or several without arguments.
    pub(super) fn execute(&mut self, sql: &str) -> Result<(), SqliteError> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.inner);
        self.runtime.block_on(done).map_err(|source| self.error(sql, source))?;
        Ok(())
    }

    /// Runs one statement, and says how many rows it changed.
    pub(super) fn run(&mut self, sql: &str, fields: &[&Field<'_>]) -> Result<u64, SqliteError> {
        let arguments = arguments(fields).map_err(|source| self.error(sql, source))?;
        let done =
            sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments).execute(&mut self.inner);
        let done = self.runtime.block_on(done).map_err(|source| self.error(sql, source))?;
        Ok(done.rows_affected())
    }

    /// All rows of a short answer.
    pub(super) fn rows(&mut self, sql: &str, of: &[&str]) -> Result<Vec<Answer>, SqliteError> {
        let fields: Vec<Field<'_>> = of.iter().map(|text| Field::text(text)).collect();
        let arguments = arguments(&fields.iter().collect::<Vec<_>>())
            .map_err(|source| self.error(sql, source))?;
        let rows =
            sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments).fetch_all(&mut self.inner);
        let rows = self.runtime.block_on(rows).map_err(|source| self.error(sql, source))?;
        let answer = |row: &SqliteRow| {
            let fields = (0..row.len()).map(|i| field(row, i).map(Field::into_owned));
            fields.collect::<Result<_, _>>().map(Answer)
        };
        rows.iter().map(|row| answer(row).map_err(|source| self.error(sql, source))).collect()
    }

    /// The rows of an answer of any length, as they are asked for.
    pub(super) fn stream(&mut self, sql: String) -> Rows<'_> {
        let answer =
            sqlx::query(AssertSqlSafe(sql.clone())).persistent(false).fetch(&mut self.inner);
        Rows { runtime: &self.runtime, answer, path: &self.path, sql }
    }

    fn error(&self, sql: &str, source: sqlx::Error) -> SqliteError {
        query_error(&self.path, sql, source)
    }
}

/// One row of a short answer.
pub(super) struct Answer(Vec<Field<'static>>);

impl Answer {
    /// The first column as text; `None` where it is NULL.
    pub(super) fn first(&self) -> Option<String> {
        Some(match self.0.first()? {
            Field::Null => return None,
            Field::Boolean(value) => value.to_string(),
            Field::Integer(value) => value.to_string(),
            Field::Real(value) => value.to_string(),
            Field::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Field::Blob(bytes) => crate::id::hex(bytes),
        })
    }

    /// A column as text; empty where it is NULL or something else.
    pub(super) fn text(&self, column: usize) -> String {
        self.optional_text(column).unwrap_or_default()
    }

    /// A column as text, unless it is NULL or something else.
    pub(super) fn optional_text(&self, column: usize) -> Option<String> {
        match self.0.get(column) {
            Some(Field::Text(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// A column as integer; 0 where it is something else.
    pub(super) fn integer(&self, column: usize) -> i64 {
        match self.0.get(column) {
            Some(Field::Integer(value)) => *value,
            _ => 0,
        }
    }
}

pub(super) struct Rows<'a> {
    runtime: &'a Runtime,
    answer: BoxStream<'a, Result<SqliteRow, sqlx::Error>>,
    path: &'a Path,
    sql: String,
}

impl Iterator for Rows<'_> {
    type Item = Result<SqliteRow, SqliteError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.runtime.block_on(self.answer.next())?;
        Some(row.map_err(|source| query_error(self.path, &self.sql, source)))
    }
}

/// A value of a row by its storage class, whatever the column was declared as.
pub(super) fn field(row: &SqliteRow, index: usize) -> Result<Field<'_>, sqlx::Error> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(Field::Null);
    }
    let field = match value.type_info().name() {
        "INTEGER" => <i64 as Decode<Sqlite>>::decode(value).map(Field::Integer),
        "REAL" => <f64 as Decode<Sqlite>>::decode(value).map(Field::Real),
        "TEXT" => bytes(value).map(Field::Text),
        _ => bytes(value).map(Field::Blob),
    };
    field.map_err(sqlx::Error::Decode)
}

fn bytes<'a>(
    value: <Sqlite as sqlx::Database>::ValueRef<'a>,
) -> Result<Cow<'a, [u8]>, sqlx::error::BoxDynError> {
    <&[u8] as Decode<'a, Sqlite>>::decode(value).map(Cow::Borrowed)
}

/// The text of a parameter for this value: sqlx passes only UTF-8 as text, so that other text
/// is passed as a blob and cast, which takes the bytes as they are.
pub(super) fn placeholder(field: &Field<'_>) -> &'static str {
    match field {
        Field::Text(bytes) if str::from_utf8(bytes).is_err() => "CAST(? AS TEXT)",
        _ => "?",
    }
}

fn arguments(fields: &[&Field<'_>]) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for field in fields {
        let added = match field {
            Field::Null => arguments.add(None::<i64>),
            Field::Boolean(value) => arguments.add(i64::from(*value)),
            Field::Integer(value) => arguments.add(*value),
            Field::Real(value) => arguments.add(*value),
            Field::Text(bytes) => match str::from_utf8(bytes) {
                Ok(text) => arguments.add(text),
                Err(_not_utf8) => arguments.add(&**bytes),
            },
            Field::Blob(bytes) => arguments.add(&**bytes),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn query_error(path: &Path, sql: &str, source: sqlx::Error) -> SqliteError {
    // The beginning says what it was; rows never stand in it.
    let sql = sql.chars().take(80).collect();
    SqliteError::Query { path: path.to_owned(), sql, source }
}
