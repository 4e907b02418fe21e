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
mod decoding;
mod error;
mod follow;
mod foreign;
mod large;
mod position;
mod proof;
mod ranges;
mod session;
mod setup;
mod slot;
mod statements;
mod transactions;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use globset::{GlobBuilder, GlobSetBuilder};

pub use error::PostgresError;
pub(crate) use large::{TREE as LARGE_OBJECTS, tree as large_objects};
pub(crate) use position::NOTE as POSITION;
pub use setup::{Requirement, State};
pub use transactions::parse_lsn;
pub(crate) use transactions::{CHANGES, COMMITS, Commit, Logged};

use self::connect::{Db, Login};
use self::follow::Following;
use self::position::Position;
use self::session::{Config, Purpose, Session};
use self::slot::Dirty;
use super::record;
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
    /// The replication slot whose log tells what changed, if it is not `coeval_DATABASE`; see
    /// [`Postgres::requirements`].
    pub slot: Option<String>,
}

/// A PostgreSQL database, as source and as target.
pub struct Postgres {
    config: Config,
    /// A connection in which no transaction is open.
    idle: Option<Db>,
    session: Option<Session>,
    /// Whether what is being read is what the parent has.
    unchanged: bool,
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
        let login = Arc::new(Login::parse(name, url)?);
        let digest = record::hash_json(&options.exclude_tables);
        let PostgresOptions { pg_dump, slot, .. } = options;
        let name = name.to_owned();
        let config = Config { name, login, pg_dump, exclude, slot, options: digest };
        Ok(Self { config, idle: None, session: None, unchanged: false })
    }

    /// What a statement that changes nothing answers: the first value of the first row as text;
    /// `None` where there is no row, or NULL in it.
    pub fn ask(&mut self, sql: &str) -> Result<Option<String>, PostgresError> {
        let doing = "asking what was told to be asked";
        let mut db = self.connect()?;
        db.execute(doing, session::READ)?;
        // Names as people write them.
        db.execute(doing, "SET LOCAL search_path TO DEFAULT")?;
        let sql = sql.trim().trim_end_matches(';');
        let first = format!("SELECT to_json(v::text)::text FROM ({sql}) AS a(v) LIMIT 1");
        let answer = db.optional_json(doing, &first)?;
        db.execute(doing, "ROLLBACK")?;
        self.idle = Some(db);
        Ok(answer)
    }

    /// A connection: the one that the last read left, if the server still knows it, or a new one.
    fn connect(&mut self) -> Result<Db, PostgresError> {
        match self.idle.take().and_then(Db::reset) {
            Some(db) => Ok(db),
            None => Db::open(&self.config.login),
        }
    }

    /// Begins a read that finds nothing changed since `parent`; leaves a connection where it does.
    fn find_unchanged(
        &mut self,
        parent: &(Description, Position),
        ctx: &Context,
    ) -> Result<Option<Description>, Failure> {
        let mut db = self.connect()?;
        db.execute("beginning a transaction", session::READ)?;
        let found = match follow::unchanged(&mut db, parent)? {
            Some((now, header)) => {
                let (description, mut position) = parent.clone();
                if position.log.is_none() {
                    // From here on a slot that was made since can be followed.
                    let config = &self.config;
                    let following = Following { config, now: &now, tables: &[], then: None };
                    following.read(&mut db, &mut position, ctx)?;
                }
                let notes = [(position::NOTE.to_owned(), position.to_note())].into();
                let (header, trees) = (header.to_json(), description.trees);
                Some(Description { header, trees, aids: Vec::new(), notes })
            }
            None => None,
        };
        db.execute("ending a transaction", "ROLLBACK")?;
        self.idle = Some(db);
        Ok(found)
    }

    /// The open session and the configuration, which it does not hold.
    fn session(&mut self, purpose: Purpose) -> Result<(&mut Session, &Config), PostgresError> {
        let Self { config, session, .. } = self;
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
        self.unchanged = false;
        if let Some(session) = self.session.take() {
            self.idle = session.db.reset();
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
        parent: Option<&dyn Parent>,
        ctx: &Context,
    ) -> Result<Description, Failure> {
        let parent = parent.map(Parent::description).transpose()?.and_then(|description| {
            let position = Position::of_note(description.notes.get(position::NOTE)?)?;
            Some((description, position))
        });
        let parent = parent.filter(|(_, position)| position.options == self.config.options);
        self.unchanged = false;
        // Within a restore, its own transaction is read: what was committed before it had its locks
        // is all that there is until it writes.
        if !self.is_restoring() {
            self.close();
            if let Some(parent) = &parent
                && let Some(description) = self.find_unchanged(parent, ctx)?
            {
                self.unchanged = true;
                return Ok(description);
            }
            let db = self.connect()?;
            self.session = Some(Session::open(&self.config, db, Purpose::Capture)?);
        }
        let Self { config, session, unchanged, .. } = self;
        let session = session.as_mut().ok_or_else(|| config.not_open("reading"))?;
        if session.purpose == Purpose::Restore {
            if let Some(parent) = parent.filter(|_| session.is_untouched()) {
                if let Some(description) = session.find_unchanged(&parent)? {
                    *unchanged = true;
                    return Ok(description);
                }
                session.follow(config, Some(parent), ctx)?;
            }
        } else {
            session.follow(config, parent, ctx)?;
        }
        Ok(session.describe(config, ctx)?)
    }

    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        parent: Option<&'a dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        if self.unchanged {
            return Ok(Delta::SinceParent(Box::new(std::iter::empty())));
        }
        let Self { config, session, .. } = self;
        let session = session.as_mut().ok_or_else(|| config.not_open("reading"))?;
        if let (COMMITS | CHANGES, Some(since)) = (tree.name.as_str(), &mut session.since) {
            return Ok(Delta::Everything(since.changed.transactions.aid(&tree.name)?));
        }
        if tree.name == large::TREE {
            return session.large_objects(parent, ctx);
        }
        let table = session.table(&tree.name)?.clone();
        // After a restore has written, the parent is what was read under its locks before.
        if let (Some(written), Some(parent)) = (&mut session.written, parent)
            && let Some(before) = parent.count(&tree.name)?
            && let Some(changes) = written.changes(&mut session.db, &table, before, ctx)?
        {
            return Ok(Delta::SinceParent(changes));
        }
        let encoding = session.server.encoding.clone();
        let snapshot = session.snapshot.clone();
        let (db, dirty) = session.dirty(&tree.name);
        match dirty.filter(|_| parent.is_some()) {
            Some(Dirty::Nothing) => Ok(Delta::SinceParent(Box::new(std::iter::empty()))),
            Some(Dirty::Keys(keys)) => {
                Ok(Delta::SinceParent(Box::new(capture::again(db, table, keys, ctx))))
            }
            Some(Dirty::Everything) | None => {
                let shared = snapshot.as_deref().map(|snapshot| (&config.login, snapshot));
                Ok(Delta::Everything(capture::rows(db, &table, &encoding, shared, ctx)?))
            }
        }
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
        let db = self.connect()?;
        self.session = Some(Session::open(&self.config, db, Purpose::Restore)?);
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
        let Self { config, session, .. } = self;
        let session = session.take().ok_or_else(|| config.not_open("restoring"))?;
        Ok(session.commit(config)?)
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        self.close();
        Ok(())
    }
}
