//! One connection, made synchronous: the driver is asynchronous, the rest of the program is not,
//! so each connection brings the small runtime that drives it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgCopyIn};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use super::super::record;
use super::error::PostgresError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes of rows are taken from the connection, or gathered for it, at a time.
const BATCH: usize = 64 << 10;

/// The settings that decide how values look as text, as `pg_dump` pins them, and no time limits:
/// a large table takes its time. Every capture and restore begins with them.
const SETTINGS: &str = "
    SET TimeZone = 'UTC';
    SET DateStyle = 'ISO';
    SET IntervalStyle = 'postgres';
    SET extra_float_digits = 1;
    SET bytea_output = 'hex';
    SET client_encoding = 'UTF8';
    SET search_path = '';
    SET row_security = off;
    SET standard_conforming_strings = on;
    SET xmloption = content;
    SET synchronize_seqscans = off;
    SET client_min_messages = warning;
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SELECT set_config(name, '0', false) FROM pg_settings
     WHERE name IN ('transaction_timeout', 'idle_session_timeout');";

/// Where a database is and who may enter.
pub(super) struct Login {
    options: PgConnectOptions,
    password: Option<Zeroizing<String>>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("host", &self.host())
            .field("database", &self.database())
            .finish_non_exhaustive()
    }
}

impl Login {
    /// Understands a URL as libpq does: `postgres://user:password@host:port/database?host=/socket`.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, PostgresError> {
        let refuse = |reason: String| PostgresError::Url { name: name.to_owned(), reason };
        // libpq allows a user without a host, which is then in the query; the URL standard does not.
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let named = if authority.ends_with('@') {
            text.replacen(authority, &format!("{authority}localhost"), 1)
        } else {
            text.to_owned()
        };
        let named = Zeroizing::new(named);
        let url = url::Url::parse(&named).map_err(|error| refuse(error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(refuse(format!("its scheme is `{}`", url.scheme())));
        }
        let options = PgConnectOptions::from_url(&url);
        let options = options.map_err(|_secret| refuse("a parameter is malformed".to_owned()))?;
        let in_query = url.query_pairs().find(|(key, _)| key == "password");
        let password = match (in_query, url.password()) {
            (Some((_, password)), _) => Some(password.into_owned()),
            (None, Some(password)) => {
                let bytes = record::percent_decode(password);
                bytes.and_then(|bytes| String::from_utf8(bytes).ok())
            }
            (None, None) => None,
        };
        Ok(Self {
            options: options.application_name("coeval").disable_statement_logging(),
            password: password.map(Zeroizing::new),
        })
    }

    /// One more connection, which reads as of a snapshot that another one named.
    pub(super) async fn join(&self, snapshot: &str) -> Result<PgConnection, PostgresError> {
        let connected =
            tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.options));
        let timed_out = |_elapsed| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
        let mut connection =
            connected.await.unwrap_or_else(timed_out).map_err(|error| self.refused(error))?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
             SET TRANSACTION SNAPSHOT '{snapshot}'"
        );
        // Statements that are sent together are one transaction, so the settings go first.
        for statements in [SETTINGS.to_owned(), begin] {
            let done = sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await;
            done.map_err(|error| failed("preparing a further connection", error))?;
        }
        Ok(connection)
    }

    fn refused(&self, error: sqlx::Error) -> PostgresError {
        let database = self.database().to_owned();
        PostgresError::Connect { host: self.host(), database, error }
    }

    /// The host name, or the directory of the socket.
    pub(super) fn host(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.to_string_lossy().into_owned(),
            None => self.options.get_host().to_owned(),
        }
    }

    /// The name of the database; by default that of the user.
    pub(super) fn database(&self) -> &str {
        self.options.get_database().unwrap_or_else(|| self.options.get_username())
    }

    /// The same as variables that libpq's programs read: a password on a command line could be
    /// seen by every user of the machine.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("PGHOST", self.host()),
            ("PGPORT", self.options.get_port().to_string()),
            ("PGUSER", self.options.get_username().to_owned()),
            ("PGDATABASE", self.database().to_owned()),
            ("PGAPPNAME", "coeval".to_owned()),
        ];
        if let Some(password) = &self.password {
            variables.push(("PGPASSWORD", password.to_string()));
        }
        variables
    }
}

/// A connection.
pub(super) struct Db {
    runtime: Runtime,
    connection: PgConnection,
    /// A stream of rows is under way, or was left before its end: nothing else can be said then.
    streaming: bool,
}

