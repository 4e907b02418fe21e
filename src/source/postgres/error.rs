//! What can go wrong with a PostgreSQL database, and what to do then.

use sqlx::postgres::PgDatabaseError;

use super::super::record::{Engine, HeaderError, RowError};
use crate::hint::{ErrorKind, Hint};

/// Why a database could not be captured or restored. No variant holds a password or a URL.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The URL cannot be understood.
    #[error("the URL of database {name} is not one of PostgreSQL: {reason}")]
    Url {
        /// The database's name in the configuration.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern of tables to exclude is not valid.
    #[error("`{pattern}` is no pattern of table names")]
    Pattern {
        /// The pattern.
        pattern: String,
        #[source]
        /// Why not.
        source: globset::Error,
    },
    /// There is no connection.
    #[error("cannot connect to database {database} on {host}: {}", message(error))]
    Connect {
        /// The host name or socket directory.
        host: String,
        /// The database's name on the server.
        database: String,
        /// What the driver says; not a `source`, since its text is in the message.
        error: sqlx::Error,
    },
    /// The local machinery of connections cannot be set up.
    #[error("cannot set up a connection")]
    Runtime(#[source] std::io::Error),
    /// The server refused a statement, or the connection broke.
    #[error("{doing}: {}", message(error))]
    Statement {
        /// What was being done, naming the table.
        doing: String,
        /// What the server says; not a `source`, since its text is in the message.
        error: sqlx::Error,
    },
    /// A stream of rows was left before its end, so the connection can only be closed.
    #[error("{doing}: an earlier transfer was interrupted")]
    Interrupted {
        /// What was being done.
        doing: String,
    },
    /// The server answered something that this program does not understand.
    #[error("{doing}: the server's answer cannot be read: {reason}")]
    Answer {
        /// What was being done.
        doing: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Tables came and went faster than they could be locked.
    #[error("the tables of database {name} keep changing")]
    Restless {
        /// The database's name in the configuration.
        name: String,
    },
    /// A method was called out of order.
    #[error("database {name} is not open for {what}")]
    NotOpen {
        /// The database's name in the configuration.
        name: String,
        /// Reading or restoring.
        what: &'static str,
    },
    /// No such table.
    #[error("there is no table {table}")]
    NoTable {
        /// The name of its tree.
        table: String,
    },
    /// A row read from the server or the repository is malformed.
    #[error("table {table}")]
    Row {
        /// Which table.
        table: String,
        /// Where the row stops making sense.
        source: RowError,
    },
    /// A row has more or fewer fields than the table has columns.
    #[error("a row of table {table} does not have {columns} fields")]
    Width {
        /// Which table.
        table: String,
        /// How many columns there are.
        columns: usize,
    },
    /// The server's order is not that of the keys.
    #[error("the rows of table {table} do not come in the order of their keys")]
    Order {
        /// Which table.
        table: String,
    },
    /// A temporary file could not be written or read.
    #[error("a temporary file for the log of changes cannot be used")]
    Spool {
        /// Why.
        source: std::io::Error,
    },
    /// A header in the snapshot cannot be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Reading the content of a row from the repository failed.
    #[error("reading a row of table {table}")]
    Content {
        /// Which table.
        table: String,
        /// Why.
        source: std::io::Error,
    },
    /// The snapshot's database is of another kind.
    #[error("the snapshot holds a {engine} database, and this is PostgreSQL")]
    Engine {
        /// What it is.
        engine: Engine,
    },
    /// The tables differ, and there are no statements to make them anew.
    #[error("the structure of {} differs from the snapshot, which holds no schema: {reason}", .tables.join(", "))]
    Structure {
        /// The trees of the tables that differ.
        tables: Vec<String>,
        /// Why the snapshot has no schema.
        reason: String,
    },
    /// Making the tables anew would lose the rows of tables that the configuration excludes.
    #[error("the database must be made anew, which would lose the rows of the excluded {}", .tables.join(", "))]
    Excluded {
        /// The trees of those tables.
        tables: Vec<String>,
    },
    /// After the restore, rows would refer to rows that are not there.
    #[error(
        "{count} rows of {child} would refer to rows of {parent} that are not there ({constraint})"
    )]
    Orphans {
        /// The referring table.
        child: String,
        /// The table referred to.
        parent: String,
        /// The foreign key.
        constraint: String,
        /// How many rows.
        count: u64,
    },
    /// The table does not hold what was written into it.
    #[error(
        "table {table} has {found} rows after the restore where it must have {expected}, and \
         {survivors} of those that must be gone"
    )]
    Unproven {
        /// Which table.
        table: String,
        /// How many rows it must have.
        expected: u64,
        /// How many it has.
        found: u64,
        /// How many rows are there that were deleted.
        survivors: u64,
    },
    /// A deletion of a row that is not there, or a change of one.
    #[error(
        "table {table} changed while it was restored: {expected} rows to delete, {found} found"
    )]
    Deletions {
        /// Which table.
        table: String,
        /// How many rows should have been deleted.
        expected: u64,
        /// How many were.
        found: u64,
    },
}

