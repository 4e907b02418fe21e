//! Records without loss: how a row of any database becomes bytes and comes back the same.
//!
//! A table is a tree: its key is made by [`key`](super::key), its value is the row as a JSON array
//! in column order ([`row`]), and its columns and constraints are told once, in a [`TableHeader`].
//! What belongs to no single table (schema, sequences) is in the [`DatabaseHeader`]. Everything
//! here is JSON, so that a snapshot is readable with a text editor after coeval is gone. The
//! normative description is in `docs/FORMAT.md`, "Records".

pub mod base64;
mod row;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use row::{Field, RowError, RowReader, RowWriter};

use crate::hint::{ErrorKind, Hint};

/// The version of both headers that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// What kind of database the records come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// PostgreSQL.
    Postgresql,
    /// SQLite.
    Sqlite,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgresql => "PostgreSQL",
            Self::Sqlite => "SQLite",
        })
    }
}

/// A database as of the instant it was read, but for its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseHeader {
    /// [`VERSION`].
    pub version: u32,
    /// Decides how [`DatabaseHeader::schema`] and column types are to be read.
    pub engine: Engine,
    /// As the server says it: `15.18`, `3.40.1`.
    pub server_version: String,
    /// The database's name, or the file's.
    pub database: String,
    /// The encoding of text on the server; records are always UTF-8.
    pub encoding: String,
    /// The statements that make the empty database.
    pub schema: Schema,
    /// Hexadecimal BLAKE3 of what decides whether rows fit: equal hashes, equal structure.
    pub schema_hash: String,
    /// Extensions that the schema needs, by name.
    #[serde(default)]
    pub extensions: Vec<String>,
    /// All sequences with their position, in order of schema and name.
    pub sequences: Vec<Sequence>,
    /// Tables whose rows were left out because the configuration says so, as tree names.
    pub excluded_tables: Vec<String>,
    /// Whether large objects were captured, too: where they have no tree, there were none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub large_objects: bool,
}

/// The structure of a database as the statements that create it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
pub enum Schema {
    /// What `pg_dump --schema-only` prints, in two parts.
    PgDump {
        /// What must be there before the rows: schemas, types, functions, tables.
        pre_data: String,
        /// What is made after the rows: constraints, indexes, triggers.
        post_data: String,
    },
    /// The same as far as the catalogue tells, where there was no `pg_dump`.
    Catalogue {
        /// What must be there before the rows.
        pre_data: String,
        /// What is made after the rows.
        post_data: String,
    },
    /// The rows of `sqlite_master`.
    SqliteMaster {
        /// In the order of their creation.
        objects: Vec<SqliteObject>,
    },
    /// There are rows but no statements: they can only be restored where the tables exist.
    Unavailable {
        /// Why, as a sentence.
        reason: String,
    },
}

impl Schema {
    /// The statements to run before and after the rows, where it is made of statements of
    /// PostgreSQL.
    pub fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::PgDump { pre_data, post_data } | Self::Catalogue { pre_data, post_data } => {
                Some((pre_data, post_data))
            }
            Self::SqliteMaster { .. } | Self::Unavailable { .. } => None,
        }
    }
}

/// One row of `sqlite_master`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqliteObject {
    /// `table`, `index`, `view` or `trigger`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table it belongs to; its own name for a table or view.
    pub table: String,
    /// The statement that made it.
    pub sql: String,
}

/// A sequence, or SQLite's `AUTOINCREMENT` counter of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its schema; empty for SQLite.
    pub schema: String,
    /// Its name; the table's for SQLite.
    pub name: String,
    /// The tree of the table whose column owns it, if any.
    pub owned_by_table: Option<String>,
    /// That column.
    pub owned_by_column: Option<String>,
    /// The last value handed out, or the first to be when [`Sequence::is_called`] is false.
    pub last_value: i64,
    /// Whether `last_value` was handed out.
    pub is_called: bool,
    /// The step; negative for a descending sequence.
    pub increment: i64,
}