impl Db {
    /// Connects, and pins the settings.
    pub(super) fn open(login: &Login) -> Result<Self, PostgresError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(PostgresError::Runtime)?;
        let connection = runtime.block_on(async {
            let connect = PgConnection::connect_with(&login.options);
            tokio::time::timeout(CONNECT_TIMEOUT, connect).await
        });
        let timed_out = |_elapsed| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
        let connection =
            connection.unwrap_or_else(timed_out).map_err(|error| login.refused(error))?;
        let mut db = Self { runtime, connection, streaming: false };
        db.execute("preparing the connection", SETTINGS)?;
        Ok(db)
    }

    /// Runs statements, and says how many rows they touched. `doing` is for the error.
    pub(super) fn execute(&mut self, doing: &str, sql: &str) -> Result<u64, PostgresError> {
        self.check(doing)?;
        let query = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection);
        let done = self.runtime.block_on(query).map_err(|error| failed(doing, error))?;
        Ok(done.rows_affected())
    }

    /// Runs a statement whose answer is one text.
    pub(super) fn text(&mut self, doing: &str, sql: &str) -> Result<String, PostgresError> {
        self.check(doing)?;
        let query = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut self.connection);
        let row = self.runtime.block_on(query).map_err(|error| failed(doing, error))?;
        row.try_get(0).map_err(|error| failed(doing, error))
    }

    /// Runs a statement whose answer is one JSON text or NULL.
    pub(super) fn optional_json<T: DeserializeOwned>(
        &mut self,
        doing: &str,
        sql: &str,
    ) -> Result<Option<T>, PostgresError> {
        self.json(doing, &format!("SELECT coalesce(({sql}), 'null')"))
    }

    /// Runs a statement whose answer is one JSON text.
    pub(super) fn json<T: DeserializeOwned>(
        &mut self,
        doing: &str,
        sql: &str,
    ) -> Result<T, PostgresError> {
        let text = self.text(doing, sql)?;
        serde_json::from_str(&text).map_err(|error| PostgresError::Answer {
            doing: doing.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Runs `COPY … TO STDOUT`.
    pub(super) fn copy_out<'a>(
        &'a mut self,
        doing: &str,
        sql: &str,
    ) -> Result<CopyOut<'a>, PostgresError> {
        self.check(doing)?;
        // The driver leaves the end of a refused COPY unread.
        self.streaming = true;
        let Self { runtime, connection, streaming } = self;
        let stream = runtime.block_on(connection.copy_out_raw(sql));
        let stream = stream.map_err(|error| failed(doing, error))?;
        Ok(CopyOut { runtime, stream, streaming, doing: doing.to_owned() })
    }

    /// Runs `COPY … FROM STDIN`.
    pub(super) fn copy_in<'a>(
        &'a mut self,
        doing: &str,
        sql: &str,
    ) -> Result<CopyIn<'a>, PostgresError> {
        self.check(doing)?;
        let Self { runtime, connection, streaming } = self;
        let copy = runtime.block_on(connection.copy_in_raw(sql));
        let copy = copy.map_err(|error| failed(doing, error))?;
        *streaming = true;
        let buffer = Vec::with_capacity(BATCH);
        Ok(CopyIn { runtime, copy, streaming, buffer, doing: doing.to_owned() })
    }

    /// Ends the transaction without a trace, and gives the connection back if it can still be
    /// used. Nothing needs to be done about a failure: the server rolls back what a broken
    /// connection leaves behind.
    pub(super) fn reset(mut self) -> Option<Self> {
        if self.streaming {
            return None;
        }
        let rollback = sqlx::raw_sql("ROLLBACK");
        let done = self.runtime.block_on(rollback.execute(&mut self.connection));
        done.is_ok().then_some(self)
    }

    fn check(&self, doing: &str) -> Result<(), PostgresError> {
        if self.streaming {
            return Err(PostgresError::Interrupted { doing: doing.to_owned() });
        }
        Ok(())
    }
}

pub(super) fn failed(doing: &str, error: sqlx::Error) -> PostgresError {
    PostgresError::Statement { doing: doing.to_owned(), error }
}

/// Rows on their way from the server.
pub(super) struct CopyOut<'a> {
    runtime: &'a Runtime,
    stream: BoxStream<'a, Result<Bytes, sqlx::Error>>,
    streaming: &'a mut bool,
    doing: String,
}

impl CopyOut<'_> {
    /// The next messages, about 64 KiB of them; none at the end. The server sends a line of text
    /// with its newline in each message.
    pub(super) fn next(&mut self) -> Result<Vec<Bytes>, PostgresError> {
        let stream = &mut self.stream;
        let batch = self.runtime.block_on(async {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while bytes < BATCH {
                let Some(message) = stream.try_next().await? else { break };
                bytes += message.len();
                batch.push(message);
            }
            Ok(batch)
        });
        let batch = batch.map_err(|error| failed(&self.doing, error))?;
        if batch.is_empty() {
            *self.streaming = false;
        }
        Ok(batch)
    }
}

/// Rows on their way to the server. Only [`CopyIn::finish`] makes them count.
pub(super) struct CopyIn<'a> {
    runtime: &'a Runtime,
    copy: PgCopyIn<&'a mut PgConnection>,
    streaming: &'a mut bool,
    buffer: Vec<u8>,
    doing: String,
}

impl CopyIn<'_> {
    /// Where to append lines; call [`CopyIn::flush`] after each.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Sends what has gathered, when it is enough.
    pub(super) fn flush(&mut self) -> Result<(), PostgresError> {
        if self.buffer.len() >= BATCH { self.send() } else { Ok(()) }
    }

    /// Ends the transfer, and says how many rows arrived.
    pub(super) fn finish(mut self) -> Result<u64, PostgresError> {
        self.send()?;
        let Self { runtime, copy, streaming, doing, .. } = self;
        let rows = runtime.block_on(copy.finish()).map_err(|error| failed(&doing, error))?;
        *streaming = false;
        Ok(rows)
    }

    fn send(&mut self) -> Result<(), PostgresError> {
        let sent = self.runtime.block_on(self.copy.send(self.buffer.as_slice()));
        sent.map_err(|error| failed(&self.doing, error))?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_text() {
        let login =
            Login::parse("main", "postgres://u:s%40cret@/db?host=/run/x&port=5433").unwrap();
        assert!(!format!("{login:?}").contains("cret"));
        assert_eq!(login.password.as_deref().map(String::as_str), Some("s@cret"));
        assert_eq!((login.host().as_str(), login.database()), ("/run/x", "db"));
        for bad in
            ["postgres://u:secret@h:99999/", "mysql://u:secret@h/", "postgres://u:secret@h/?port=x"]
        {
            let error = Login::parse("main", bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }
}
