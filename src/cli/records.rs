//! Entries of a snapshot as people and programs read them: records as JSON objects, files as
//! lines of `ls -l`.

use serde::Serialize;
use serde::ser::SerializeMap as _;
use serde_json::value::RawValue;

use crate::hint::{ErrorKind, Failure};
use crate::repo::ChunkReader;
use crate::source::record::TableHeader;
use crate::source::{Entry, EntryKind, FilesError, display_key};
use crate::time::Timestamp;
use crate::tree::{Content, Value};

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

    /// The record as one line of JSON.
    pub fn to_json(&self) -> String {
        // Texts that are JSON already cannot fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }
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

/// The metadata of a file in a snapshot.
pub fn decode_entry(key: &[u8], value: &Value) -> Result<Entry, Failure> {
    Entry::decode(&value.head)
        .map_err(|source| FilesError::Entry { path: display_key(key), source }.into())
}

/// How many bytes a content has.
pub fn length(content: &Content) -> u64 {
    match content {
        Content::Inline(bytes) => bytes.len() as u64,
        Content::Stored(stream) => stream.length,
        Content::Reader(_) => 0,
    }
}

/// Type and permissions as `ls -l` shows them: `-rw-r--r--`.
pub fn mode(entry: &Entry) -> String {
    let letter = match entry.kind {
        EntryKind::Directory => 'd',
        EntryKind::File => '-',
        EntryKind::Symlink { .. } => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharacterDevice(_) => 'c',
        EntryKind::BlockDevice(_) => 'b',
    };
    let mut text: Vec<char> = "rwxrwxrwx".chars().collect();
    for (place, letter) in text.iter_mut().enumerate() {
        if entry.mode >> (8 - place) & 1 == 0 {
            *letter = '-';
        }
    }
    for (bit, place, set, alone) in [(11, 2, 's', 'S'), (10, 5, 's', 'S'), (9, 8, 't', 'T')] {
        if entry.mode >> bit & 1 == 1 {
            text[place] = if text[place] == 'x' { set } else { alone };
        }
    }
    std::iter::once(letter).chain(text).collect()
}

/// A file as a line of `ls -l`.
pub fn long_line(entry: &Entry, length: u64, path: &str) -> String {
    let target = match &entry.kind {
        EntryKind::Symlink { target } => format!(" -> {}", String::from_utf8_lossy(target)),
        _ => String::new(),
    };
    let (mode, time) = (mode(entry), Timestamp::to_local(entry.mtime));
    format!("{mode} {:>5} {:>5} {length:>12} {time} {path}{target}", entry.uid, entry.gid)
}

/// A file as programs read it; named as restic does.
pub fn file_json(entry: &Entry, length: u64, path: &str) -> serde_json::Value {
    let target = match &entry.kind {
        EntryKind::Symlink { target } => Some(String::from_utf8_lossy(target).into_owned()),
        _ => None,
    };
    serde_json::json!({
        "message_type": "node",
        "path": path,
        "type": entry.kind.as_str(),
        "size": length,
        "mode": entry.mode,
        "permissions": mode(entry),
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime.to_rfc3339(),
        "linktarget": target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_in_ls() {
        let entry = |kind, bits| Entry::new(kind, bits, 0, 0, Timestamp::default());
        assert_eq!(mode(&entry(EntryKind::File, 0o644)), "-rw-r--r--");
        assert_eq!(mode(&entry(EntryKind::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&entry(EntryKind::File, 0o4755)), "-rwsr-xr-x");
        assert_eq!(mode(&entry(EntryKind::File, 0o2640)), "-rw-r-S---");
    }
}
