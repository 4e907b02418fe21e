//! Restores into an SQLite file: one transaction, in which only the rows that differ are deleted
//! and inserted. Readers go on, in WAL mode, and see the file as before until the commit.

use std::path::{Path, PathBuf};

use super::connection::{Access, Connection};
use super::schema::{self, Table, objects, quote, setting};
use super::writer::Writer;
use super::{Session, Sqlite, SqliteError, statement};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::record::{self, DatabaseHeader, Engine, Field, SqliteObject, TableHeader};
use crate::source::{Applied, Description, Fit, Plan, Source, Target, TreeInfo};

/// An SQLite file as a [`Target`].
#[derive(Debug)]
pub struct SqliteTarget {
    source: Sqlite,
    /// Whether the file was made by [`Target::begin`].
    created: bool,
    /// Whether the tables were made anew and are empty.
    rebuilt: bool,
    /// Indexes, views and triggers to be made when the rows are there.
    pending: Vec<SqliteObject>,
    /// The journal mode to set when a new file is complete.
    journal_mode: Option<String>,
}

impl SqliteTarget {
    /// The file of `source` as a target. If there is none, it is made.
    pub const fn new(source: Sqlite) -> Self {
        Self { source, created: false, rebuilt: false, pending: Vec::new(), journal_mode: None }
    }

    /// Opens the file and its only transaction. `settings` are for a new file.
    fn open(&mut self, settings: &[String]) -> Result<(), SqliteError> {
        let mut db = Connection::open(&self.source.path, Access::Restore)?;
        for setting in settings {
            db.execute(setting)?;
        }
        db.execute("BEGIN IMMEDIATE")?;
        self.source.session =
            Some(Session { db, tables: Vec::new(), seen: None, unchanged: false });
        Ok(())
    }

    /// Closes the file; what was not committed is undone.
    fn close(&mut self) -> Result<(), Failure> {
        match self.source.session.take() {
            Some(session) => Ok(session.db.close()?),
            None => Ok(()),
        }
    }

    fn db(&mut self) -> Result<&mut Connection, SqliteError> {
        Ok(&mut self.source.session()?.db)
    }

    /// Drops everything and makes the tables of `wanted`.
    fn rebuild(&mut self, wanted: &DatabaseHeader, ctx: &Context) -> Result<(), Failure> {
        for object in objects(wanted) {
            statement::check(object)?;
        }
        if self.created {
            // These can be given to a file only before its first transaction.
            self.close()?;
            self.open(&settings_of_a_new_file(wanted))?;
            self.journal_mode = setting(wanted, "journal_mode").map(str::to_owned);
        }
        let db = self.db()?;
        drop_everything(db)?;
        for object in objects(wanted).filter(|object| object.kind == "table") {
            // A virtual table makes its shadow tables itself, with rows that are not wanted.
            if exists(db, &object.name)? {
                db.execute(&format!("DELETE FROM {}", quote(&object.name)))?;
            } else {
                db.execute(&object.sql)?;
            }
        }
        self.pending = objects(wanted).filter(|object| object.kind != "table").cloned().collect();
        self.rebuilt = true;
        if !wanted.excluded_tables.is_empty() {
            ctx.report(Event::Note(format!(
                "the structure is not that of the snapshot and was made anew; these tables are \
                 empty because snapshots leave them out: {}",
                wanted.excluded_tables.join(", ")
            )));
        }
        Ok(())
    }