/// What the rows of a table mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableHeader {
    /// [`VERSION`].
    pub version: u32,
    /// The table's schema; `main` for SQLite.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// All columns in order. A row has one field for each that is not generated.
    pub columns: Vec<Column>,
    /// The names of the columns whose values make the key, in key order; empty unless
    /// [`KeyKind::Primary`].
    pub key: Vec<String>,
    /// How entries are told apart.
    pub key_kind: KeyKind,
    /// References to other tables.
    pub foreign_keys: Vec<ForeignKey>,
    /// Column sets that are unique besides the key.
    pub unique: Vec<Vec<String>>,
    /// Hexadecimal BLAKE3 of this header with this field empty; see [`TableHeader::seal`].
    pub schema_hash: String,
}

/// How the rows of a table are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// By the primary key.
    Primary,
    /// By SQLite's row number, which is then no column of the row.
    Rowid,
    /// By the row itself and a counter of equal ones.
    Hash,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The declared type: `character varying(20)`.
    #[serde(rename = "type")]
    pub declared_type: String,
    /// The type's own name, domains resolved to what they stand on: `int4`, `_text`, `mood`;
    /// the affinity in lower case for SQLite.
    pub type_oid_name: String,
    /// PostgreSQL's type modifier, -1 for none.
    pub typmod: i32,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// Its collation where that is not the type's default.
    pub collation: Option<String>,
    /// `a` for an identity column GENERATED ALWAYS, `d` for BY DEFAULT, else empty.
    pub identity: String,
    /// Whether the database computes it; then rows do not hold it.
    pub generated: bool,
    /// The default or generating expression.
    pub default: Option<String>,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The referring columns.
    pub columns: Vec<String>,
    /// The schema of the table referred to.
    pub ref_schema: String,
    /// The table referred to.
    pub ref_table: String,
    /// The columns referred to, in the order of `columns`.
    pub ref_columns: Vec<String>,
    /// `no action`, `restrict`, `cascade`, `set null` or `set default`.
    pub on_delete: String,
    /// Whether it can be checked at the end of a transaction.
    pub deferrable: bool,
}

/// How the values of a column stand in a row; see [`Column::form`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As JSON integers.
    Integer,
    /// As `true` and `false`.
    Boolean,
    /// As strings, or for SQLite whatever each value is.
    Text,
}

impl Column {
    /// The form that values of this column have.
    pub fn form(&self) -> Form {
        match self.type_oid_name.as_str() {
            "int2" | "int4" | "int8" | "integer" => Form::Integer,
            "bool" => Form::Boolean,
            _ => Form::Text,
        }
    }
}

impl TableHeader {
    /// The columns that rows hold, in the order of the fields.
    pub fn stored_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.generated)
    }

    /// Which fields of a row make the key, in key order. `None` if a key column is not stored.
    pub fn key_fields(&self) -> Option<Vec<usize>> {
        let position = |name: &String| self.stored_columns().position(|c| c.name == *name);
        self.key.iter().map(position).collect()
    }

    /// The header with its hash computed.
    #[must_use]
    pub fn seal(mut self) -> Self {
        self.schema_hash.clear();
        self.schema_hash = hash_json(&self);
        self
    }

    /// Reads a header, refusing versions and shapes that this program does not know.
    pub fn from_json(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header: Self = serde_json::from_slice(bytes).map_err(HeaderError::Json)?;
        check_version(header.version)?;
        match header.key_fields() {
            Some(fields) if fields.is_empty() == (header.key_kind != KeyKind::Primary) => {
                Ok(header)
            }
            _ => Err(HeaderError::Key { table: header.table }),
        }
    }

    /// The header's bytes.
    pub fn to_json(&self) -> Vec<u8> {
        json(self)
    }
}

