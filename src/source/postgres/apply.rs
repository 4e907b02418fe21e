//! Applying a plan: into tables that are there, by staging what changes and a few set-based
//! statements per table; into tables just made, by `COPY`.
//!
//! Everything runs in the transaction of the restore. Readers of the tables go on reading what
//! was there until it commits.

use std::io::{Read, Seek as _, Write as _};

use tempfile::SpooledTempFile;

use super::super::key;
use super::super::record::{KeyKind, TableHeader};
use super::super::sort::{BUDGET, Duplicates, Sorter};
use super::super::spool::Spool;
use super::capture::{Lines, Rows};
use super::catalog::{self, Reference, Table, Watched, ident, qualified};
use super::connect::{CopyIn, Db};
use super::copytext::{push_field, push_line};
use super::error::PostgresError;
use super::foreign;
use super::large;
use super::proof::{self, Touched, Written};
use crate::context::Context;
use crate::hint::Failure;
use crate::source::{Applied, Plan, TreeInfo};
use crate::tree::{Changes, Content, Value};

/// How much of the deletions of a table stays in memory.
const SPOOL: usize = 1 << 20;

/// The changes of one table, in temporary tables of the server.
struct Staged<'t> {
    table: &'t Table,
    /// Part of the temporary tables' names.
    number: usize,
    deletions: u64,
    puts: u64,
    /// What [`Staged::relocate`] removed, to be inserted again.
    moved: u64,
    /// Rows that were not there.
    inserted: u64,
    /// The keys of the deletions.
    keys: Spool,
}

/// Brings tables that are there from their present rows to the wanted ones. Says what was written,
/// where that proves what is in them now.
pub(super) fn update(
    db: &mut Db,
    tables: &[Table],
    plan: &dyn Plan,
    ctx: &Context,
) -> Result<(Applied, Option<Written>), Failure> {
    let references = catalog::references(db)?;
    let mut staged = Vec::new();
    for tree in plan.trees().iter().filter(|tree| tree.name != large::TREE) {
        let table = tables.iter().find(|table| table.tree == tree.name);
        let table = table.ok_or_else(|| PostgresError::NoTable { table: tree.name.clone() })?;
        staged.extend(Staged::stage(db, table, staged.len(), plan.opened(tree)?, ctx)?);
    }
    foreign::parents_first(&mut staged, &references, |staged| staged.table.oid);
    let silent = silence_triggers(db)?;
    // Triggers and checks of the application may need the names that its own sessions see.
    db.execute("applying the changes", "SET LOCAL search_path TO DEFAULT")?;
    let mut applied = Applied::default();
    for staged in staged.iter().rev() {
        ctx.check_cancelled()?;
        let deleted = staged.delete(db)?;
        // Without the right to silence triggers, a cascade may have been there before.
        if silent && deleted != staged.deletions {
            let table = staged.table.tree.clone();
            let expected = staged.deletions;
            return Err(PostgresError::Deletions { table, expected, found: deleted }.into());
        }
        applied.deleted += deleted;
    }
    for staged in &mut staged {
        if silent || may_relocate(staged.table, &references) {
            staged.relocate(db)?;
        }
        applied.updated += staged.moved;
    }
    for staged in &staged {
        ctx.check_cancelled()?;
        applied.updated += staged.update(db)?;
    }
    for staged in &mut staged {
        ctx.check_cancelled()?;
        staged.inserted = staged.insert(db)?.saturating_sub(staged.moved);
        applied.inserted += staged.inserted;
    }
    if silent {
        db.execute("applying the changes", "SET LOCAL session_replication_role = origin")?;
        let changed: Vec<i64> = staged.iter().map(|staged| staged.table.oid).collect();
        foreign::check_orphans(db, &references, &changed)?;
    } else {
        db.execute("checking the constraints", "SET CONSTRAINTS ALL IMMEDIATE")?;
    }
    db.execute("applying the changes", "SET LOCAL search_path = ''")?;
    let proven = silent && !proof::something_runs_always(db)?;
    let tables = staged.into_iter().map(Staged::touched).collect();
    Ok((applied, proven.then_some(Written { tables })))
}

