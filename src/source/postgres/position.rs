//! How far a capture had come, so that the next one can tell what changed since: kept as a note
//! with the snapshot.
//!
//! Two captures that see the same transactions see the same rows, and `txid_current_snapshot()`
//! names the set of transactions that are seen. That holds only within one history of one
//! database: a server that crashed may have lost its last transactions and give their numbers to
//! others. So a position also names the history, and counts only when what it saw had reached the
//! disk.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog::Table;
use super::connect::Db;
use super::error::PostgresError;

/// The name of the note.
pub(crate) const NOTE: &str = "position";

const VERSION: u32 = 1;

/// How long to wait for the server to write what was seen to the disk; it does so by itself every
/// fraction of a second (`wal_writer_delay`).
const FLUSH: (u32, Duration) = (20, Duration::from_millis(25));

/// What the server said when the capture began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    version: u32,
    pub history: History,
    /// When the server was started: within one run no number of a transaction is used twice.
    pub started: String,
    /// The transactions that are seen: `xmin:xmax:in progress`. None where they may not have
    /// reached the disk.
    pub snapshot: Option<Visible>,
    /// What decides, besides the rows, what is captured.
    pub options: String,
    /// Changes when a statement changes the structure of the database.
    pub structure: String,
    /// Per tree, what changes when its table is rewritten or made anew under the same name: its
    /// oid and the number of its file.
    pub tables: BTreeMap<String, (i64, i64)>,
    /// How far the log was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogPosition>,
}

/// Which succession of states of which database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    system: String,
    /// Changes when a standby takes over or a base backup is brought back.
    timeline: String,
    database: i64,
}

/// How far the log of changes was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogPosition {
    pub slot: String,
    /// All transactions that were committed before it are in the snapshot.
    pub consumed: Lsn,
    /// A message in the log after `consumed`: if it is still there, so is everything between.
    pub token: String,
}

/// A position in the write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Lsn(pub u64);

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let half = |text| u32::from_str_radix(text, 16).ok();
        let halves = text.split_once('/').and_then(|(high, low)| half(high).zip(half(low)));
        let (high, low) = halves.ok_or_else(|| format!("`{text}` is no position in the log"))?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

impl TryFrom<String> for Lsn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

/// Which transactions are seen: all before `xmin`, none from `xmax` on, and between them all that
/// are not in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Visible {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl Visible {
    /// Whether a transaction is seen, given the lower half of its number as the log has it.
    pub(super) fn sees(&self, xid: u32) -> bool {
        // The number next to `xmax` that ends like this.
        let lower = u32::try_from(self.xmax & u64::from(u32::MAX)).unwrap_or(0);
        let distance = i64::from(xid.wrapping_sub(lower).cast_signed());
        let xid = self.xmax.wrapping_add_signed(distance);
        xid < self.xmin || xid < self.xmax && !self.in_progress.contains(&xid)
    }

    /// The same after one more transaction, if nothing else happened.
    pub(super) fn next(&self) -> Option<Self> {
        let quiet = self.xmin == self.xmax && self.in_progress.is_empty();
        let next = self.xmax + 1;
        quiet.then(|| Self { xmin: next, xmax: next, in_progress: Vec::new() })
    }
}

impl TryFrom<String> for Visible {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let mut number = || parts.next()?.parse().ok();
        let wrong = || format!("`{text}` is no set of transactions");
        let (xmin, xmax) = number().zip(number()).ok_or_else(wrong)?;
        let list = parts.next().unwrap_or_default();
        let list = list.split(',').filter(|xid| !xid.is_empty());
        let in_progress = list.map(|xid| xid.parse().map_err(|_| wrong()));
        Ok(Self { xmin, xmax, in_progress: in_progress.collect::<Result<_, _>>()? })
    }
}

impl From<Visible> for String {
    fn from(visible: Visible) -> Self {
        let list: Vec<Self> = visible.in_progress.iter().map(u64::to_string).collect();
        format!("{}:{}:{}", visible.xmin, visible.xmax, list.join(","))
    }
}

