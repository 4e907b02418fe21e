//! What can go wrong with an SQLite file, and what to do then.

use std::path::PathBuf;

use crate::hint::{ErrorKind, Hint};
use crate::source::record::Engine;

/// Why an SQLite file could not be captured or restored.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The URL names no file.
    #[error("`{url}` does not name an SQLite file")]
    Url {
        /// The URL.
        url: String,
    },
    /// There is nothing to read.
    #[error("there is no SQLite file at {}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// No runtime for the driver.
    #[error("cannot start the runtime of the database driver")]
    Runtime {
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// A statement failed.
    #[error("{} refused `{sql}`", path.display())]
    Query {
        /// The file.
        path: PathBuf,
        /// The beginning of the statement.
        sql: String,
        /// Why.
        source: sqlx::Error,
    },
    /// A value could not be read.
    #[error("a value of table {table} cannot be read")]
    Value {
        /// The table.
        table: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The engine asked before beginning.
    #[error("no transaction is open")]
    NotBegun,
    /// The engine asked for a table that was not described.
    #[error("there is no table {table}")]
    NoTable {
        /// Its tree.
        table: String,
    },
    /// The snapshot is of another kind of database.
    #[error("the snapshot is of {engine}, and cannot be restored into an SQLite file")]
    Engine {
        /// Which.
        engine: Engine,
    },
    /// A statement of the snapshot is not one that makes the object.
    #[error("refused: the statement for {kind} {name} does more than create it")]
    Statement {
        /// `table`, `index`, `view` or `trigger`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A record has not the fields that its table has.
    #[error("a record of table {table} does not have the fields of the table")]
    Record {
        /// The table.
        table: String,
    },
    /// A record's content could not be fetched.
    #[error("cannot fetch a record of table {table}")]
    Content {
        /// The table.
        table: String,
        /// Why.
        source: std::io::Error,
    },
    /// The files could not be looked at.
    #[error("cannot look at the files of {}", path.display())]
    Look {
        /// The database.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system gave no random number.
    #[error("the system gives no random numbers")]
    Random {
        /// Why.
        error: getrandom::Error,
    },
    /// A file could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl SqliteError {
    /// Whether another connection holds the lock: SQLITE_BUSY and its extended codes.
    fn is_busy(&self) -> bool {
        let (Self::Query { source, .. } | Self::Open { source, .. }) = self else { return false };
        let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
        code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
    }
}

impl Hint for SqliteError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Url { .. } => ErrorKind::Usage,
            Self::Statement { .. } | Self::Record { .. } => ErrorKind::Damage,
            _ if self.is_busy() => ErrorKind::Busy,
            _ => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Url { .. } => {
                Some("write it as sqlite:///absolute/path/to/db.sqlite3".to_owned())
            }
            Self::Missing { .. } => Some(
                "correct the URL: `sqlite:///` and three slashes for an absolute path".to_owned(),
            ),
            Self::Open { .. } => {
                Some("see that it is an SQLite database and that you may read it".to_owned())
            }
            Self::Record { .. } => {
                Some("see what else is affected with `coeval check --read-data`".to_owned())
            }
            _ if self.is_busy() => {
                Some("try again when the other program has finished its transaction".to_owned())
            }
            _ => None,
        }
    }
}
