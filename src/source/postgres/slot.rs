//! Which rows changed, from the server's log: through a logical replication slot that the operator
//! made once (`coeval database setup`). It is read with SQL functions, so that an ordinary
//! connection does.
//!
//! The log is in the order of commits, the snapshot is a set of transactions, and the two need not
//! agree at their edges. So the rows are not taken from the log: it only tells which keys to read
//! again as of the snapshot, and to read one too many does no harm. What the snapshot does not see
//! yet is left in the log for the next time.
//!
//! The slot is moved on by the capture after the one that read it, whose snapshot is then surely
//! committed. A random message written to the log after each capture proves to the next one that
//! nothing between the two is missing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::super::key;
use super::super::record::{Field, Form};
use super::super::sort::{BUDGET, Duplicates, Sorted, Sorter};
use super::capture::Lines;
use super::catalog::Table;
use super::connect::{Db, Login};
use super::copytext::unescape;
use super::decoding::{self, Datum, Line, RowChange, Tuple};
use super::error::PostgresError;
use super::position::{LogPosition, Lsn, Now, Position, Visible};
use super::transactions::{Entry, Transactions};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::hex;

/// Who the messages in the log are for.
const PREFIX: &str = "coeval";
/// The plugin that the slot must have.
pub(super) const PLUGIN: &str = "test_decoding";

/// A slot as the server describes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Slot {
    pub name: String,
    plugin: Option<String>,
    database: Option<String>,
    confirmed: Option<Lsn>,
    status: Option<String>,
    /// Bytes of log that are kept for it.
    pub retained: Option<u64>,
}

/// The slot with this name, if there is one.
pub(super) fn find(db: &mut Db, name: &str) -> Result<Option<Slot>, PostgresError> {
    // The column wal_status came with PostgreSQL 13.
    let sql = format!(
        "SELECT json_build_object('name', slot_name, 'plugin', plugin, 'database', database,
           'confirmed', confirmed_flush_lsn::text, 'status', to_jsonb(s) ->> 'wal_status',
           'retained', CASE WHEN NOT pg_is_in_recovery()
             THEN greatest(pg_current_wal_lsn() - restart_lsn, 0)::int8 END)::text
         FROM pg_replication_slots s WHERE slot_name = '{}'",
        name.replace('\'', "''")
    );
    db.optional_json("looking for a replication slot", &sql)
}

/// The name of the slot of a database, where none is configured.
pub(super) fn default_name(database: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    // The server takes names of up to 63 bytes.
    let database: String = database.chars().map(plain).take(56).collect();
    format!("coeval_{database}")
}

impl Slot {
    /// Why it cannot be read, if it cannot.
    pub(super) fn trouble(&self, database: &str) -> Option<String> {
        let name = &self.name;
        if self.plugin.as_deref() != Some(PLUGIN) {
            Some(format!("the plugin of slot {name} is not {PLUGIN}"))
        } else if self.database.as_deref() != Some(database) {
            Some(format!("slot {name} is for another database"))
        } else if self.status.as_deref() == Some("lost") || self.confirmed.is_none() {
            Some(format!("the server threw away log that slot {name} needed"))
        } else {
            None
        }
    }
}

/// What was read of the log.
pub(super) struct Log {
    pub position: LogPosition,
    /// What may be compared later instead of the snapshot that was read: the same, after the
    /// message in the log.
    pub seen: Visible,
    /// What changed since the parent; or why that cannot be told.
    pub changed: Result<Changed, String>,
}

/// Which rows changed.
pub(super) struct Changed {
    /// Tables, by number, that must be read as a whole.
    whole: BTreeSet<usize>,
    /// Keys of the others, each after the number of its table.
    keys: std::iter::Peekable<Sorted>,
    counts: BTreeMap<usize, u64>,
    /// The transactions one by one, where each of their rows could be told.
    pub transactions: Transactions,
}

/// What to read of a table again.
pub(super) enum Dirty<'a> {
    Nothing,
    Everything,
    Keys(Keys<'a>),
}

/// Keys in ascending order.
pub(super) struct Keys<'a> {
    table: usize,
    keys: &'a mut std::iter::Peekable<Sorted>,
}

impl Iterator for Keys<'_> {
    type Item = Result<Vec<u8>, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let prefix = prefix(self.table);
        let ours = |entry: &Result<(Vec<u8>, Vec<u8>), _>| {
            entry.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))
        };
        let entry = self.keys.next_if(ours)?;
        Some(entry.map(|(key, _)| key[prefix.len()..].to_vec()).map_err(Failure::from))
    }
}

fn prefix(table: usize) -> [u8; 4] {
    u32::try_from(table).unwrap_or(u32::MAX).to_be_bytes()
}

