//! A copy of a snapshot in which chosen columns say nothing about anybody: for staging systems.
//!
//! What stands in for a value depends on the value and on the repository's key only. So equal
//! values stay equal across tables and snapshots, different ones stay different, and nobody
//! without the key can find out which value it was by trying.

use std::collections::BTreeMap;

use super::derive::{Apply, derive};
use super::manifest::{Reason, SourceRecord};
use super::opened::{Snapshot, TreeRecord};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint};
use crate::id::hex;
use crate::source::Kind;
use crate::source::record::{Column, Field, KeyKind, RowReader, RowWriter, TableHeader};
use crate::source::sort::{BUDGET, Duplicates, Sorter, push_keyless};
use crate::tree::{self, Change, Changes, Content};

/// What becomes of the values of a column. NULL stays NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// They are forgotten.
    Null,
    /// Hexadecimal digits.
    Hash,
    /// A first and a last name.
    FakeName,
    /// An address below `example.com`.
    FakeEmail,
    /// A number that nobody has: `+1 555` and seven digits.
    FakePhone,
    /// This text.
    Text(String),
}

impl std::str::FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "null" => Self::Null,
            "hash" => Self::Hash,
            "fake-name" => Self::FakeName,
            "fake-email" => Self::FakeEmail,
            "fake-phone" => Self::FakePhone,
            _ => match text.strip_prefix("text:") {
                Some(text) => Self::Text(text.to_owned()),
                None => {
                    return Err(format!(
                        "`{text}` is none of null, hash, fake-name, fake-email, fake-phone, text:…"
                    ));
                }
            },
        })
    }
}

/// The rules, by table (as its tree is called) and column.
pub type Rules = BTreeMap<(String, String), Rule>;

/// Why a column cannot be made anonymous.
#[derive(Debug, thiserror::Error)]
pub enum AnonymiseError {
    /// There is no such column.
    #[error("there is no column {table}.{column} in the database")]
    Unknown {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// Others refer to its values, or it to others'.
    #[error("{table}.{column} {reason}")]
    Refused {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Why it cannot be changed in this way.
        reason: &'static str,
    },
}

impl Hint for AnonymiseError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { .. } => {
                "see the columns with `coeval cat SNAPSHOT:/database/NAME/TABLE`".to_owned()
            }
            Self::Refused { .. } => "choose another rule, or another column".to_owned(),
        })
    }
}

/// Writes a copy of `snapshot` with the tables of one of its databases changed by the rules.
/// Everything else is as it was.
pub fn anonymise(
    snapshot: &Snapshot,
    database: &SourceRecord,
    rules: &Rules,
    ctx: &Context,
) -> Result<Snapshot, Failure> {
    let mut tables = Tables::new();
    let mut headers = BTreeMap::new();
    for record in snapshot.trees(database)? {
        headers.insert(record.info.name.clone(), TableHeader::from_json(&record.info.header)?);
    }
    for ((table, column), rule) in rules {
        let field = check(&headers, table, column, rule)?;
        tables.entry(table.as_str()).or_default().insert(field, rule);
    }
    // Not one of the keys that the repository itself uses.
    let key =
        blake3::derive_key("coeval 2026 anonymised values", &snapshot.repo.sealer().gear_key());
    let mut edit = |source: &SourceRecord, record: &TreeRecord, apply: Apply<'_>| {
        let is_it = (source.kind, &source.name) == (Kind::Database, &database.name);
        let Some(rules) = tables.get(record.info.name.as_str()).filter(|_| is_it) else {
            return Ok(None);
        };
        ctx.phase(format!("anonymising table {}", record.info.name), Some(record.tree.entries));
        let changes = rewritten(snapshot, record, &headers[&record.info.name], rules, key)?;
        apply(None, changes).map(Some)
    };
    let reason = Reason::Anonymised { of: snapshot.id };
    let (time, skipped) = (snapshot.manifest.time, snapshot.manifest.skipped.clone());
    derive(snapshot, time, reason, skipped, &mut edit, ctx)
}

/// By table, the rules of the fields.
type Tables<'r> = BTreeMap<&'r str, Fields<'r>>;
type Fields<'r> = BTreeMap<usize, &'r Rule>;

/// The field of a column, if the rule can be applied to it.
fn check(
    headers: &BTreeMap<String, TableHeader>,
    table: &str,
    column: &str,
    rule: &Rule,
) -> Result<usize, AnonymiseError> {
    let (name, of) = (column, table);
    let unknown = || AnonymiseError::Unknown { table: of.to_owned(), column: name.to_owned() };
    let refused = |reason| {
        Err(AnonymiseError::Refused { table: of.to_owned(), column: name.to_owned(), reason })
    };
    let header = headers.get(table).ok_or_else(unknown)?;
    let mut stored = header.stored_columns().enumerate();
    let (field, column) = stored.find(|(_, c)| c.name == name).ok_or_else(unknown)?;
    let same = |other: &String| other.eq_ignore_ascii_case(name);
    if header.key.iter().any(same) {
        return refused("is part of the primary key: its values stay");
    }
    if header.foreign_keys.iter().any(|foreign| foreign.columns.iter().any(same)) {
        return refused("refers to another table: its values stay");
    }
    let referred = headers.values().flat_map(|other| &other.foreign_keys).any(|foreign| {
        (foreign.ref_table.eq_ignore_ascii_case(&header.table)
            && foreign.ref_schema == header.schema)
            && foreign.ref_columns.iter().any(same)
    });
    if referred {
        return refused("is referred to by another table: its values stay");
    }
    let unique = header.unique.iter().any(|columns| columns.iter().any(same));
    match rule {
        Rule::Null if column.not_null => refused("must not be NULL"),
        Rule::Text(_) if unique => refused("is unique: one text for all does not fit"),
        Rule::Null => Ok(field),
        _ if !is_text(column) => refused("is not of text: only the rule null fits"),
        Rule::FakeName | Rule::FakePhone if unique => {
            refused("is unique: only the rules hash, fake-email and null fit")
        }
        _ => Ok(field),
    }
}