    /// Drops triggers, which must not fire for restored rows, and with them every index and view
    /// that was made later, so that all can be made again in the same order.
    fn silence(&mut self, changed: &[TreeInfo]) -> Result<(), SqliteError> {
        if self.rebuilt {
            return Ok(());
        }
        let tables: Vec<String> = self
            .source
            .session()?
            .tables
            .iter()
            .filter(|table| changed.iter().any(|tree| tree.name == table.tree))
            .map(|table| table.header.table.clone())
            .collect();
        let db = self.db()?;
        let present = schema::read_objects(db)?;
        let others = present.into_iter().filter(|object| object.kind != "table");
        let fires = |object: &SqliteObject| {
            let on = |table: &String| table.eq_ignore_ascii_case(&object.table);
            object.kind == "trigger" && tables.iter().any(on)
        };
        let pending: Vec<_> = others.skip_while(|object| !fires(object)).collect();
        for object in &pending {
            let kind = object.kind.to_uppercase();
            db.execute(&format!("DROP {kind} IF EXISTS {}", quote(&object.name)))?;
        }
        self.pending = pending;
        Ok(())
    }

    /// Puts back what waited for the rows: indexes, views, triggers, counters, settings.
    fn complete(&mut self, plan: &dyn Plan, ctx: &Context) -> Result<(), Failure> {
        let wanted = DatabaseHeader::from_json(&plan.wanted().header)?;
        let pending = std::mem::take(&mut self.pending);
        let rebuilt = self.rebuilt;
        let db = self.db()?;
        for object in pending {
            db.execute(&object.sql)?;
        }
        restore_counters(db, &wanted, if rebuilt { &plan.wanted().trees } else { plan.trees() })?;
        for name in ["user_version", "application_id"] {
            if let Some(number) = setting(&wanted, name).and_then(|value| value.parse::<i64>().ok())
            {
                db.execute(&format!("PRAGMA {name} = {number}"))?;
            }
        }
        for row in db.rows(
            "SELECT \"table\", parent, count(*) FROM pragma_foreign_key_check GROUP BY 1, 2",
            &[],
        )? {
            let (table, parent, count) = (row.text(0), row.text(1), row.integer(2));
            ctx.report(Event::Note(format!(
                "{count} rows of {table} refer to rows of {parent} that are not there"
            )));
        }
        Ok(())
    }
}

impl Target for SqliteTarget {
    fn begin(&mut self, _ctx: &Context) -> Result<(), Failure> {
        self.created = !self.source.path.exists();
        self.rebuilt = false;
        Ok(self.open(&[])?)
    }

    fn as_source(&mut self) -> &mut dyn Source {
        &mut self.source
    }

    fn fit(&mut self, wanted: &Description, ctx: &Context) -> Result<Fit, Failure> {
        let header = DatabaseHeader::from_json(&wanted.header)?;
        if header.engine != Engine::Sqlite {
            return Err(SqliteError::Engine { engine: header.engine }.into());
        }
        let (present, _) = self.source.describe(ctx)?;
        let schema = DatabaseHeader::from_json(&present.header)?;
        let same_tables = wanted.trees.iter().all(|tree| {
            present.trees.iter().any(|p| p.name == tree.name && p.header == tree.header)
        });
        if same_tables && objects(&schema).eq(objects(&header)) {
            return Ok(Fit::Kept);
        }
        self.rebuild(&header, ctx)?;
        Ok(Fit::Rebuilt)
    }

    fn apply(&mut self, plan: &dyn Plan, ctx: &Context) -> Result<Applied, Failure> {
        self.silence(plan.trees())?;
        let mut applied = Applied::default();
        let mut tables = Vec::new();
        for tree in plan.trees() {
            let header = TableHeader::from_json(&tree.header)?;
            tables.push((tree, Table { tree: tree.name.clone(), header, ordered: false }));
        }
        let rebuilt = self.rebuilt;
        let db = self.db()?;
        // All deletions come first, also of rows that change: two rows may exchange a unique value.
        for (tree, table) in tables.iter().filter(|_| !rebuilt) {
            let mut writer = Writer::new(db, table);
            for change in plan.opened(tree)? {
                ctx.check_cancelled()?;
                writer.delete(&change?, &mut applied)?;
            }
            writer.flush_deletes(&mut applied)?;
        }
        for (tree, table) in &tables {
            ctx.phase(format!("restoring table {}", table.tree), None);
            let mut writer = Writer::new(db, table);
            for change in plan.opened(tree)? {
                ctx.check_cancelled()?;
                writer.insert(change?, ctx)?;
            }
            writer.flush_inserts(ctx)?;
            if rebuilt {
                applied.inserted += writer.inserted;
            }
        }
        self.complete(plan, ctx)?;
        Ok(applied)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        let journal_mode = self.journal_mode.take();
        let db = self.db()?;
        db.execute("COMMIT")?;
        if journal_mode.as_deref() == Some("wal") {
            db.execute("PRAGMA journal_mode = WAL")?;
        }
        self.close()
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        if self.source.session.is_none() {
            return Ok(());
        }
        self.close()?;
        if self.created {
            remove(&self.source.path)?;
        }
        Ok(())
    }
}

