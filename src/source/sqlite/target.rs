//! Restores into an SQLite file: one transaction, in which only the rows that differ are deleted
//! and inserted. Readers go on, in WAL mode, and see the file as before until the commit.

use std::io::Read as _;
use std::path::PathBuf;

use super::connection::{Access, Connection, placeholder};
use super::schema::{self, Table, objects, quote, setting};
use super::{Session, Sqlite, SqliteError, statement};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::key;
use crate::source::record::{
    DatabaseHeader, Engine, Field, KeyKind, RowReader, SqliteObject, TableHeader,
};
use crate::source::{Applied, Description, Fit, Plan, Source, Target, TreeInfo};
use crate::tree::{Change, Content};

/// Rows in one statement.
const BATCH_ROWS: usize = 200;
/// Parameters in one statement: SQLite's default limit is 32,766.
const BATCH_PARAMETERS: usize = 30_000;
/// Bytes of rows in one statement.
const BATCH_BYTES: usize = 1 << 20;

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

    fn db(&mut self) -> Result<&mut Connection, SqliteError> {
        Ok(&mut self.source.session()?.db)
    }

    /// Drops everything and makes the tables of `wanted`.
    fn rebuild(&mut self, wanted: &DatabaseHeader, ctx: &Context) -> Result<(), SqliteError> {
        for object in objects(wanted) {
            statement::check(object)?;
        }
        let created = self.created;
        let db = self.db()?;
        if created {
            // These are given to a file before its first page is written.
            db.execute("ROLLBACK")?;
            for name in ["page_size", "auto_vacuum"] {
                if let Some(number) = setting(wanted, name).and_then(|v| v.parse::<u32>().ok()) {
                    db.execute(&format!("PRAGMA {name} = {number}"))?;
                }
            }
            if let "UTF-16le" | "UTF-16be" = wanted.encoding.as_str() {
                db.execute(&format!("PRAGMA encoding = '{}'", wanted.encoding))?;
            }
            db.execute("BEGIN IMMEDIATE")?;
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
        let present = schema::read(db, "", &[])?.header;
        let others = objects(&present).filter(|object| object.kind != "table");
        let fires = |object: &SqliteObject| {
            let on = |table: &String| table.eq_ignore_ascii_case(&object.table);
            object.kind == "trigger" && tables.iter().any(on)
        };
        let pending: Vec<_> = others.skip_while(|object| !fires(object)).cloned().collect();
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
        let path = &self.source.path;
        self.created = !path.exists();
        self.rebuilt = false;
        let mut db = Connection::open(path, Access::Restore)?;
        db.execute("BEGIN IMMEDIATE")?;
        self.source.session = Some(Session { db, tables: Vec::new(), held: true });
        Ok(())
    }

    fn as_source(&mut self) -> &mut dyn Source {
        &mut self.source
    }

    fn fit(&mut self, wanted: &Description, ctx: &Context) -> Result<Fit, Failure> {
        let header = DatabaseHeader::from_json(&wanted.header)?;
        if header.engine != Engine::Sqlite {
            return Err(SqliteError::Engine { engine: header.engine }.into());
        }
        let present = self.source.describe(ctx)?;
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
            for change in plan.changes(tree)? {
                ctx.check_cancelled()?;
                writer.delete(&change?, &mut applied)?;
            }
            writer.flush_deletes(&mut applied)?;
        }
        for (tree, table) in &tables {
            ctx.phase(format!("restoring table {}", table.tree), None);
            let mut writer = Writer::new(db, table);
            for change in plan.changes(tree)? {
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
        self.source.session = None;
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        let Some(mut session) = self.source.session.take() else { return Ok(()) };
        session.db.execute("ROLLBACK")?;
        drop(session);
        if self.created {
            remove(self.source.path.clone())?;
        }
        Ok(())
    }
}

/// Gathers rows of one table into statements.
struct Writer<'a> {
    db: &'a mut Connection,
    table: &'a Table,
    key_columns: Vec<String>,
    columns: Vec<String>,
    /// Keys to delete for good, then those whose row is replaced.
    gone: Vec<Vec<Field<'static>>>,
    replaced: Vec<Vec<Field<'static>>>,
    rows: Vec<Vec<Field<'static>>>,
    bytes: usize,
    inserted: u64,
}

impl<'a> Writer<'a> {
    fn new(db: &'a mut Connection, table: &'a Table) -> Self {
        let key_columns = table.key_columns();
        let mut columns = table.columns();
        if table.header.key_kind == KeyKind::Rowid {
            columns.extend(table.key_columns());
        }
        let (gone, replaced, rows) = (Vec::new(), Vec::new(), Vec::new());
        Self { db, table, key_columns, columns, gone, replaced, rows, bytes: 0, inserted: 0 }
    }

