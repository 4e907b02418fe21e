//! The names of a package's members and the JSON documents among them, as both the writer and
//! the reader know them. `docs/FORMAT.md`, "The migration package".

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::export::contents::Skipped;

/// The version of the `coeval` part of a package.
pub const FORMAT: u32 = 1;

/// A pg_dump archive in the custom format: what EDMS's second method has of the database. It is
/// kept, and only `pg_restore` can read it.
pub const DUMP: &str = "database/database.dump";
/// What the second method says about itself.
pub const DUMP_MANIFEST: &str = "database/manifest.json";
/// The archive of uploads within a package of the second method.
pub const NESTED_STORAGE: &str = "storage.tar.gz";

/// The first member: what the package is.
pub const METADATA: &str = "metadata.json";
/// The fixture.
pub const FIXTURE: &str = "database/database_backup.json";
/// The same, one record a line.
pub const FIXTURE_LINES: &str = "database/database_backup.jsonl";
/// Statistics of the fixture.
pub const STATISTICS: &str = "database/backup_metadata.json";
/// The structure of every table, for a reader that is coeval.
pub const TABLES: &str = "database/tables.json";
/// SHA-256 of everything in `database/`, relative to it.
pub const CHECKSUMS: &str = "database/checksum.txt";
/// What the files of the configuration are.
pub const CONFIGURATION: &str = "configuration/config_manifest.json";
/// How to bring the package back, for people.
pub const INSTRUCTIONS: &str = "configuration/RESTORE_INSTRUCTIONS.md";
/// Size, checksum and time of every uploaded file.
pub const STORAGE: &str = "storage/manifest.json";

/// The part of `metadata.json` that only coeval writes, without its list of members.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    /// [`FORMAT`].
    pub format: u32,
    /// The program that wrote it.
    pub written_by: String,
    /// The snapshot's id.
    pub snapshot: String,
    /// When it was taken, RFC 3339.
    pub captured_at: String,
    /// On which host.
    pub host: String,
    /// Of which application.
    pub application: String,
    /// The hash of everything in the snapshot.
    pub root: String,
    /// How well its parts are known to be of one instant.
    pub instant: String,
    /// The sources that the package holds.
    pub sources: Vec<Part>,
    /// What is missing, and why.
    pub missing: Vec<Skipped>,
}

/// A source in a package.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// `database`, `storage` or `configuration`.
    pub kind: crate::source::Kind,
    /// Its name.
    pub name: String,
    /// Its root hash when it was captured.
    pub root: Option<String>,
    /// The header of its description, to the byte.
    pub header: Box<RawValue>,
}

/// `metadata.json` as coeval reads it, whoever wrote it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Metadata {
    /// When it was exported, however the writer put it.
    #[serde(default)]
    pub export_timestamp: Option<String>,
    /// What kind of package the writer said it is.
    #[serde(default)]
    pub export_type: Option<String>,
    /// Version of Django.
    #[serde(default)]
    pub django_version: Option<String>,
    /// What only coeval writes.
    #[serde(default)]
    pub coeval: Option<Origin>,
}

/// `metadata.json` as coeval writes it, but for the list of members.
#[derive(Debug, Serialize)]
pub struct Head<'a> {
    /// When the snapshot was taken, so that the same snapshot gives the same bytes.
    pub export_timestamp: String,
    /// Not known here.
    pub edms_version: Option<String>,
    /// Version of Django, where the application said it.
    pub django_version: Option<&'a str>,
    /// Version of Python, where the application said it.
    pub python_version: Option<&'a str>,
    /// Always `migration_package`.
    pub export_type: &'a str,
    /// Django's name for the engine.
    pub database_engine: Option<&'a str>,
    /// What was asked for.
    pub export_options: serde_json::Value,
    /// What is inside.
    pub components: serde_json::Value,
    /// What only coeval writes.
    pub coeval: Origin,
}