fn settings_of_a_new_file(wanted: &DatabaseHeader) -> Vec<String> {
    let mut settings = Vec::new();
    for name in ["page_size", "auto_vacuum"] {
        if let Some(number) = setting(wanted, name).and_then(|value| value.parse::<u32>().ok()) {
            settings.push(format!("PRAGMA {name} = {number}"));
        }
    }
    if let "UTF-16le" | "UTF-16be" = wanted.encoding.as_str() {
        settings.push(format!("PRAGMA encoding = '{}'", wanted.encoding));
    }
    settings
}

fn exists(db: &mut Connection, table: &str) -> Result<bool, SqliteError> {
    let rows =
        db.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", &[table])?;
    Ok(!rows.is_empty())
}

fn drop_everything(db: &mut Connection) -> Result<(), SqliteError> {
    for row in db.rows("SELECT name FROM sqlite_master WHERE type = 'view'", &[])? {
        db.execute(&format!("DROP VIEW {}", quote(&row.text(0))))?;
    }
    // A virtual table takes its shadow tables along.
    for types in ["'virtual'", "'table', 'shadow'"] {
        let sql = format!(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ({types}) \
             AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        );
        for row in db.rows(&sql, &[])? {
            db.execute(&format!("DROP TABLE IF EXISTS {}", quote(&row.text(0))))?;
        }
    }
    Ok(())
}

/// Sets the counters of `AUTOINCREMENT`: of restored tables as they were, of others so that they
/// never go back, for an identity that was handed out must not be handed out again.
fn restore_counters(
    db: &mut Connection,
    wanted: &DatabaseHeader,
    restored: &[TreeInfo],
) -> Result<(), SqliteError> {
    if !exists(db, "sqlite_sequence")? {
        return Ok(());
    }
    let present = db.rows("SELECT name, seq FROM sqlite_sequence ORDER BY rowid", &[])?;
    let mut counters: Vec<(String, i64)> = Vec::new();
    for sequence in &wanted.sequences {
        let exact = sequence
            .owned_by_table
            .as_ref()
            .is_some_and(|tree| restored.iter().any(|restored| restored.name == *tree));
        let now = present.iter().find(|row| row.text(0) == sequence.name);
        let now = now.map_or(i64::MIN, |row| row.integer(1));
        let value = if exact { sequence.last_value } else { sequence.last_value.max(now) };
        counters.push((sequence.name.clone(), value));
    }
    for row in &present {
        let name = row.text(0);
        let tree = record::tree_name("main", &name, "main");
        let known = counters.iter().any(|(known, _)| *known == name);
        if !known && !restored.iter().any(|restored| restored.name == tree) {
            counters.push((name, row.integer(1)));
        }
    }
    db.execute("DELETE FROM sqlite_sequence")?;
    for (name, value) in counters {
        db.run(
            "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
            &[&Field::text(&name), &Field::Integer(value)],
        )?;
    }
    Ok(())
}

/// Removes a file that a restore made and did not complete.
fn remove(path: &Path) -> Result<(), SqliteError> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::remove_file(&file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(SqliteError::Remove { path: PathBuf::from(file), source });
            }
            _ => {}
        }
    }
    Ok(())
}
