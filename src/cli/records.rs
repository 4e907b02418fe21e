//! Records of a snapshot as people and programs read them: JSON objects.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::SerializeMap as _;
use serde_json::value::RawValue;

use crate::hint::{ErrorKind, Failure};
use crate::repo::ChunkReader;
use crate::source::record::TableHeader;
use crate::tree::Content;

/// A row that is longer is not shown: PostgreSQL's fields end at 1 GiB, too.
const ROW_LIMIT: usize = 1 << 30;

/// A row with the names of its columns.
#[derive(Debug)]
pub struct Record {
    fields: Vec<(String, Box<RawValue>)>,
}

impl Record {
    /// Reads a row. Where the header has other columns than the row, as after a change of the
    /// structure, columns without a name are called by their position.
    pub fn read(
        header: &TableHeader,
        content: Content,
        chunks: &dyn ChunkReader,
    ) -> Result<Self, Failure> {
        let bytes = content.bytes(chunks, ROW_LIMIT)?;
        let values: Vec<Box<RawValue>> = serde_json::from_slice(&bytes).map_err(|error| {
            let table = &header.table;
            let text = format!("a row of table {table} is damaged: {error}");
            let hint = "see what else is affected with `coeval check --read-data`";
            Failure::message(ErrorKind::Damage, text, Some(hint.to_owned()))
        })?;
        let mut names = header.stored_columns().map(|column| column.name.clone());
        let fields = values.into_iter().enumerate().map(|(position, value)| {
            (names.next().unwrap_or_else(|| format!("column {}", position + 1)), value)
        });
        Ok(Self { fields: fields.collect() })
    }

    /// The columns that differ: name, before, after.
    pub fn changed<'a>(&'a self, newer: &'a Self) -> Vec<(&'a str, &'a str, &'a str)> {
        let mut changed = Vec::new();
        for (name, after) in &newer.fields {
            let before = self.fields.iter().find(|(other, _)| other == name);
            let before = before.map_or("", |(_, value)| value.get());
            if before != after.get() {
                changed.push((name.as_str(), before, after.get()));
            }
        }
        for (name, before) in &self.fields {
            if !newer.fields.iter().any(|(other, _)| other == name) {
                changed.push((name.as_str(), before.get(), ""));
            }
        }
        changed
    }

    /// The record as a line of CSV (RFC 4180). NULL is nothing, an empty text is `""`.
    pub fn to_csv(&self) -> String {
        csv(self.fields.iter().map(|(_, value)| {
            let value = value.get();
            if value == "null" {
                return None;
            }
            if let Ok(text) = serde_json::from_str::<String>(value) {
                return Some((text, true));
            }
            // SQLite's numbers say that they are; its bytes stay as they are written.
            let real = serde_json::from_str::<BTreeMap<String, String>>(value);
            let real = real.ok().and_then(|mut real| real.remove("r"));
            Some((real.unwrap_or_else(|| value.to_owned()), false))
        }))
    }

    /// The names of the columns as a line of CSV.
    pub fn csv_header(header: &TableHeader) -> String {
        csv(header.stored_columns().map(|column| Some((column.name.clone(), false))))
    }

    /// The record as one line of JSON.
    pub fn to_json(&self) -> String {
        // Texts that are JSON already cannot fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A line without its end: what has a comma, a quote or an end of line is quoted, and so is an
/// empty text.
fn csv(fields: impl Iterator<Item = Option<(String, bool)>>) -> String {
    let field = |field: Option<(String, bool)>| match field {
        None => String::new(),
        Some((text, is_text)) => {
            let empty = text.is_empty() && is_text;
            if empty || text.contains([',', '"', '\r', '\n']) {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text
            }
        }
    };
    fields.map(field).collect::<Vec<_>>().join(",")
}

impl Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
