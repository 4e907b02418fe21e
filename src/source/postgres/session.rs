//! One open transaction and what is known within it: the tables that are locked, the schema, and
//! how far a restore has come.

use std::path::PathBuf;
use std::sync::Arc;

use globset::GlobSet;

use super::super::record::{
    self, DatabaseHeader, Engine, Schema, Sequence, TableHeader, hash_json,
};
use super::super::{Applied, Delta, Description, Fit, Parent, Plan, TreeInfo};
use super::catalog::{self, Server, Table, qualified};
use super::connect::{Db, Login};
use super::error::PostgresError;
use super::follow::{Following, everything, unchanged};
use super::large::{self, Large};
use super::position::{self, Position};
use super::proof::Written;
use super::slot::{Changed, Dirty};
use super::{apply, ddl, transactions};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;

/// How often the tables may change between looking at them and locking them.
const ATTEMPTS: usize = 5;
/// How a transaction begins that reads everything as of one instant.
pub(super) const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// How long to wait for a lock before someone else's migration is called busy.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '30s'";

/// What does not change from one transaction to the next.
#[derive(Debug)]
pub(super) struct Config {
    pub name: String,
    pub login: Arc<Login>,
    pub pg_dump: Option<PathBuf>,
    pub exclude: GlobSet,
    /// The slot to follow the changes with, if it is not the one with the usual name.
    pub slot: Option<String>,
    /// A digest of what decides which rows are captured.
    pub options: String,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Capture,
    Restore,
}

/// An open transaction.
pub(super) struct Session {
    pub db: Db,
    pub purpose: Purpose,
    pub server: Server,
    /// Tables to read or restore.
    pub tables: Vec<Table>,
    excluded: Vec<Table>,
    /// Large objects, if there are any, or shall be, and they are not excluded.
    large: Option<Large>,
    /// Names the instant of a capture, so that `pg_dump` can read as of the same.
    pub snapshot: Option<String>,
    schema: Option<ddl::Dumped>,
    /// What a restore makes of the database.
    fitted: Option<(DatabaseHeader, Fit)>,
    /// What the restore wrote, where that is enough to know what the tables hold.
    pub written: Option<Written>,
    /// In a database made anew: whether what comes after the rows is made, too.
    completed: bool,
    /// How far a capture comes, for the next one to find.
    position: Option<Position>,
    /// What is known of the snapshot before, if it tells what need not be read.
    pub since: Option<Since>,
}

/// What a capture need not read.
pub(super) struct Since {
    /// The source as it was then.
    parent: Description,
    position: Position,
    /// What changed since.
    pub changed: Changed,
}