/// A member in the list at the end of `metadata.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// `backup_metadata.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// `django_complete_data`; others hold no rows.
    #[serde(default)]
    pub backup_type: String,
    /// RFC 3339.
    #[serde(default)]
    pub created_at: Option<String>,
    /// About the database.
    #[serde(default)]
    pub database_info: serde_json::Value,
    /// The applications with records.
    #[serde(default)]
    pub apps_included: Vec<String>,
    /// Models without records in the fixture, on purpose.
    #[serde(default)]
    pub excluded_models: Vec<String>,
    /// Records in the fixture.
    #[serde(default)]
    pub total_records: Option<u64>,
    /// Records of each model.
    #[serde(default)]
    pub model_counts: BTreeMap<String, u64>,
}

/// `tables.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tables {
    /// [`FORMAT`].
    pub format: u32,
    /// The databases; the first is the one in the fixture.
    pub databases: Vec<DatabaseTables>,
}

/// The tables of one database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatabaseTables {
    /// Its name.
    pub name: String,
    /// What the application said about its models, to the byte.
    pub introspection: Option<Box<RawValue>>,
    /// Its tables, sorted by name.
    pub tables: Vec<TableEntry>,
}

/// Where the records of a table are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TableEntry {
    /// The name of its tree.
    pub name: String,
    /// How many records it has.
    pub records: u64,
    /// Its model, and how that was found.
    pub model: Option<String>,
    /// See [`Provenance`](crate::export::model_map::Provenance).
    pub provenance: Option<String>,
    /// Where to take its records from.
    #[serde(rename = "in")]
    pub place: Place,
    /// The member with its records as they are, relative to `database/`.
    pub raw: Option<String>,
    /// Why it is raw, or left out.
    pub why: Option<String>,
    /// Its header, to the byte.
    pub header: Box<RawValue>,
}

/// Where the records of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In the fixture, exactly.
    Fixture,
    /// In `raw/`; what the fixture has of it, if anything, is for Django.
    Raw,
    /// Not in the package.
    Omitted,
}

/// `config_manifest.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ConfigManifest {
    /// RFC 3339.
    #[serde(default)]
    pub created_at: Option<String>,
    /// The files.
    #[serde(default)]
    pub config_files: Vec<ConfigFile>,
    /// All entries of the sources, in the order of their keys.
    #[serde(default)]
    pub entries: Vec<FileEntry>,
}

/// A configuration file, as EDMS lists them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Where it was.
    pub original_path: String,
    /// Its member, relative to `configuration/`.
    pub backup_name: String,
    /// Length in bytes, of the member.
    pub size: u64,
    /// Whether it had secrets.
    pub contains_secrets: bool,
    /// Where it belongs, relative to the application.
    pub restore_location: String,
    /// SHA-256 of the member in hexadecimal.
    pub checksum: String,
}

/// What a file, folder or link is, besides its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The source it belongs to.
    pub source: String,
    /// Its path below the root of the source; empty for the root.
    pub path: String,
    /// `file`, `folder` or `link`.
    pub kind: String,
    /// The member with its content, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Where a link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Permission bits in octal.
    pub mode: String,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// RFC 3339 with as many digits as it takes.
    pub modified: String,
}

/// An uploaded file in `storage/manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredFile {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    #[serde(default)]
    pub checksum: Option<String>,
    /// When its content last changed, in text; what else there is, is passed over.
    #[serde(default, deserialize_with = "text_only")]
    pub modified: Option<String>,
    /// Permission bits in octal; only coeval says so.
    #[serde(default)]
    pub mode: Option<String>,
    /// Number of the owner.
    #[serde(default)]
    pub uid: u32,
    /// Number of the group.
    #[serde(default)]
    pub gid: u32,
}

/// A text, or nothing if it is anything else, however large.
fn text_only<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    from.deserialize_any(TextOnly)
}

struct TextOnly;

impl<'de> Visitor<'de> for TextOnly {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    // Numbers, too, come as maps from serde_json.
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