impl Changed {
    /// What changed in the table with this number. Tables are asked for in ascending order.
    pub(super) fn of(&mut self, number: usize, table: &Table) -> Dirty<'_> {
        /// From which part of a table on it is quicker to read all of it.
        const PART: u64 = 8;
        const FEW: u64 = 10_000;
        let count = self.counts.get(&number).copied().unwrap_or(0);
        let many = count > FEW && table.estimate.is_some_and(|rows| count > rows / PART);
        if many || self.whole.contains(&number) {
            return Dirty::Everything;
        }
        let before = |entry: &Result<(Vec<u8>, Vec<u8>), _>| {
            entry.as_ref().is_ok_and(|(key, _)| key[..] < prefix(number)[..])
        };
        while self.keys.next_if(before).is_some() {}
        if count == 0 {
            return Dirty::Nothing;
        }
        Dirty::Keys(Keys { table: number, keys: &mut self.keys })
    }
}

/// Reads the log up to the snapshot that `now` describes, and beyond: what the snapshot does not
/// see yet is read again the next time. `parent` is the position of the snapshot before.
pub(super) fn read(
    login: &Login,
    slot: &Slot,
    parent: Option<&Position>,
    now: &Now,
    tables: &[Table],
    ctx: &Context,
) -> Result<Log, Failure> {
    let doing = "reading the log of changes";
    let mut db = Db::open(login)?;
    let known = usable(slot, parent, now);
    let confirmed = slot.confirmed.unwrap_or(Lsn(0));
    let from = known.as_ref().map_or(confirmed, |log| log.consumed);
    if from > confirmed {
        let name = &slot.name;
        db.text(doing, &format!("SELECT (pg_replication_slot_advance('{name}', '{from}'))::text"))?;
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| PostgresError::Runtime(error.into()))?;
    let token = hex(&random);
    db.execute(doing, "SET synchronous_commit = on")?;
    db.text(doing, &format!("SELECT pg_logical_emit_message(true, '{PREFIX}', '{token}')::text"))?;
    let end = db.text(doing, "SELECT pg_current_wal_flush_lsn()::text")?;
    let after = db.text(doing, "SELECT txid_current_snapshot()::text")?;
    let after =
        Visible::try_from(after).ok().filter(|after| now.snapshot.next().as_ref() == Some(after));
    let mut reader = Reader {
        tables,
        names: names(tables),
        visible: &now.snapshot,
        expected: known.as_ref().ok().map(|log| log.token.clone()),
        last: &token,
        consumed: from,
        open: true,
        sorter: Sorter::new(BUDGET, Duplicates::Merge),
        whole: BTreeSet::new(),
        counts: BTreeMap::new(),
        transactions: Transactions::new(parent.and_then(|parent| parent.snapshot.clone())),
    };
    let sql = format!(
        "COPY (SELECT lsn, xid, data FROM pg_logical_slot_peek_changes('{}', '{end}', NULL,
           'skip-empty-xacts', '1', 'include-timestamp', '1')) TO STDOUT",
        slot.name
    );
    let mut lines = Lines::new(db.copy_out(doing, &sql)?);
    let mut scratch = Vec::new();
    while let Some(line) = lines.next(ctx)? {
        scratch.clear();
        let (lsn, xid, data) = columns(&line, &mut scratch).ok_or_else(|| malformed(&line))?;
        reader.line(lsn, xid, data)?;
    }
    let seen_token = reader.expected.is_none();
    let consumed = reader.consumed;
    let position = LogPosition { slot: slot.name.clone(), consumed, token: token.clone() };
    let changed = match known {
        Err(reason) => Err(reason),
        Ok(_) if !seen_token => {
            Err("the log does not go on where the snapshot before ended".to_owned())
        }
        Ok(_) => Ok(reader.finish()?),
    };
    Ok(Log { position, seen: after.unwrap_or_else(|| now.snapshot.clone()), changed })
}

/// The parent's position in the log, if the log can be read from there on; else why not.
fn usable(slot: &Slot, parent: Option<&Position>, now: &Now) -> Result<LogPosition, String> {
    let name = &slot.name;
    let log = parent.and_then(|parent| parent.log.as_ref()).filter(|log| log.slot == *name);
    let (Some(log), Some(parent)) = (log, parent) else {
        return Err(format!("this is the first snapshot that follows the changes in slot {name}"));
    };
    if parent.history != now.history {
        return Err("the server is another one, or was brought back from a backup".to_owned());
    }
    if slot.confirmed.is_none_or(|confirmed| confirmed > log.consumed) {
        return Err(format!("slot {name} was read by somebody else"));
    }
    Ok(log.clone())
}

type Names = BTreeMap<(String, String), usize>;

fn names(tables: &[Table]) -> Names {
    let name = |table: &Table| (table.header.schema.clone(), table.header.table.clone());
    tables.iter().enumerate().map(|(number, table)| (name(table), number)).collect()
}