/// Fills one table that was just made.
pub(super) fn fill(
    db: &mut Db,
    tree: &TreeInfo,
    changes: Changes<'_>,
    ctx: &Context,
) -> Result<u64, Failure> {
    let header = TableHeader::from_json(&tree.header).map_err(PostgresError::Header)?;
    let columns: Vec<String> = header.stored_columns().map(|column| ident(&column.name)).collect();
    let name = qualified(&header.schema, &header.table);
    let mut copy = copy_into(db, &tree.name, &name, &columns)?;
    for change in changes {
        ctx.check_cancelled()?;
        if let Some(value) = change?.value {
            put(&mut copy, &tree.name, columns.len(), value)?;
        }
    }
    Ok(copy.finish()?)
}

/// Turns off triggers, rules and foreign keys for this transaction, where the role may.
fn silence_triggers(db: &mut Db) -> Result<bool, PostgresError> {
    let doing = "applying the changes";
    db.execute(doing, "SAVEPOINT coeval")?;
    match db.execute(doing, "SET LOCAL session_replication_role = replica") {
        Ok(_) => {
            db.execute(doing, "RELEASE SAVEPOINT coeval")?;
            Ok(true)
        }
        Err(error) if error.code() == Some("42501") => {
            db.execute(doing, "ROLLBACK TO SAVEPOINT coeval; SET CONSTRAINTS ALL DEFERRED")?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether a row can be deleted and inserted again without rows that refer to it noticing, when
/// foreign keys are at work.
fn may_relocate(table: &Table, references: &[Reference]) -> bool {
    let mut referring = references.iter().filter(|r| r.parent_oid == table.oid);
    referring.all(|reference| reference.deferrable && reference.on_delete == "no action")
}

fn copy_into<'a>(
    db: &'a mut Db,
    tree: &str,
    target: &str,
    columns: &[String],
) -> Result<CopyIn<'a>, PostgresError> {
    let columns =
        if columns.is_empty() { String::new() } else { format!("({})", columns.join(", ")) };
    db.copy_in(&format!("writing table {tree}"), &format!("COPY {target} {columns} FROM STDIN"))
}

fn put(copy: &mut CopyIn<'_>, tree: &str, columns: usize, value: Value) -> Result<(), Failure> {
    let row = content(tree, value.content)?;
    let fields = push_line(copy.buffer(), &row)
        .map_err(|source| PostgresError::Row { table: tree.to_owned(), source })?;
    if fields != columns {
        return Err(PostgresError::Width { table: tree.to_owned(), columns }.into());
    }
    Ok(copy.flush()?)
}

pub(super) fn content(tree: &str, content: Content) -> Result<Vec<u8>, PostgresError> {
    let failed = |source| PostgresError::Content { table: tree.to_owned(), source };
    match content {
        Content::Inline(bytes) => Ok(bytes),
        Content::Reader(mut reader) => {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(failed)?;
            Ok(bytes)
        }
        Content::Stored(_) => Err(failed(std::io::Error::other("the plan did not fetch it"))),
    }
}

impl<'t> Staged<'t> {
    /// Brings a table's changes to the server; `None` if there are none.
    fn stage(
        db: &mut Db,
        table: &'t Table,
        number: usize,
        changes: Changes<'_>,
        ctx: &Context,
    ) -> Result<Option<Self>, Failure> {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return Ok(None);
        }
        ctx.phase(format!("restoring table {}", table.tree), None);
        let mut staged = Self {
            table,
            number,
            deletions: 0,
            puts: 0,
            moved: 0,
            inserted: 0,
            keys: Spool::new(),
        };
        staged.create(db)?;
        let mut spool = tempfile::spooled_tempfile(SPOOL);
        let columns = table.stored("");
        let mut copy = copy_into(db, &table.tree, &staged.put_table(), &columns)?;
        for change in changes {
            ctx.check_cancelled()?;
            let change = change?;
            if let Some(value) = change.value {
                staged.puts += 1;
                put(&mut copy, &table.tree, columns.len(), value)?;
            } else {
                staged.deletions += 1;
                staged.spool_deletion(&mut spool, &change.key)?;
                staged.keys.push(&change.key, None).map_err(|error| staged.spool_failed(error))?;
            }
        }
        copy.finish()?;
        if staged.deletions > 0 {
            spool.rewind().map_err(|e| staged.spool_failed(e))?;
            if staged.is_keyless() {
                spool = staged.find_rows(db, spool, ctx)?;
            }
            staged.send_deletions(db, spool)?;
        }
        let analyze =
            format!("ANALYZE {}; ANALYZE {}", staged.put_table(), staged.deletion_table());
        db.execute(&format!("writing table {}", table.tree), &analyze)?;
        Ok(Some(staged))
    }

    fn create(&self, db: &mut Db) -> Result<(), PostgresError> {
        let table = self.table.sql();
        // Made from the table itself, so that the columns have its types and collations.
        let key = if self.is_keyless() {
            "NULL::tid AS \"row\"".to_owned()
        } else {
            self.table.header.key.iter().map(|name| ident(name)).collect::<Vec<_>>().join(", ")
        };
        let sql = format!(
            "CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM ONLY {table} WITH NO DATA;
             CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {key} FROM ONLY {table} WITH NO DATA",
            self.put_table(),
            self.table.stored("").join(", "),
            self.deletion_table(),
        );
        db.execute(&format!("writing table {}", self.table.tree), &sql)?;
        Ok(())
    }

    fn spool_deletion(&self, spool: &mut SpooledTempFile, key: &[u8]) -> Result<(), PostgresError> {
        let mut line = Vec::with_capacity(key.len() + 1);
        if self.is_keyless() {
            line.extend_from_slice(key);
        } else {
            let damaged = || PostgresError::Answer {
                doing: format!("writing table {}", self.table.tree),
                reason: "a key is damaged".to_owned(),
            };
            for (index, field) in key::decode(key).ok_or_else(damaged)?.iter().enumerate() {
                if index > 0 {
                    line.push(b'\t');
                }
                push_field(&mut line, field).ok_or_else(damaged)?;
            }
            line.push(b'\n');
        }
        spool.write_all(&line).map_err(|error| self.spool_failed(error))
    }

    /// Where the rows to delete are: their keys say only what they hold, so the table is read and
    /// hashed again, and merged with the keys. Both are in ascending order.
    fn find_rows(
        &self,
        db: &mut Db,
        mut keys: SpooledTempFile,
        ctx: &Context,
    ) -> Result<SpooledTempFile, Failure> {
        let tree = &self.table.tree;
        let columns = [vec!["ctid".to_owned()], self.table.stored("")].concat().join(", ");
        let sql = format!("COPY (SELECT {columns} FROM ONLY {}) TO STDOUT", self.table.sql());
        let mut lines = Lines::new(db.copy_out(&format!("reading table {tree}"), &sql)?);
        let mut rows = Rows::new(self.table);
        let mut sorter = Sorter::new(BUDGET, Duplicates::Number);
        while let Some(line) = lines.next(ctx)? {
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let tab = line.iter().position(|byte| *byte == b'\t');
            let (place, rest) = match tab {
                Some(tab) => (&line[..tab], &line[tab + 1..]),
                None => (line, &[][..]),
            };
            sorter.push(&key::row_hash(rows.row(rest)?), place)?;
        }
        let mut places = tempfile::spooled_tempfile(SPOOL);
        let mut wanted = [0; key::HASH_LEN + 4];
        let mut left = self.deletions;
        for entry in sorter.finish()? {
            let (key, place) = entry?;
            if left == 0 {
                break;
            }
            if left == self.deletions && wanted == [0; key::HASH_LEN + 4] {
                keys.read_exact(&mut wanted).map_err(|error| self.spool_failed(error))?;
            }
            if key == wanted {
                places.write_all(&place).map_err(|error| self.spool_failed(error))?;
                places.write_all(b"\n").map_err(|error| self.spool_failed(error))?;
                left -= 1;
                if left > 0 {
                    keys.read_exact(&mut wanted).map_err(|error| self.spool_failed(error))?;
                }
            }
        }
        places.rewind().map_err(|error| self.spool_failed(error))?;
        Ok(places)
    }

    fn send_deletions(&self, db: &mut Db, mut spool: SpooledTempFile) -> Result<(), Failure> {
        let mut copy = copy_into(db, &self.table.tree, &self.deletion_table(), &[])?;
        loop {
            let buffer = copy.buffer();
            let read = Read::by_ref(&mut spool).take(16 << 10).read_to_end(buffer);
            if read.map_err(|error| self.spool_failed(error))? == 0 {
                break;
            }
            copy.flush()?;
        }
        copy.finish()?;
        Ok(())
    }

    fn delete(&self, db: &mut Db) -> Result<u64, PostgresError> {
        if self.deletions == 0 {
            return Ok(0);
        }
        let sql = format!(
            "DELETE FROM ONLY {} AS t USING {} AS s WHERE {}",
            self.table.sql(),
            self.deletion_table(),
            if self.is_keyless() {
                "t.ctid OPERATOR(pg_catalog.=) s.\"row\"".to_owned()
            } else {
                self.same_key()
            }
        );
        db.execute(&format!("deleting from table {}", self.table.tree), &sql)
    }

    /// Deletes the rows that an update would not do for, so that they are inserted again: rows
    /// that exchange unique values would collide, and some columns can only be inserted.
    fn relocate(&mut self, db: &mut Db) -> Result<(), PostgresError> {
        if self.is_keyless() || self.puts == 0 {
            return Ok(());
        }
        let header = &self.table.header;
        let inserted_only = |name: &String| {
            let column = header.columns.iter().find(|column| column.name == *name);
            column.is_some_and(|column| column.identity == "a")
        };
        let relocates = |name: &&String| match &self.table.watched {
            Watched::All => true,
            Watched::Columns(watched) => watched.contains(name) || inserted_only(name),
        };
        let columns: Vec<&String> = header
            .stored_columns()
            .map(|c| &c.name)
            .filter(|name| !header.key.contains(name))
            .collect();
        let columns: Vec<String> =
            columns.into_iter().filter(relocates).map(|name| ident(name)).collect();
        if columns.is_empty() {
            return Ok(());
        }
        let side = |alias: &str| {
            columns.iter().map(|c| format!("{alias}.{c}")).collect::<Vec<_>>().join(", ")
        };
        // Compared as bytes: to the types' own operators 1.0 and 1.00 are equal.
        let sql = format!(
            "DELETE FROM ONLY {} AS t USING {} AS s WHERE {}
             AND ROW({})::record OPERATOR(pg_catalog.*<>) ROW({})::record",
            self.table.sql(),
            self.put_table(),
            self.same_key(),
            side("t"),
            side("s")
        );
        self.moved = db.execute(&format!("updating table {}", self.table.tree), &sql)?;
        Ok(())
    }

    fn update(&self, db: &mut Db) -> Result<u64, PostgresError> {
        let header = &self.table.header;
        let settable = header
            .stored_columns()
            .filter(|column| !header.key.contains(&column.name) && column.identity != "a")
            .map(|column| format!("{0} = s.{0}", ident(&column.name)));
        let settings: Vec<String> = settable.collect();
        if self.is_keyless() || self.puts == 0 || settings.is_empty() {
            return Ok(0);
        }
        let sql = format!(
            "UPDATE ONLY {} AS t SET {} FROM {} AS s WHERE {}",
            self.table.sql(),
            settings.join(", "),
            self.put_table(),
            self.same_key()
        );
        db.execute(&format!("updating table {}", self.table.tree), &sql)
    }

    fn insert(&self, db: &mut Db) -> Result<u64, PostgresError> {
        if self.puts == 0 {
            return Ok(0);
        }
        let columns = self.table.stored("").join(", ");
        let list = if columns.is_empty() { String::new() } else { format!("({columns})") };
        let table = self.table.sql();
        let absent = if self.is_keyless() {
            String::new()
        } else {
            format!("WHERE NOT EXISTS (SELECT FROM ONLY {table} AS t WHERE {})", self.same_key())
        };
        let sql = format!(
            "INSERT INTO {table} {list} OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s {absent}",
            self.table.stored("s.").join(", "),
            self.put_table(),
        );
        db.execute(&format!("inserting into table {}", self.table.tree), &sql)
    }

    /// What the look at the table after the restore has to know.
    fn touched(self) -> Touched {
        let survivors = if self.is_keyless() {
            String::new()
        } else {
            format!(
                "FROM ONLY {} AS t JOIN {} AS s ON {} WHERE true",
                self.table.sql(),
                self.deletion_table(),
                self.same_key()
            )
        };
        Touched {
            tree: self.table.tree.clone(),
            deleted: self.deletions,
            inserted: self.inserted,
            keys: self.keys,
            survivors,
        }
    }

    fn is_keyless(&self) -> bool {
        self.table.header.key_kind != KeyKind::Primary
    }

    fn put_table(&self) -> String {
        format!("pg_temp.coeval_put_{}", self.number)
    }

    fn deletion_table(&self) -> String {
        format!("pg_temp.coeval_delete_{}", self.number)
    }

    /// Whether `t`, the table, and `s`, what is staged, mean the same row.
    fn same_key(&self) -> String {
        let pairs = self.table.header.key.iter().zip(&self.table.key_operators);
        let terms = pairs.map(|(name, operator)| format!("t.{0} {operator} s.{0}", ident(name)));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    fn spool_failed(&self, source: std::io::Error) -> PostgresError {
        PostgresError::Content { table: self.table.tree.clone(), source }
    }
}