impl Session {
    /// Begins a transaction in which all tables are locked and known. The tables are looked up,
    /// locked, and looked up again inside: if others have come or gone, all is tried again.
    pub(super) fn open(
        config: &Config,
        mut db: Db,
        purpose: Purpose,
    ) -> Result<Self, PostgresError> {
        let (begin, mode) = match purpose {
            Purpose::Capture => (READ, "ACCESS SHARE"),
            // What was committed before the lock was had must be seen, so no earlier snapshot.
            Purpose::Restore => {
                ("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", "SHARE ROW EXCLUSIVE")
            }
        };
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                db.execute("beginning again", "ROLLBACK")?;
            }
            let before = tables(&mut db, config)?.0;
            db.execute("beginning a transaction", &format!("{begin}; {LOCK_TIMEOUT}"))?;
            let names: Vec<String> = before.iter().map(|t| format!("ONLY {}", t.sql())).collect();
            if !names.is_empty() {
                let lock = format!("LOCK TABLE {} IN {mode} MODE", names.join(", "));
                match db.execute("locking the tables", &lock) {
                    Err(error) if error.code() == Some("42P01") => continue,
                    done => done?,
                };
            }
            let (tables, excluded) = tables(&mut db, config)?;
            if !tables.iter().map(|t| t.oid).eq(before.iter().map(|t| t.oid)) {
                continue;
            }
            let snapshot = match purpose {
                Purpose::Capture => {
                    Some(db.text("naming the snapshot", "SELECT pg_export_snapshot()")?)
                }
                Purpose::Restore => None,
            };
            let server = catalog::server(&mut db)?;
            let large = if server.large_objects > 0 && !config.exclude.is_match(large::TREE) {
                if purpose == Purpose::Restore {
                    Large::lock(&mut db)?;
                }
                Some(Large::new(&mut db)?)
            } else {
                None
            };
            return Ok(Self {
                db,
                purpose,
                server,
                tables,
                excluded,
                large,
                snapshot,
                schema: None,
                fitted: None,
                written: None,
                completed: false,
                position: None,
                since: None,
            });
        }
        Err(PostgresError::Restless { name: config.name.clone() })
    }

    /// Whether a restore has not begun to change anything.
    pub(super) const fn is_untouched(&self) -> bool {
        self.fitted.is_none()
    }

    /// The description of the parent, if a restore finds nothing changed since.
    pub(super) fn find_unchanged(
        &mut self,
        parent: &(Description, Position),
    ) -> Result<Option<Description>, PostgresError> {
        let Some((_, header)) = unchanged(&mut self.db, parent)? else { return Ok(None) };
        let (description, _) = parent;
        if let schema @ Schema::PgDump { .. } = &header.schema {
            self.schema = Some(ddl::Dumped { schema: schema.clone(), failure: None });
        }
        let (trees, notes) = (description.trees.clone(), description.notes.clone());
        Ok(Some(Description { header: header.to_json(), trees, aids: Vec::new(), notes }))
    }

    /// Finds out how far this capture comes and, where the server's log can tell, what changed
    /// since `parent`.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        parent: Option<(Description, Position)>,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let Some(now) = position::now(&mut self.db)? else { return Ok(()) };
        let structure = position::structure(&mut self.db)?;
        let options = config.options.clone();
        let position = now.clone().into_position(options, structure, &self.tables);
        let position = self.position.insert(position);
        let then = parent.as_ref().map(|(_, position)| position);
        let db = &mut self.db;
        let following = Following { config, now: &now, tables: &self.tables, then };
        let changed = following.read(db, position, ctx)?;
        if let (Some(large), true) = (&self.large, position.log.is_some())
            && let Some(witness) = large.witness(db)?
        {
            position.tables.insert(large::TREE.to_owned(), witness);
        }
        if position.log.is_none() && !now.is_durable(db)? {
            position.snapshot = None;
        }
        match (changed, parent) {
            (Some(Ok(changed)), Some((parent, position))) => {
                self.since = Some(Since { parent, position, changed });
            }
            (Some(Err(reason)), _) => everything(config, &reason, ctx),
            _ => {}
        }
        Ok(())
    }

    /// The table of a tree.
    pub(super) fn table(&self, tree: &str) -> Result<&Table, PostgresError> {
        let table = self.tables.iter().find(|table| table.tree == tree);
        table.ok_or_else(|| PostgresError::NoTable { table: tree.to_owned() })
    }

    /// The database as it is in this transaction.
    pub(super) fn describe(
        &mut self,
        config: &Config,
        ctx: &Context,
    ) -> Result<Description, PostgresError> {
        let name = &config.name;
        let ddl::Dumped { schema, failure } = self.schema(config)?;
        let (schema, failure) = (schema.clone(), failure.clone());
        match (&schema, failure) {
            (Schema::Unavailable { reason }, Some(_)) => {
                let item = format!("database/{name}: schema");
                ctx.report(Event::Skipped { item, reason: reason.clone() });
            }
            (Schema::Unavailable { reason }, None) => ctx.report(Event::Note(format!(
                "database {name}: rows are captured without the schema, because {reason}"
            ))),
            (_, Some(failure)) => ctx.report(Event::Note(format!(
                "database {name}: the schema is taken from the catalogue, because {failure}"
            ))),
            (_, None) => {}
        }
        self.tell_what_is_left_out(config, ctx);
        let hashes: Vec<(&str, &str)> = self
            .tables
            .iter()
            .map(|table| (table.tree.as_str(), table.header.schema_hash.as_str()))
            .collect();
        let mut excluded: Vec<String> =
            self.excluded.iter().map(|table| table.tree.clone()).collect();
        let large_objects = !config.exclude.is_match(large::TREE);
        excluded.extend((!large_objects).then(|| large::TREE.to_owned()));
        let header = DatabaseHeader {
            version: record::VERSION,
            engine: Engine::Postgresql,
            server_version: self.server.version.clone(),
            database: self.server.database.clone(),
            encoding: self.server.encoding.clone(),
            schema,
            schema_hash: hash_json(&hashes),
            extensions: self.server.extensions.clone(),
            sequences: catalog::sequences(&mut self.db)?,
            excluded_tables: excluded,
            large_objects,
        };
        let tree = |table: &Table| TreeInfo {
            name: table.tree.clone(),
            header: table.header.to_json(),
            estimate: table.estimate,
        };
        let mut trees: Vec<TreeInfo> = self.tables.iter().map(tree).collect();
        trees.extend(self.large.is_some().then(large::tree));
        trees.sort_by(|a, b| a.name.cmp(&b.name));
        let note = |position: &Position| (position::NOTE.to_owned(), position.to_note());
        let notes = self.position.iter().map(note).collect();
        let aid =
            |name: &&str| TreeInfo { name: (*name).to_owned(), header: Vec::new(), estimate: None };
        let transactions = self.since.as_ref().is_some_and(|s| s.changed.transactions.any());
        let aids = [transactions::CHANGES, transactions::COMMITS];
        let aids = aids.iter().filter(|_| transactions).map(aid).collect();
        Ok(Description { header: header.to_json(), trees, aids, notes })
    }

    fn schema(&mut self, config: &Config) -> Result<&ddl::Dumped, PostgresError> {
        let known = match self.schema.take() {
            Some(known) => known,
            None => match self.schema_of_parent() {
                Some(schema) => ddl::Dumped { schema, failure: None },
                None => {
                    let Self { db, server, snapshot, .. } = self;
                    let (login, program) = (&config.login, config.pg_dump.as_deref());
                    ddl::dump(db, login, server, program, snapshot.as_deref())?
                }
            },
        };
        Ok(self.schema.insert(known))
    }

    /// The schema in the snapshot before, if it is still that.
    fn schema_of_parent(&self) -> Option<Schema> {
        let (since, position) = (self.since.as_ref()?, self.position.as_ref()?);
        let same = since.position.structure == position.structure;
        let header = DatabaseHeader::from_json(&since.parent.header).ok().filter(|_| same)?;
        Some(header.schema).filter(|schema| matches!(schema, Schema::PgDump { .. }))
    }

    /// What changed in a table since the snapshot before.
    pub(super) fn dirty(&mut self, tree: &str) -> (&mut Db, Option<Dirty<'_>>) {
        let number = self.tables.iter().position(|table| table.tree == tree);
        let db = &mut self.db;
        let (Some(number), Some(since)) = (number, &mut self.since) else { return (db, None) };
        let table = &self.tables[number];
        let header = table.header.to_json();
        let is_same = |info: &TreeInfo| info.name == tree && info.header == header;
        let same_storage = since.position.tables.get(tree) == Some(&table.storage);
        if !table.logged || !same_storage || !since.parent.trees.iter().any(is_same) {
            return (db, Some(Dirty::Everything));
        }
        (db, Some(since.changed.of(number, table)))
    }

    /// The large objects, unless they are as in the parent.
    pub(super) fn large_objects<'a>(
        &'a mut self,
        parent: Option<&dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        let unchanged = || Ok(Delta::SinceParent(Box::new(std::iter::empty())));
        let missing = || PostgresError::NoTable { table: large::TREE.to_owned() };
        let large = self.large.as_mut().ok_or_else(missing)?;
        let witness = |position: &Position| position.tables.get(large::TREE).copied();
        let now = self.position.as_ref().and_then(witness);
        let then = self.since.as_ref().and_then(|since| witness(&since.position));
        if parent.is_some() && now.is_some() && now == then {
            return unchanged();
        }
        let restoring = self.purpose == Purpose::Restore;
        if parent.is_some() && restoring && large.is_as_before(&mut self.db)? {
            return unchanged();
        }
        Ok(Delta::Everything(large.read(&mut self.db, self.purpose, ctx)?))
    }

    fn tell_what_is_left_out(&self, config: &Config, ctx: &Context) {
        let name = &config.name;
        for table in &self.server.foreign_tables {
            ctx.report(Event::Note(format!(
                "database {name}: the rows of foreign table {table} live elsewhere and are left out"
            )));
        }
    }

    /// The trees of the tables whose structure is not as wanted, for when schemas cannot be
    /// compared as a whole.
    fn differing(&self, wanted: &Description) -> Result<Vec<String>, PostgresError> {
        let mut differing = Vec::new();
        for tree in wanted.trees.iter().filter(|tree| tree.name != large::TREE) {
            let header = TableHeader::from_json(&tree.header)?;
            let live = self.tables.iter().chain(&self.excluded).find(|t| t.tree == tree.name);
            if live.is_none_or(|table| table.header.schema_hash != header.schema_hash) {
                differing.push(tree.name.clone());
            }
        }
        let surplus = |table: &&Table| !wanted.trees.iter().any(|tree| tree.name == table.tree);
        differing.extend(self.tables.iter().filter(surplus).map(|table| table.tree.clone()));
        Ok(differing)
    }

    /// Makes the structure that of `wanted`, if it is not.
    pub(super) fn fit(
        &mut self,
        config: &Config,
        wanted: &Description,
        ctx: &Context,
    ) -> Result<Fit, PostgresError> {
        let header = DatabaseHeader::from_json(&wanted.header)?;
        if header.engine != Engine::Postgresql {
            return Err(PostgresError::Engine { engine: header.engine });
        }
        let differing = self.differing(wanted)?;
        let live = match (&header.schema, &self.schema(config)?.schema) {
            // Both as the catalogue has it, so that they can be compared.
            (Schema::Catalogue { .. }, Schema::PgDump { .. }) => {
                ddl::of_catalogue(&mut self.db, "the snapshot was taken without pg_dump")?
            }
            (_, live) => live.clone(),
        };
        let fit = match (&header.schema, &live) {
            (wanted @ Schema::PgDump { .. }, live @ Schema::PgDump { .. })
            | (wanted @ Schema::Catalogue { .. }, live @ Schema::Catalogue { .. }) => {
                if wanted == live { Fit::Kept } else { Fit::Rebuilt }
            }
            _ if differing.is_empty() => Fit::Kept,
            (Schema::PgDump { .. } | Schema::Catalogue { .. }, _) => Fit::Rebuilt,
            (Schema::Unavailable { reason }, _) => {
                let reason = reason.clone();
                return Err(PostgresError::Structure { tables: differing, reason });
            }
            (Schema::SqliteMaster { .. }, _) => {
                return Err(PostgresError::Engine { engine: Engine::Sqlite });
            }
        };
        if let (Fit::Rebuilt, Some((pre_data, _))) = (fit, header.schema.parts()) {
            self.rebuild(config, &header, pre_data, ctx)?;
            // `pg_dump` would wait for this transaction; and this is what it would say.
            self.schema = Some(ddl::Dumped { schema: header.schema.clone(), failure: None });
        }
        self.fitted = Some((header, fit));
        Ok(fit)
    }

    /// Removes what is there and makes the tables anew, without keys and indexes.
    fn rebuild(
        &mut self,
        config: &Config,
        wanted: &DatabaseHeader,
        pre_data: &str,
        ctx: &Context,
    ) -> Result<(), PostgresError> {
        let mut full = Vec::new();
        for table in &self.excluded {
            let sql = format!("SELECT EXISTS (SELECT FROM ONLY {})::text", table.sql());
            if self.db.text(&format!("reading table {}", table.tree), &sql)? == "true" {
                full.push(table.tree.clone());
            }
        }
        if !full.is_empty() {
            return Err(PostgresError::Excluded { tables: full });
        }
        ctx.phase(format!("making the structure of database {} anew", config.name), None);
        ddl::drop_everything(&mut self.db, &wanted.extensions)?;
        self.run_schema(config, "making the tables", pre_data, ctx)
    }

    fn run_schema(
        &mut self,
        config: &Config,
        doing: &str,
        text: &str,
        ctx: &Context,
    ) -> Result<(), PostgresError> {
        let (text, omitted) = ddl::adapted(&mut self.db, &self.server, text)?;
        for role in omitted {
            ctx.report(Event::Note(format!(
                "database {}: role {role} does not exist here, so what it owned belongs to the \
                 role that restores",
                config.name
            )));
        }
        self.db.execute(doing, &text)?;
        // The text begins with settings of its own.
        self.db.execute(doing, LOCK_TIMEOUT)?;
        (self.tables, self.excluded) = tables(&mut self.db, config)?;
        Ok(())
    }

    /// Makes the rows those of the plan.
    pub(super) fn apply(
        &mut self,
        config: &Config,
        plan: &dyn Plan,
        ctx: &Context,
    ) -> Result<Applied, Failure> {
        let (_, fit) = self.fitted.as_ref().ok_or_else(|| config.not_open("restoring rows"))?;
        // From here on the tables are not what they were.
        self.since = None;
        let fit = *fit;
        let mut large = Applied::default();
        if plan.trees().iter().any(|tree| tree.name == large::TREE) {
            if self.large.is_none() {
                self.large = Some(Large::new(&mut self.db)?);
            }
            if let Some(objects) = &mut self.large {
                large = objects.apply(&mut self.db, plan, fit, ctx)?;
            }
        }
        if fit == Fit::Kept {
            let (mut applied, written) = apply::update(&mut self.db, &self.tables, plan, ctx)?;
            self.written = written;
            for view in &self.server.materialized_views {
                ctx.report(Event::Note(format!(
                    "materialized view {view} shows what was there before; refresh it with \
                     `REFRESH MATERIALIZED VIEW {view}`"
                )));
            }
            applied.add(large);
            return Ok(applied);
        }
        let mut applied = large;
        for tree in plan.trees().iter().filter(|tree| tree.name != large::TREE) {
            ctx.phase(format!("restoring table {}", tree.name), None);
            applied.inserted += apply::fill(&mut self.db, tree, plan.opened(tree)?, ctx)?;
        }
        self.complete(config, ctx)?;
        Ok(applied)
    }

    /// In a database made anew, makes what comes after the rows.
    fn complete(&mut self, config: &Config, ctx: &Context) -> Result<(), PostgresError> {
        let Some((wanted, _)) = self.fitted.clone() else { return Ok(()) };
        for sequence in &wanted.sequences {
            set_sequence(&mut self.db, sequence)?;
        }
        if let Some((_, post_data)) = wanted.schema.parts() {
            ctx.phase(format!("making the indexes of database {}", config.name), None);
            self.run_schema(config, "making indexes and constraints", post_data, ctx)?;
        }
        let views = catalog::server(&mut self.db)?.materialized_views;
        for view in views {
            let doing = format!("filling materialized view {view}");
            self.db.execute(&doing, &format!("REFRESH MATERIALIZED VIEW {view}"))?;
        }
        self.completed = true;
        Ok(())
    }

    /// Makes everything final.
    pub(super) fn commit(mut self, config: &Config) -> Result<(), PostgresError> {
        match self.fitted.clone() {
            Some((header, Fit::Kept)) => self.advance_sequences(&header.sequences)?,
            Some((_, Fit::Rebuilt)) if !self.completed => {
                self.complete(config, &Context::default())?;
            }
            _ => {}
        }
        // In a transaction that has failed, COMMIT would roll back without an error.
        self.db.text("committing", "SELECT ''")?;
        self.db.execute("committing", "COMMIT")?;
        Ok(())
    }

    /// Moves sequences on to where they were, and never back: a number handed out after the
    /// snapshot may be known outside (in a session, a link, a payment), and must not come to mean
    /// another row.
    fn advance_sequences(&mut self, wanted: &[Sequence]) -> Result<(), PostgresError> {
        let live = catalog::sequences(&mut self.db)?;
        for sequence in wanted {
            let same = |s: &&Sequence| s.schema == sequence.schema && s.name == sequence.name;
            if live.iter().find(same).is_some_and(|live| is_behind(live, sequence)) {
                set_sequence(&mut self.db, sequence)?;
            }
        }
        Ok(())
    }
}

fn is_behind(live: &Sequence, wanted: &Sequence) -> bool {
    let position = |sequence: &Sequence| {
        let value = i128::from(sequence.last_value);
        (if wanted.increment < 0 { -value } else { value }, sequence.is_called)
    };
    position(live) < position(wanted)
}

fn set_sequence(db: &mut Db, sequence: &Sequence) -> Result<(), PostgresError> {
    let name = qualified(&sequence.schema, &sequence.name);
    let sql = format!(
        "SELECT pg_catalog.setval('{}'::pg_catalog.regclass, {}, {})",
        name.replace('\'', "''"),
        sequence.last_value,
        sequence.is_called
    );
    db.execute(&format!("setting sequence {name}"), &sql)?;
    Ok(())
}

impl Config {
    /// The error of a method that was called out of order.
    pub(super) fn not_open(&self, what: &'static str) -> PostgresError {
        PostgresError::NotOpen { name: self.name.clone(), what }
    }
}

/// The tables, and those that the configuration excludes.
fn tables(db: &mut Db, config: &Config) -> Result<(Vec<Table>, Vec<Table>), PostgresError> {
    let tables = catalog::tables(db)?;
    Ok(tables.into_iter().partition(|table| !catalog::is_excluded(table, &config.exclude)))
}