/// What a connection says of the instant that its transaction sees.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Now {
    #[serde(flatten)]
    pub history: History,
    pub started: String,
    pub snapshot: Visible,
    /// Everything that is seen was written before this.
    inserted: Lsn,
}

/// Asks; `None` on a standby, which has no log of its own, and where this role may not ask: the
/// rows can still be read.
pub(super) fn now(db: &mut Db) -> Result<Option<Now>, PostgresError> {
    let doing = "reading the position in the log";
    let sql = "SELECT (NOT pg_is_in_recovery()
         AND bool_and(has_function_privilege(name || '()', 'EXECUTE'))
         AND has_function_privilege('pg_walfile_name(pg_lsn)', 'EXECUTE'))::text
         FROM unnest(ARRAY['pg_control_system', 'pg_postmaster_start_time',
           'pg_current_wal_insert_lsn', 'pg_current_wal_flush_lsn']) AS name";
    if db.text(doing, sql)? != "true" {
        return Ok(None);
    }
    let sql = "SELECT json_build_object(
           'snapshot', txid_current_snapshot()::text,
           'system', (SELECT system_identifier::text FROM pg_control_system()),
           'timeline', substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8),
           'database', (SELECT oid::int8 FROM pg_database WHERE datname = current_database()),
           'started', pg_postmaster_start_time()::text,
           'inserted', pg_current_wal_insert_lsn()::text)::text";
    db.json(doing, sql).map(Some)
}