/// What the server says, without the driver's preamble; of a broken connection, what the driver
/// says.
fn message(error: &sqlx::Error) -> String {
    match server_error(error) {
        Some(server) => match server.detail() {
            Some(detail) => format!("{} ({detail})", server.message()),
            None => server.message().to_owned(),
        },
        None => error.to_string(),
    }
}

fn server_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref())
}

impl PostgresError {
    /// The five characters of SQLSTATE (PostgreSQL manual, appendix A) if the server answered.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Statement { error, .. } | Self::Connect { error, .. } => {
                server_error(error).map(PgDatabaseError::code)
            }
            _ => None,
        }
    }

    fn hint_of_code(&self) -> Option<String> {
        let hint = match self.code()? {
            "42501" if self.to_string().contains("row-level security") => {
                "let the role see all rows, with `ALTER ROLE … BYPASSRLS` or as the owner of the \
                 table without FORCE, or name the table in exclude-tables"
            }
            "42501" => {
                "grant the role what is missing (reading everything: `GRANT pg_read_all_data TO \
                 …`), or name the table in exclude-tables"
            }
            "55P03" | "40P01" => {
                "another session holds the lock; find it in pg_stat_activity, and try again"
            }
            "28P01" | "28000" => "check the user and password in the database's URL",
            "3D000" => "create the database with `createdb`, or correct its name in the URL",
            "42704" => "create the missing role or object, and try again",
            "53200" => {
                "raise max_locks_per_transaction: every large object that is made or removed \
                 takes a lock until the end"
            }
            "53300" => "free a connection or raise max_connections, and try again",
            "57P01" | "57P02" | "57P03" => "the server is stopping or starting; try again",
            "23503" | "23505" | "23514" | "23502" => {
                "grant the role the right to load rows without triggers: `GRANT SET ON PARAMETER \
                 session_replication_role TO …`"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Hint for PostgresError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Url { .. } | Self::Pattern { .. } | Self::NoTable { .. } => ErrorKind::Usage,
            Self::Restless { .. } => ErrorKind::Busy,
            Self::Header(error) => error.kind(),
            Self::Statement { .. } if matches!(self.code(), Some("55P03" | "40P01")) => {
                ErrorKind::Busy
            }
            _ => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Url { .. } => "write it as postgres://user:password@host/database",
            Self::Connect { .. } if self.code().is_none() => {
                "check that the server runs and that the host and port in the URL are right"
            }
            Self::Restless { .. } => "try again when no migration is running",
            Self::Structure { .. } => {
                "migrate the database to the version of the snapshot first; take snapshots where \
                 pg_dump is installed, and they hold the schema"
            }
            Self::Excluded { .. } => {
                "empty those tables, or restore into an empty database (`createdb`)"
            }
            Self::Orphans { .. } => {
                "restore the whole database rather than a part, and exclude no table that refers \
                 to a restored one; --no-keep-live restores sessions and tokens, too"
            }
            Self::Order { .. } => "rebuild the table's primary key with `REINDEX`",
            Self::Deletions { .. } => "nothing was changed; try again",
            Self::Unproven { .. } => {
                "the database was rolled back and is as before; look for triggers, rules or \
                 functions in constraints that write to the table"
            }
            Self::Connect { .. } | Self::Statement { .. } => return self.hint_of_code(),
            Self::Header(error) => return error.hint(),
            Self::Row { source, .. } => return source.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