/// The columns of a line of the answer.
fn columns<'a>(line: &[u8], scratch: &'a mut Vec<u8>) -> Option<(Lsn, u32, &'a str)> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut columns = line.splitn(3, |byte| *byte == b'\t');
    let mut text = || str::from_utf8(columns.next()?).ok();
    let (lsn, xid, data) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?);
    unescape(data.as_bytes(), scratch)?;
    Some((lsn, xid, str::from_utf8(scratch).ok()?))
}

fn malformed(line: &[u8]) -> PostgresError {
    // What a row holds is nobody's business.
    let beginning: String = String::from_utf8_lossy(line).chars().take(40).collect();
    PostgresError::Answer {
        doing: "reading the log of changes".to_owned(),
        reason: format!("`{beginning}…` is no line of {PLUGIN}"),
    }
}

struct Reader<'a> {
    tables: &'a [Table],
    names: Names,
    visible: &'a Visible,
    /// The message that must come; none once it has.
    expected: Option<String>,
    /// The message of this capture.
    last: &'a str,
    consumed: Lsn,
    /// Whether all so far is visible in the snapshot.
    open: bool,
    sorter: Sorter,
    whole: BTreeSet<usize>,
    counts: BTreeMap<usize, u64>,
    transactions: Transactions,
}

impl Reader<'_> {
    fn line(&mut self, lsn: Lsn, xid: u32, data: &str) -> Result<(), Failure> {
        let line = decoding::parse(data).ok_or_else(|| malformed(data.as_bytes()))?;
        match line {
            Line::Begin => {
                self.transactions.begin(Some(xid).filter(|xid| self.visible.sees(*xid)));
            }
            Line::Commit(time) => {
                self.open &= self.visible.sees(xid);
                self.pass(lsn);
                self.transactions.commit(lsn, time)?;
            }
            Line::Message { prefix: PREFIX, content } => {
                if self.expected.as_deref() == Some(content) {
                    self.expected = None;
                }
                self.open &= self.visible.sees(xid) && content != self.last;
                self.pass(lsn);
            }
            Line::Message { .. } => {}
            Line::Truncate(tables) => {
                for name in tables {
                    if let Some(number) = self.number(&name.0, &name.1) {
                        self.whole.insert(number);
                        self.transactions.push(Entry::Truncate(&self.tables[number]))?;
                    }
                }
            }
            Line::Row(change) => self.row(&change)?,
        }
        Ok(())
    }

    /// All up to here need not be read again, as long as all of it is seen.
    const fn pass(&mut self, lsn: Lsn) {
        if self.open {
            self.consumed = if lsn.0 > self.consumed.0 { lsn } else { self.consumed };
        }
    }

    fn number(&self, schema: &str, table: &str) -> Option<usize> {
        self.names.get(&(schema.to_owned(), table.to_owned())).copied()
    }

    fn row(&mut self, change: &RowChange<'_>) -> Result<(), Failure> {
        let Some(number) = self.number(&change.table.0, &change.table.1) else { return Ok(()) };
        let table = &self.tables[number];
        let old = change.old.as_ref().and_then(|tuple| key_of(table, tuple));
        let new = change.new.as_ref().and_then(|tuple| key_of(table, tuple));
        let told = change.new.is_none() == new.is_none() && (old.is_some() || new.is_some());
        if !table.followed || !told {
            self.whole.insert(number);
            return self.transactions.lose(table);
        }
        for key in [&old, &new].into_iter().flatten() {
            *self.counts.entry(number).or_default() += 1;
            self.sorter.push(&[&prefix(number)[..], key].concat(), &[])?;
        }
        self.transactions.push(Entry::Row { table, change, old, new })
    }

    fn finish(self) -> Result<Changed, Failure> {
        Ok(Changed {
            whole: self.whole,
            keys: self.sorter.finish()?.peekable(),
            counts: self.counts,
            transactions: self.transactions,
        })
    }
}

/// The key of a row, if all of it was written to the log.
fn key_of(table: &Table, tuple: &Tuple<'_>) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    for name in &table.header.key {
        let (_, datum) = tuple.iter().find(|(column, _)| column == name)?;
        let column = table.header.columns.iter().find(|column| column.name == *name)?;
        key::push(&mut key, &field(datum, column.form())?);
    }
    Some(key)
}

/// A value as records hold it; `None` if it was not written to the log.
pub(super) fn field<'a>(datum: &'a Datum<'_>, form: Form) -> Option<Field<'a>> {
    Some(match (datum, form) {
        (Datum::Unchanged, _) => return None,
        (Datum::Null, _) => Field::Null,
        (Datum::Text(text), Form::Integer) => Field::Integer(text.parse().ok()?),
        (Datum::Text(text), Form::Boolean) => Field::Boolean(text == "t"),
        (Datum::Text(text), Form::Text) => Field::text(text),
    })
}