impl Now {
    /// Whether all that is seen has reached the disk, or does so soon.
    pub(super) fn is_durable(&self, db: &mut Db) -> Result<bool, PostgresError> {
        let (attempts, pause) = FLUSH;
        for attempt in 0..attempts {
            if attempt > 0 {
                std::thread::sleep(pause);
            }
            let flushed = db.text("reading the log", "SELECT pg_current_wal_flush_lsn()::text")?;
            if flushed.parse::<Lsn>().is_ok_and(|flushed| flushed >= self.inserted) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a transaction that sees this sees what was captured at `then`.
    pub(super) fn sees_the_same_as(&self, then: &Position) -> bool {
        self.history == then.history
            && self.started == then.started
            && then.snapshot.as_ref() == Some(&self.snapshot)
    }

    /// The position to keep.
    pub(super) fn into_position(
        self,
        options: String,
        structure: String,
        tables: &[Table],
    ) -> Position {
        Position {
            version: VERSION,
            history: self.history,
            started: self.started,
            snapshot: Some(self.snapshot),
            options,
            structure,
            tables: tables.iter().map(|table| (table.tree.clone(), table.storage)).collect(),
            log: None,
        }
    }
}

impl Position {
    /// Reads the note of an earlier snapshot; `None` where there is none that this version knows.
    pub(super) fn of_note(note: &[u8]) -> Option<Self> {
        serde_json::from_slice(note).ok().filter(|position: &Self| position.version == VERSION)
    }

    /// The note.
    pub(super) fn to_note(&self) -> Vec<u8> {
        super::super::record::json(self)
    }
}

/// Catalogues of what belongs to a relation, which may be a temporary one, and the column that
/// names it. Numbers below 16384 are the server's own.
const OF_RELATIONS: [(&str, &str); 13] = [
    ("pg_attrdef", "adrelid"),
    ("pg_attribute", "attrelid"),
    ("pg_class", "oid"),
    ("pg_constraint", "conrelid"),
    ("pg_foreign_table", "ftrelid"),
    ("pg_index", "indrelid"),
    ("pg_inherits", "inhrelid"),
    ("pg_partitioned_table", "partrelid"),
    ("pg_policy", "polrelid"),
    ("pg_rewrite", "ev_class"),
    ("pg_sequence", "seqrelid"),
    ("pg_statistic_ext", "stxrelid"),
    ("pg_trigger", "tgrelid"),
];
/// The same of what belongs to no relation.
const OTHERS: [(&str, &str); 29] = [
    ("pg_aggregate", "aggfnoid"),
    ("pg_am", "oid"),
    ("pg_amop", "oid"),
    ("pg_amproc", "oid"),
    ("pg_cast", "oid"),
    ("pg_collation", "oid"),
    ("pg_conversion", "oid"),
    ("pg_default_acl", "oid"),
    ("pg_description", "objoid"),
    ("pg_enum", "oid"),
    ("pg_event_trigger", "oid"),
    ("pg_extension", "oid"),
    ("pg_foreign_data_wrapper", "oid"),
    ("pg_foreign_server", "oid"),
    ("pg_language", "oid"),
    ("pg_opclass", "oid"),
    ("pg_operator", "oid"),
    ("pg_opfamily", "oid"),
    ("pg_proc", "oid"),
    ("pg_publication", "oid"),
    ("pg_publication_rel", "oid"),
    ("pg_range", "rngtypid"),
    ("pg_seclabel", "objoid"),
    ("pg_transform", "oid"),
    ("pg_ts_config", "oid"),
    ("pg_ts_config_map", "mapcfg"),
    ("pg_ts_dict", "oid"),
    ("pg_ts_parser", "oid"),
    ("pg_ts_template", "oid"),
];

/// A text that changes with every statement that changes the structure: the versions of the rows
/// of the catalogue that belong to the application.
pub(super) fn structure(db: &mut Db) -> Result<String, PostgresError> {
    const VERSIONS: &str = "sum(pg_catalog.hashtext(x.xmin::text || x.ctid::text)::int8)";
    let part = |catalogue: &str, condition: &str| {
        format!(
            "SELECT '{catalogue}' AS n, count(*) AS c, {VERSIONS} AS v FROM {catalogue} x
              WHERE {condition}"
        )
    };
    let of_relations = OF_RELATIONS.map(|(catalogue, column)| {
        let condition = format!(
            "x.{column} >= 16384 AND x.{column} NOT IN
             (SELECT c.oid FROM pg_class c WHERE c.relpersistence = 't')"
        );
        part(catalogue, &condition)
    });
    let others =
        OTHERS.map(|(catalogue, column)| part(catalogue, &format!("x.{column}::oid >= 16384")));
    // Schemas and types come with temporary tables, too; comments and rights on `public` matter.
    let rest = [
        part("pg_namespace", "x.nspname !~ '^pg_(toast_)?temp'"),
        part("pg_type", "x.oid >= 16384 AND x.typrelid = 0 AND x.typelem = 0"),
        part("pg_constraint", "x.contypid <> 0"),
        part("pg_description", "x.classoid = 'pg_namespace'::regclass"),
    ];
    let all = [of_relations.to_vec(), others.to_vec(), rest.to_vec()].concat();
    let sql = format!(
        "SELECT md5(string_agg(s::text, ' ' ORDER BY s.n, s.c, s.v)) FROM ({}) s",
        all.join(" UNION ALL ")
    );
    db.text("reading the catalogue", &sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(text: &str) -> Visible {
        Visible::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_transaction_is_seen_unless_it_was_under_way_or_later() {
        let seen = visible("100:105:100,103");
        let sees: Vec<u32> = (98..107).filter(|xid| seen.sees(*xid)).collect();
        assert_eq!(sees, [98, 99, 101, 102, 104]);
        assert_eq!(String::from(seen), "100:105:100,103");
    }

    #[test]
    fn the_log_knows_only_the_lower_half_of_a_number() {
        let epoch = 3_u64 << 32;
        let seen = visible(&format!("{}:{}:", epoch + 5, epoch + 5));
        assert!(seen.sees(4) && !seen.sees(5) && !seen.sees(6));
        // From before the last turn of the counter.
        assert!(seen.sees(u32::MAX));
        let about = visible(&format!("{}:{}:", epoch - 2, epoch - 1));
        assert!(about.sees(u32::MAX - 3) && !about.sees(u32::MAX) && !about.sees(2));
    }

    #[test]
    fn a_position_in_the_log_is_written_as_the_server_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.0, 0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("16".parse::<Lsn>().is_err() && "x/1".parse::<Lsn>().is_err());
    }
}
