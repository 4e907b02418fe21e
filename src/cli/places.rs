//! Paths in snapshots, written out: `/database/main/users/17`.

use std::os::unix::ffi::OsStrExt as _;

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::hint::Failure;
pub use crate::snapshot::Scope;
use crate::source::key::format_key;
use crate::source::record::TableHeader;
use crate::source::{Kind, TreeInfo, display_key, escape};

/// Reads an argument that may name a file: bytes that are not UTF-8 become `\xHH`, which is what
/// paths in a snapshot have in their place.
pub fn lossless() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|argument| {
        let mut text = String::new();
        for chunk in argument.as_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            text.push_str(&escape(chunk.invalid()));
        }
        text
    })
}

/// The path of a source. The configuration has no name of its own.
pub fn source_path(kind: Kind, name: &str) -> String {
    match name {
        "" => format!("/{}", kind.as_str()),
        name => format!("/{}/{name}", kind.as_str()),
    }
}

/// The path of a tree: that of the source for files, with the table for a database.
pub fn tree_path(kind: Kind, source: &str, tree: &str) -> String {
    match tree {
        "" => source_path(kind, source),
        tree => format!("{}/{tree}", source_path(kind, source)),
    }
}

/// Writes the paths of the entries of one tree.
#[derive(Debug)]
pub struct Paths {
    tree: String,
    /// The table, where it is one.
    pub header: Option<TableHeader>,
}

impl Paths {
    /// For the entries of this tree.
    pub fn new(kind: Kind, source: &str, tree: &TreeInfo) -> Result<Self, Failure> {
        let header = match kind {
            Kind::Database => Some(TableHeader::from_json(&tree.header)?),
            Kind::Storage | Kind::Configuration => None,
        };
        Ok(Self { tree: tree_path(kind, source, &tree.name), header })
    }

    /// The path of an entry.
    pub fn of(&self, key: &[u8]) -> Result<String, Failure> {
        match &self.header {
            Some(header) => Ok(format!("{}/{}", self.tree, format_key(header, key)?)),
            None if key.is_empty() => Ok(self.tree.clone()),
            None => Ok(format!("{}/{}", self.tree, display_key(key))),
        }
    }
}