    fn delete(&mut self, change: &Change, applied: &mut Applied) -> Result<(), SqliteError> {
        let key = self.key(&change.key)?;
        let keys = if change.value.is_some() { &mut self.replaced } else { &mut self.gone };
        keys.push(key);
        if (keys.len() + 1) * self.key_columns.len() > BATCH_PARAMETERS || keys.len() == BATCH_ROWS
        {
            self.flush_deletes(applied)?;
        }
        Ok(())
    }

    fn flush_deletes(&mut self, applied: &mut Applied) -> Result<(), SqliteError> {
        let (gone, replaced) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.replaced));
        applied.deleted += self.delete_keys(&gone)?;
        let updated = self.delete_keys(&replaced)?;
        applied.updated += updated;
        applied.inserted += (replaced.len() as u64).saturating_sub(updated);
        Ok(())
    }

    fn delete_keys(&mut self, keys: &[Vec<Field<'static>>]) -> Result<u64, SqliteError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let table = quote(&self.table.header.table);
        let sql = match &self.key_columns[..] {
            [only] => {
                let list: Vec<_> = keys.iter().flatten().map(placeholder).collect();
                format!("DELETE FROM {table} WHERE {only} IN ({})", list.join(","))
            }
            columns => format!(
                "DELETE FROM {table} WHERE ({}) IN (VALUES {})",
                columns.join(","),
                tuples(keys)
            ),
        };
        self.db.run(&sql, &keys.iter().flatten().collect::<Vec<_>>())
    }

    fn insert(&mut self, change: Change, ctx: &Context) -> Result<(), Failure> {
        let Some(value) = change.value else { return Ok(()) };
        let bytes = read(&self.table.tree, value.content)?;
        let row = RowReader::new(&bytes).map(|field| field.map(Field::into_owned));
        let mut row = row.collect::<Result<Vec<_>, _>>()?;
        if self.table.header.key_kind == KeyKind::Rowid {
            row.extend(self.key(&change.key)?);
        }
        if row.len() != self.columns.len() {
            return Err(SqliteError::Record { table: self.table.tree.clone() }.into());
        }
        self.bytes += bytes.len();
        self.rows.push(row);
        if self.rows.len() == BATCH_ROWS
            || (self.rows.len() + 1) * self.columns.len() > BATCH_PARAMETERS
            || self.bytes > BATCH_BYTES
        {
            self.flush_inserts(ctx)?;
        }
        Ok(())
    }

    fn flush_inserts(&mut self, ctx: &Context) -> Result<(), SqliteError> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let done = self.insert_rows(&rows, self.columns.len());
        if let Err(error) = done {
            if !self.table.has_rowid_field() {
                return Err(error);
            }
            // The row number is only there to keep the order. Where only some records are
            // restored, another row may have it by now.
            for row in &rows {
                let row = std::slice::from_ref(row);
                if self.insert_rows(row, self.columns.len()).is_err() {
                    self.insert_rows(row, self.columns.len() - 1)?;
                }
            }
        }
        let (items, bytes) = (rows.len() as u64, std::mem::take(&mut self.bytes) as u64);
        self.inserted += items;
        ctx.report(Event::Progress { items, bytes });
        Ok(())
    }

    /// Inserts the first `width` fields of each row.
    fn insert_rows(
        &mut self,
        rows: &[Vec<Field<'static>>],
        width: usize,
    ) -> Result<(), SqliteError> {
        let rows: Vec<&[Field<'static>]> = rows.iter().map(|row| &row[..width]).collect();
        let sql = format!(
            "INSERT INTO {} ({}) VALUES {}",
            quote(&self.table.header.table),
            self.columns[..width].join(","),
            tuples(&rows)
        );
        let fields: Vec<_> = rows.iter().flat_map(|row| row.iter()).collect();
        self.db.run(&sql, &fields).map(|_| ())
    }

    fn key(&self, key: &[u8]) -> Result<Vec<Field<'static>>, SqliteError> {
        key::decode(key)
            .filter(|fields| fields.len() == self.key_columns.len())
            .ok_or_else(|| SqliteError::Record { table: self.table.tree.clone() })
    }
}

/// `(?,?),(?,?)` for rows of values.
fn tuples<'a>(rows: &[impl AsRef<[Field<'a>]>]) -> String {
    let mut text = String::new();
    for row in rows {
        text.push_str(if text.is_empty() { "(" } else { ",(" });
        for (index, field) in row.as_ref().iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(placeholder(field));
        }
        text.push(')');
    }
    text
}

fn read(table: &str, content: Content) -> Result<Vec<u8>, SqliteError> {
    let error = |source| SqliteError::Content { table: table.to_owned(), source };
    match content {
        Content::Inline(bytes) => Ok(bytes),
        Content::Reader(mut reader) => {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(error)?;
            Ok(bytes)
        }
        Content::Stored(_) => Err(error(std::io::Error::other("it is still in the repository"))),
    }
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
        let tree = crate::source::record::tree_name("main", &name, "main");
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
fn remove(path: PathBuf) -> Result<(), SqliteError> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let mut file = path.clone().into_os_string();
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
