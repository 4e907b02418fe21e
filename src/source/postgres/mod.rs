//! PostgreSQL, captured and restored through ordinary connections: no access to the server's
//! files, no extension, and no right beyond reading the tables, or changing them.
//!
//! A capture reads everything as of one instant, in one transaction that begins by locking the
//! tables against structural change. `pg_dump` takes its snapshot first and its locks afterwards,
//! and a `TRUNCATE` in between makes it see no rows; `LOCK` takes no snapshot, so here it comes
//! first.
//!
//! A restore is one transaction too. Where the structure is as it was, only the rows that differ
//! are touched, and readers are never blocked; where it is not, everything is made anew from the
//! schema in the snapshot.

mod apply;
mod capture;
mod catalog;
mod connect;
mod copytext;
mod ddl;
mod error;
mod foreign;
mod proof;
mod session;

use std::fmt;
use std::path::PathBuf;

use globset::{GlobBuilder, GlobSetBuilder};

pub use error::PostgresError;

use self::connect::Login;
use self::session::{Config, Purpose, Session};
use super::{Applied, Delta, Description, Fit, Kind, Parent, Plan, Source, Target, TreeInfo};
use crate::context::Context;
use crate::hint::Failure;

/// What may be chosen about a database.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Tables whose rows are neither captured nor restored: names or patterns like `*_cache`,
    /// matched with `table` (`schema.table` outside of `public`).
    pub exclude_tables: Vec<String>,
    /// The `pg_dump` to use; by default one of the server's version is looked for.
    pub pg_dump: Option<PathBuf>,
}

/// A PostgreSQL database, as source and as target.
pub struct Postgres {
    config: Config,
    session: Option<Session>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Postgres {
    /// The database that a `postgres://` URL names. Nothing is connected yet. The URL, which may
    /// hold a password, is kept out of every text.
    pub fn new(name: &str, url: &str, options: PostgresOptions) -> Result<Self, PostgresError> {
        let mut exclude = GlobSetBuilder::new();
        for pattern in &options.exclude_tables {
            let refuse = |source| PostgresError::Pattern { pattern: pattern.clone(), source };
            exclude.add(GlobBuilder::new(pattern).build().map_err(refuse)?);
        }
        let patterns = || options.exclude_tables.join(", ");
        let exclude = exclude.build();
        let exclude =
            exclude.map_err(|source| PostgresError::Pattern { pattern: patterns(), source })?;
        let login = Login::parse(name, url)?;
        let config = Config { name: name.to_owned(), login, pg_dump: options.pg_dump, exclude };
        Ok(Self { config, session: None })
    }

    /// The open session and the configuration, which it does not hold.
    fn session(&mut self, purpose: Purpose) -> Result<(&mut Session, &Config), PostgresError> {
        let Self { config, session } = self;
        let fits = |session: &&mut Session| session.purpose == purpose;
        let what = match purpose {
            Purpose::Capture => "reading",
            Purpose::Restore => "restoring",
        };
        let session = session.as_mut().filter(fits).ok_or_else(|| config.not_open(what))?;
        Ok((session, config))
    }

    fn is_restoring(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.purpose == Purpose::Restore)
    }

    /// Ends a transaction without keeping anything of it.
    fn close(&mut self) {
        if let Some(session) = self.session.take() {
            session.db.close();
        }
    }
}

impl Source for Postgres {
    fn kind(&self) -> Kind {
        Kind::Database
    }

    fn name(&self) -> &str {
        &self.config.name
    }

    fn begin(
        &mut self,
        _parent: Option<&dyn Parent>,
        ctx: &Context,
    ) -> Result<Description, Failure> {
        // Within a restore, its own transaction is read.
        if !self.is_restoring() {
            self.close();
            self.session = Some(Session::open(&self.config, Purpose::Capture)?);
        }
        let Self { config, session } = self;
        let session = session.as_mut().ok_or_else(|| config.not_open("reading"))?;
        Ok(session.describe(config, ctx)?)
    }

    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        parent: Option<&'a dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        let Self { config, session } = self;
        let session = session.as_mut().ok_or_else(|| config.not_open("reading"))?;
        let table = session.table(&tree.name)?.clone();
        // After a restore has written, the parent is what was read under its locks before.
        if let (Some(written), Some(parent)) = (&mut session.written, parent)
            && let Some(before) = parent.count(&tree.name)?
            && let Some(changes) = written.changes(&mut session.db, &table, before, ctx)?
        {
            return Ok(Delta::SinceParent(changes));
        }
        let encoding = &session.server.encoding;
        Ok(Delta::Everything(capture::rows(&mut session.db, &table, encoding, ctx)?))
    }

    fn end(&mut self) -> Result<(), Failure> {
        // Within a restore, its transaction goes on.
        if !self.is_restoring() {
            self.close();
        }
        Ok(())
    }
}

impl Target for Postgres {
    fn begin(&mut self, ctx: &Context) -> Result<(), Failure> {
        ctx.phase(format!("locking database {} against changes", self.config.name), None);
        self.close();
        self.session = Some(Session::open(&self.config, Purpose::Restore)?);
        Ok(())
    }

    fn as_source(&mut self) -> &mut dyn Source {
        self
    }

    fn fit(&mut self, wanted: &Description, ctx: &Context) -> Result<Fit, Failure> {
        let (session, config) = self.session(Purpose::Restore)?;
        Ok(session.fit(config, wanted, ctx)?)
    }

    fn apply(&mut self, plan: &dyn Plan, ctx: &Context) -> Result<Applied, Failure> {
        let (session, config) = self.session(Purpose::Restore)?;
        session.apply(config, plan, ctx)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        self.session(Purpose::Restore)?;
        let Self { config, session } = self;
        let session = session.take().ok_or_else(|| config.not_open("restoring"))?;
        Ok(session.commit(config)?)
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        self.close();
        Ok(())
    }
}