impl DatabaseHeader {
    /// Reads a header, refusing versions that this program does not know.
    pub fn from_json(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header: Self = serde_json::from_slice(bytes).map_err(HeaderError::Json)?;
        check_version(header.version)?;
        Ok(header)
    }

    /// The header's bytes.
    pub fn to_json(&self) -> Vec<u8> {
        json(self)
    }
}

fn check_version(version: u32) -> Result<(), HeaderError> {
    if version == VERSION { Ok(()) } else { Err(HeaderError::Version { version }) }
}

/// Hexadecimal BLAKE3 of a value's JSON: for [`DatabaseHeader::schema_hash`].
pub fn hash_json(value: &impl Serialize) -> String {
    blake3::hash(&json(value)).to_hex().to_string()
}

/// The JSON form of a header or a note.
#[expect(clippy::expect_used, reason = "structs of text and numbers have a JSON form")]
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("headers have only string keys and no failing serializers")
}

/// Why a header cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It is not JSON of the right shape.
    #[error("the header of a database or table cannot be read")]
    Json(#[source] serde_json::Error),
    /// It was written by a newer program.
    #[error("the header has version {version}, and only version {VERSION} is known here")]
    Version {
        /// The version it says.
        version: u32,
    },
    /// Its key names a column that rows do not hold.
    #[error("the key of table {table} does not agree with its columns")]
    Key {
        /// Which table.
        table: String,
    },
}

impl Hint for HeaderError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Json(_) | Self::Key { .. } => ErrorKind::Damage,
            Self::Version { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Json(_) | Self::Key { .. } => {
                Some("see what else is affected with `coeval check --read-data`".to_owned())
            }
            Self::Version { .. } => Some("use a newer coeval".to_owned()),
        }
    }
}

/// The name of a table's tree: the table's name, after its schema and a dot unless that is
/// `default_schema`. Dots, slashes, percent signs and control characters within a name are
/// percent-encoded, so that two tables never share a name.
pub fn tree_name(schema: &str, table: &str, default_schema: &str) -> String {
    let mut name = String::new();
    if schema != default_schema {
        percent_encode(&mut name, schema.as_bytes(), b"./");
        name.push('.');
    }
    percent_encode(&mut name, table.as_bytes(), b"./");
    name
}

/// Appends text with `%`, control characters, bytes that are not UTF-8 and those of `special` as
/// `%XX`.
pub(super) fn percent_encode(out: &mut String, bytes: &[u8], special: &[u8]) {
    use fmt::Write as _;
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match u8::try_from(c) {
                Ok(byte)
                    if byte < 0x20 || byte == b'%' || byte == 0x7f || special.contains(&byte) =>
                {
                    let _ = write!(out, "%{byte:02X}");
                }
                _ => out.push(c),
            }
        }
        for byte in part.invalid() {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// The bytes that [`percent_encode`] was given; `None` where a `%` is not followed by two
/// hexadecimal digits.
pub(super) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit()?, digit()?);
            out.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tables_never_share_a_tree_name() {
        assert_eq!(tree_name("public", "users", "public"), "users");
        assert_eq!(tree_name("audit", "users", "public"), "audit.users");
        assert_eq!(tree_name("public", "audit.users", "public"), "audit%2Eusers");
        assert_eq!(tree_name("a.b", "c/d%\n", "public"), "a%2Eb.c%2Fd%25%0A");
        assert_eq!(tree_name("public", "Größe", "public"), "Größe");
    }

    #[test]
    fn a_header_of_a_newer_version_is_refused() {
        let error = DatabaseHeader::from_json(
            br#"{"version":2,"engine":"sqlite","server_version":"","database":"","encoding":"",
                "schema":{"form":"unavailable","reason":""},"schema_hash":"","sequences":[],
                "excluded_tables":[]}"#,
        )
        .unwrap_err();
        assert!(matches!(error, HeaderError::Version { version: 2 }));
    }
}
