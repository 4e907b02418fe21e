//! Which database a URL names, as a source and as a target.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::error::usage;
use crate::hint::Failure;
use crate::source::{Postgres, PostgresOptions, Source, Sqlite, SqliteTarget, Target};

/// How a program of PostgreSQL connects to a database.
pub struct Connection {
    /// The URL for its arguments, which everybody on the machine can read.
    pub url: String,
    /// The password for its environment.
    pub password: Option<Zeroizing<String>>,
}

/// The URL of a database. Texts show it without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// A URL, or the path of an SQLite file, which becomes absolute.
    pub fn new(text: &str) -> Result<Self, Failure> {
        let path = match text.split_once("://") {
            None => text.strip_prefix("sqlite:").unwrap_or(text),
            Some(("sqlite", path)) => path,
            Some(("postgres" | "postgresql", _)) => return Ok(Self(text.to_owned())),
            Some((scheme, _)) => {
                return Err(usage(
                    format!("this version knows no databases of the kind {scheme}://"),
                    "it knows postgres://user@host/name and sqlite:///path/of/file",
                ));
            }
        };
        let path = std::path::absolute(path)
            .map_err(|_| usage("the URL names no file", "write it as sqlite:///path/of/file"))?;
        // One spelling for each path: `//srv` is `/srv`.
        let path: PathBuf = path.components().collect();
        Ok(Self(format!("sqlite://{}", path.display())))
    }

    /// What a snapshot calls it if nobody says otherwise: the last part of its path without
    /// ending, or `main`.
    pub fn name(&self) -> String {
        let path = self.0.split(['?', '#']).next().unwrap_or_default();
        let path = path.split_once("://").map_or(path, |(_, path)| path);
        let last = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next());
        let stem = last.map(|last| last.split_once('.').map_or(last, |(stem, _)| stem));
        stem.filter(|stem| super::config::is_name(stem)).unwrap_or("main").to_owned()
    }

    /// The database as a source; the rows of excluded tables are left out.
    pub fn source(
        &self,
        name: &str,
        exclude: Vec<String>,
        slot: Option<String>,
    ) -> Result<Box<dyn Source>, Failure> {
        Ok(match self.as_postgres(name, exclude.clone(), slot)? {
            Some(postgres) => Box::new(postgres),
            None => Box::new(Sqlite::new(name, &self.0, exclude)?),
        })
    }

    /// The database as a target; the rows of excluded tables stay as they are.
    pub fn target(&self, name: &str, exclude: Vec<String>) -> Result<Box<dyn Target>, Failure> {
        Ok(match self.as_postgres(name, exclude.clone(), None)? {
            Some(postgres) => Box::new(postgres),
            None => Box::new(SqliteTarget::new(Sqlite::new(name, &self.0, exclude)?)),
        })
    }

    /// The database if it is one of PostgreSQL. `slot` is the replication slot to follow its
    /// changes with, if it is not the one with the usual name.
    pub fn as_postgres(
        &self,
        name: &str,
        exclude_tables: Vec<String>,
        slot: Option<String>,
    ) -> Result<Option<Postgres>, Failure> {
        if self.is_sqlite() {
            return Ok(None);
        }
        let options = PostgresOptions { exclude_tables, slot, ..PostgresOptions::default() };
        Ok(Some(Postgres::new(name, &self.0, options)?))
    }

    /// What a statement that changes nothing answers: the first value of the first row.
    pub fn ask(&self, sql: &str) -> Result<Option<String>, Failure> {
        Ok(match self.as_postgres("drill", Vec::new(), None)? {
            Some(mut postgres) => postgres.ask(sql)?,
            None => Sqlite::new("drill", &self.0, Vec::new())?.ask(sql)?,
        })
    }

    /// Another database of the same server.
    pub fn with_database(&self, name: &str) -> Result<Self, Failure> {
        let mut url = url::Url::parse(&self.0)
            .map_err(|error| usage(error.to_string(), "write postgres://user@host/name"))?;
        url.set_path(name);
        Ok(Self(url.into()))
    }

    /// How programs of PostgreSQL connect to it; `None` for other databases.
    pub fn for_programs(&self) -> Result<Option<Connection>, Failure> {
        if self.is_sqlite() {
            return Ok(None);
        }
        let mut url = url::Url::parse(&self.0)
            .map_err(|error| usage(error.to_string(), "write postgres://user@host/name"))?;
        let decoded = |text: &str| percent_decode(text).map(Zeroizing::new);
        let mut password = url.password().map(decoded).transpose()?;
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        if pairs.iter().any(|(name, _)| name == "password") {
            let mut query = url.query_pairs_mut();
            query.clear();
            for (name, value) in pairs {
                if name == "password" {
                    password = Some(Zeroizing::new(value));
                } else {
                    query.append_pair(&name, &value);
                }
            }
        }
        url.set_password(None).map_err(|()| usage("the URL has no host", "name one"))?;
        Ok(Some(Connection { url: url.into(), password }))
    }

    fn is_sqlite(&self) -> bool {
        self.0.starts_with("sqlite://")
    }
}

/// The text that stands percent-encoded in a URL.
fn percent_decode(text: &str) -> Result<String, Failure> {
    let pair = format!("p={}", text.replace('+', "%2B"));
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    let decoded = pairs.next().map(|(_, value)| value.into_owned());
    decoded.ok_or_else(|| usage("the password in the URL cannot be read", "percent-encode it"))
}

impl std::fmt::Display for DatabaseUrl {
    /// The URL with `***` in place of everything that may be a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_sqlite() {
            return f.write_str(&self.0);
        }
        let Ok(mut url) = url::Url::parse(&self.0) else { return f.write_str("***") };
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return f.write_str("***");
        }
        if url.query().is_some_and(|query| query.contains("password")) {
            url.set_query(Some("***"));
        }
        f.write_str(url.as_str())
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        DatabaseUrl::new(text).expect("a URL")
    }

    #[test]
    fn a_password_is_never_shown() {
        let with = url("postgres://app:hunter2@db.example/edms?sslmode=require");
        assert_eq!(with.to_string(), "postgres://app:***@db.example/edms?sslmode=require");
        assert!(!format!("{with:?}").contains("hunter2"));
        let in_query = url("postgres:///edms?password=hunter2");
        assert!(!in_query.to_string().contains("hunter2"));
        for same in
            ["/srv/app.sqlite3", "sqlite:///srv/app.sqlite3", "sqlite:////srv/./app.sqlite3"]
        {
            assert_eq!(url(same).to_string(), "sqlite:///srv/app.sqlite3");
        }
    }

    #[test]
    fn programs_get_the_password_apart() {
        for text in
            ["postgres://app:h%40nter+2@db/edms", "postgres://app@db/edms?password=h%40nter%2B2"]
        {
            let connection = url(text).for_programs().expect("a URL").expect("PostgreSQL");
            assert!(!connection.url.contains("nter"), "{}", connection.url);
            assert_eq!(connection.password.expect("a password").as_str(), "h@nter+2");
        }
    }

    #[test]
    fn a_database_is_named_after_its_last_part() {
        assert_eq!(url("postgres://app@db/edms?sslmode=require").name(), "edms");
        assert_eq!(url("postgres://db").name(), "main");
        assert_eq!(url("postgres://db/").name(), "main");
        assert_eq!(url("sqlite:///srv/app.sqlite3").name(), "app");
        assert_eq!(url("/srv/app.db").name(), "app");
        assert!(DatabaseUrl::new("mysql://x/y").is_err());
    }
}
