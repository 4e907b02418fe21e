//! What a restore wrote, read again at the cost of what it wrote.
//!
//! Before a restore commits, its tables are read again and compared with the snapshot by root
//! hash. All their rows were read under the same locks just before, and nobody else could write
//! since. So it is enough to see what this transaction did (docs/adr/0014):
//!
//! - every row that it inserted or updated carries its id as `xmin`, whoever asked for it;
//! - every row that it should have deleted is looked up and must be absent;
//! - and the table must have as many rows as it had, less those, plus the new ones.
//!
//! What is there is a subset of what was there before, without what was replaced and deleted,
//! and of what was written. When it has as many rows as that, it is that.
//!
//! This holds only where nothing ran in a subtransaction, which has an id of its own: triggers
//! must have been silent.

use super::super::record::KeyKind;
use super::super::sort::{BUDGET, Duplicates, Sorter};
use super::super::spool::Spool;
use super::capture::{Lines, Rows};
use super::catalog::Table;
use super::connect::Db;
use super::error::PostgresError;
use crate::context::Context;
use crate::hint::Failure;
use crate::tree::{Change, Changes, Content};

/// What a restore did to its tables.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) tables: Vec<Touched>,
}

/// What it did to one.
#[derive(Debug)]
pub(super) struct Touched {
    /// The table's tree.
    pub(super) tree: String,
    /// Rows that are gone.
    pub(super) deleted: u64,
    /// Rows that were not there before.
    pub(super) inserted: u64,
    /// The keys of deleted rows.
    pub(super) keys: Spool,
    /// `FROM` and `WHERE` of the rows `t` that should be gone and are there. To its types, the key
    /// of a row that was written may be equal to one that was deleted: 1.0 and 1.00.
    pub(super) survivors: String,
}

/// Whether something of the application runs on changes although triggers are silent.
pub(super) fn something_runs_always(db: &mut Db) -> Result<bool, PostgresError> {
    let sql = "SELECT (EXISTS (SELECT FROM pg_trigger WHERE tgenabled IN ('A', 'R'))
                 OR EXISTS (SELECT FROM pg_rewrite WHERE ev_enabled IN ('A', 'R')))::text";
    Ok(db.text("reading the catalogue", sql)? == "true")
}

impl Written {
    /// What became of a table that had `before` rows, if that can be told without reading it all.
    pub(super) fn changes<'a>(
        &mut self,
        db: &mut Db,
        table: &Table,
        before: u64,
        ctx: &Context,
    ) -> Result<Option<Changes<'a>>, Failure> {
        let touched = self.tables.iter_mut().find(|touched| touched.tree == table.tree);
        if touched.is_some() && table.header.key_kind != KeyKind::Primary {
            return Ok(None);
        }
        let doing = format!("reading table {} again", table.tree);
        let id = "SELECT coalesce((txid_current_if_assigned() % 4294967296)::text, '')";
        let id = db.text(&doing, id)?;
        // A transaction without an id has written nothing.
        let ours =
            if id.is_empty() { "xmin IS NULL".to_owned() } else { format!("xmin = '{id}'::xid") };
        let sql = format!(
            "SELECT json_build_array(count(*), count(*) FILTER (WHERE {ours}))::text FROM ONLY {}",
            table.sql()
        );
        let (found, written): (u64, u64) = db.json(&doing, &sql)?;
        let (deleted, inserted) =
            touched.as_ref().map_or((0, 0), |touched| (touched.deleted, touched.inserted));
        let expected = (before + inserted).saturating_sub(deleted);
        let survivors: u64 = match &touched {
            Some(touched) if deleted > 0 => {
                let sql = format!(
                    "SELECT count(*)::text {} AND (t.{ours}) IS NOT TRUE",
                    touched.survivors
                );
                db.json(&doing, &sql)?
            }
            _ => 0,
        };
        if found != expected || survivors > 0 || touched.is_none() && written > 0 {
            let table = table.tree.clone();
            return Err(PostgresError::Unproven { table, expected, found, survivors }.into());
        }
        let Some(touched) = touched else { return Ok(Some(Box::new(std::iter::empty()))) };
        let mut sorter = Sorter::new(BUDGET, Duplicates::Refuse);
        let tree = table.tree.clone();
        let failed = |source| PostgresError::Content { table: tree.clone(), source };
        for key in touched.keys.read().map_err(failed)? {
            sorter.push(&key.map_err(failed)?.0, &[])?;
        }
        read(db, table, &ours, &mut sorter, ctx)?;
        Ok(Some(Box::new(sorter.finish()?.map(|entry| {
            let (key, row) = entry?;
            // No row is empty: it is a JSON array.
            Ok(if row.is_empty() {
                Change::delete(key)
            } else {
                Change::put(key, Vec::new(), Content::Inline(row))
            })
        }))))
    }
}

/// Reads the rows that fulfil a condition.
fn read(
    db: &mut Db,
    table: &Table,
    condition: &str,
    sorter: &mut Sorter,
    ctx: &Context,
) -> Result<(), Failure> {
    let sql = format!(
        "COPY (SELECT {} FROM ONLY {} WHERE {condition}) TO STDOUT",
        table.stored("").join(", "),
        table.sql(),
    );
    let mut lines = Lines::new(db.copy_out(&format!("reading table {}", table.tree), &sql)?);
    let mut rows = Rows::new(table);
    while let Some(line) = lines.next(ctx)? {
        let (key, row) = rows.entry(&line)?;
        sorter.push(&key, &row)?;
    }
    Ok(())
}