fn is_text(column: &Column) -> bool {
    // SQLite's columns take text whatever they are declared as, but numbers are of no use there.
    matches!(
        column.type_oid_name.as_str(),
        "text" | "varchar" | "bpchar" | "citext" | "name" | "blob" | "character varying"
    )
}

/// The rows of a table by the rules.
fn rewritten<'a>(
    snapshot: &'a Snapshot,
    record: &TreeRecord,
    header: &TableHeader,
    rules: &'a Fields<'_>,
    key: [u8; 32],
) -> Result<Changes<'a>, Failure> {
    let repo = &*snapshot.repo;
    let lengths: BTreeMap<usize, usize> = header
        .stored_columns()
        .enumerate()
        .filter_map(|(field, column)| Some((field, length(&column.declared_type)?)))
        .collect();
    let rows = tree::entries(repo, record.tree, &[], &[]).map(move |entry| {
        let (at, value) = entry?;
        let row = value.content.bytes(repo, usize::MAX)?;
        let mut writer = RowWriter::default();
        writer.begin();
        for (index, field) in RowReader::new(&row).enumerate() {
            let field = field?;
            match rules.get(&index) {
                Some(rule) => writer.push(&stand_in(rule, &field, lengths.get(&index), &key)),
                None => writer.push(&field),
            }
        }
        Ok(Change::put(at, value.head, Content::Inline(writer.end().to_vec())))
    });
    if header.key_kind != KeyKind::Hash {
        return Ok(Box::new(rows));
    }
    // The key of such a row is the row itself.
    let mut sorter = Sorter::new(BUDGET, Duplicates::Number);
    for row in rows {
        let row: Result<Change, Failure> = row;
        if let Some(value) = row?.value {
            push_keyless(&mut sorter, &value.content.bytes(repo, usize::MAX)?)?;
        }
    }
    Ok(Box::new(sorter.finish()?.map(|entry| {
        let (key, row) = entry?;
        Ok(Change::put(key, [], Content::Inline(row)))
    })))
}

/// What stands in for a value; at most `limit` characters of it.
fn stand_in(
    rule: &Rule,
    field: &Field<'_>,
    limit: Option<&usize>,
    key: &[u8; 32],
) -> Field<'static> {
    let mut hasher = blake3::Hasher::new_keyed(key);
    match field {
        Field::Null => return Field::Null,
        Field::Text(bytes) | Field::Blob(bytes) => hasher.update(bytes),
        Field::Integer(value) => hasher.update(value.to_string().as_bytes()),
        Field::Real(value) => hasher.update(value.to_string().as_bytes()),
        Field::Boolean(value) => hasher.update(value.to_string().as_bytes()),
    };
    let hash = *hasher.finalize().as_bytes();
    let text = match rule {
        Rule::Null => return Field::Null,
        Rule::Hash => hex(&hash),
        Rule::FakeName => {
            let of = |names: [&str; 16], byte: u8| names[usize::from(byte % 16)].to_owned();
            format!("{} {}", of(FIRST_NAMES, hash[0]), of(LAST_NAMES, hash[1]))
        }
        Rule::FakeEmail => format!("{}@example.com", hex(&hash[..10])),
        Rule::FakePhone => {
            let number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % 10_000_000;
            format!("+1 555 {number:07}")
        }
        Rule::Text(text) => text.clone(),
    };
    let text: String = text.chars().take(limit.copied().unwrap_or(usize::MAX)).collect();
    Field::Text(text.into_bytes().into())
}

/// How many characters a column takes, where its type says so: `character varying(20)`.
fn length(declared: &str) -> Option<usize> {
    let (name, rest) = declared.split_once('(')?;
    let is_text = name.to_ascii_lowercase().contains("char");
    rest.split(')').next()?.trim().parse().ok().filter(|_| is_text)
}

const FIRST_NAMES: [&str; 16] = [
    "Alex", "Billie", "Chris", "Dana", "Eden", "Frankie", "Gale", "Harper", "Indigo", "Jamie",
    "Kim", "Lee", "Morgan", "Noor", "Robin", "Sam",
];
const LAST_NAMES: [&str; 16] = [
    "Archer", "Baker", "Carter", "Dyer", "Fisher", "Fletcher", "Gardner", "Hunter", "Mason",
    "Miller", "Porter", "Sawyer", "Smith", "Taylor", "Turner", "Weaver",
];
