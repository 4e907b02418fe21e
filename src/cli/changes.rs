//! What became of a file or a record from one snapshot to another, in the letters of `restic diff`.

use serde_json::json;

use super::entries::{decode_entry, flags, mode};
use super::output::size;
use super::places::Paths;
use super::records::Record;
use crate::hint::Failure;
use crate::repo::ChunkReader;
use crate::snapshot::DiffItem;
use crate::source::record::TableHeader;
use crate::source::{Entry, EntryKind, Kind, display_key, escape};
use crate::tree::{Content, Difference, Value};

/// Reads what [`snapshot::diff`](crate::snapshot::diff) finds; keeps the header of the table that
/// it is at.
pub struct Reader<'a> {
    chunks: &'a dyn ChunkReader,
    records: Records,
    at: Option<At>,
}

/// What is kept of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Records {
    /// The columns that differ.
    Changed,
    /// All of them, too.
    Whole,
}

struct At {
    kind: Kind,
    source: String,
    tree: String,
    paths: Paths,
    older: Paths,
}

impl<'a> Reader<'a> {
    /// For snapshots of this repository.
    pub fn new(chunks: &'a dyn ChunkReader) -> Self {
        Self { chunks, records: Records::Changed, at: None }
    }

    /// The same, with records kept as a whole.
    pub fn whole(chunks: &'a dyn ChunkReader) -> Self {
        Self { chunks, records: Records::Whole, at: None }
    }

    /// The path of the entry, and what became of it.
    pub fn read(&mut self, item: DiffItem<'_>) -> Result<(String, Change), Failure> {
        let DiffItem { kind, source, tree, older, entry } = item;
        let known = self
            .at
            .take()
            .filter(|at| (at.kind, at.source.as_str(), &at.tree) == (kind, source, &tree.name));
        let at = match known {
            Some(at) => at,
            None => At {
                kind,
                source: source.to_owned(),
                tree: tree.name.clone(),
                paths: Paths::new(kind, source, tree)?,
                older: Paths::new(kind, source, older)?,
            },
        };
        let path = at.paths.of(&entry.key)?;
        let change = match (&at.older.header, &at.paths.header) {
            (Some(before), Some(after)) => self.record(entry, before, after)?,
            _ => Change::of_file(&entry)?,
        };
        self.at = Some(at);
        Ok((path, change))
    }

    /// What became of a record. The headers are those of the table before and after.
    fn record(
        &self,
        difference: Difference,
        before: &TableHeader,
        after: &TableHeader,
    ) -> Result<Change, Failure> {
        let read = |value: Value, header| Record::read(header, value.content, self.chunks);
        let modifier = match (&difference.old, &difference.new) {
            (Some(_), Some(_)) => Modifier::Modified,
            (None, _) => Modifier::Added,
            (Some(_), None) => Modifier::Removed,
        };
        let mut change = Change::new(modifier);
        if modifier == Modifier::Modified || self.records == Records::Whole {
            let old = difference.old.map(|value| read(value, before)).transpose()?;
            let new = difference.new.map(|value| read(value, after)).transpose()?;
            if let (Some(old), Some(new)) = (&old, &new) {
                let changed = old.changed(new).into_iter();
                change.details.extend(changed.map(|(name, before, after)| {
                    let [name, before, after] = [name, before, after].map(str::to_owned);
                    Detail { name, before, after }
                }));
            }
            if self.records == Records::Whole {
                change.record_before = old.map(|record| record.to_json());
                change.record_after = new.map(|record| record.to_json());
            }
        }
        Ok(change)
    }
}

/// What became of an entry.
#[derive(Debug)]
pub struct Change {
    /// What in one word.
    pub modifier: Modifier,
    /// The file before, where it was one.
    pub before: Option<File>,
    /// The file after, where it is one.
    pub after: Option<File>,
    /// What differs between before and after; not that the time does.
    pub details: Vec<Detail>,
    /// The times of modification, where they differ.
    pub time: Option<Detail>,
    /// The record before as JSON, where it is wanted as a whole.
    pub record_before: Option<String>,
    /// The record after.
    pub record_after: Option<String>,
}

/// What became of an entry, in restic's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modifier {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It has another content.
    Modified,
    /// It has other metadata, and the same content.
    Metadata,
    /// It is of another type.
    Type,
}

impl Modifier {
    /// The letter.
    pub const fn letter(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Modified => 'M',
            Self::Metadata => 'U',
            Self::Type => 'T',
        }
    }
}

/// Whether times of modification are shown, which differ with almost everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Always.
    Always,
    /// Where nothing else differs.
    Alone,
}

/// What counts of a file.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// Whether it is a regular file, a folder or something else.
    pub class: Class,
    /// Bytes of content.
    pub length: u64,
}

/// What restic counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Regular files.
    File,
    /// Folders.
    Folder,
    /// Links, pipes, devices, sockets.
    Other,
}

/// A property with another value.
#[derive(Debug)]
pub struct Detail {
    /// Which property, or which column.
    pub name: String,
    /// What it was.
    pub before: String,
    /// What it is.
    pub after: String,
}

impl Change {
    const fn new(modifier: Modifier) -> Self {
        Self {
            modifier,
            before: None,
            after: None,
            details: Vec::new(),
            time: None,
            record_before: None,
            record_after: None,
        }
    }

    /// What became of a file, link or folder.
    pub fn of_file(difference: &Difference) -> Result<Self, Failure> {
        let read = |value: &Value| -> Result<_, Failure> {
            let entry = decode_entry(&difference.key, value)?;
            let class = match entry.kind {
                EntryKind::File => Class::File,
                EntryKind::Directory => Class::Folder,
                _ => Class::Other,
            };
            Ok((entry, File { class, length: value.content.length() }))
        };
        let before = difference.old.as_ref().map(read).transpose()?;
        let after = difference.new.as_ref().map(read).transpose()?;
        let gone = if before.is_some() { Modifier::Removed } else { Modifier::Added };
        let mut change = Self::new(gone);
        if let (Some((old, _)), Some((new, _))) = (&before, &after) {
            let same = match (&difference.old, &difference.new) {
                (Some(old), Some(new)) => same_content(&old.content, &new.content),
                _ => false,
            };
            change.modifier = if old.kind.as_str() != new.kind.as_str() {
                Modifier::Type
            } else if !same || old.kind != new.kind {
                Modifier::Modified
            } else {
                Modifier::Metadata
            };
            change.details = differing(old, new);
            let local = [old.mtime.to_local(), new.mtime.to_local()];
            let exact = [old.mtime.to_rfc3339(), new.mtime.to_rfc3339()];
            let [before, after] = if local[0] == local[1] { exact } else { local };
            change.time = Detail::of("time", before, after);
        }
        change.before = before.map(|(_, file)| file);
        change.after = after.map(|(_, file)| file);
        Ok(change)
    }

    /// The details for a line: sizes first.
    pub fn text(&self, times: Times) -> String {
        let content = |file: &File| file.class == Class::File;
        let (before, after) = (self.before.filter(content), self.after.filter(content));
        let mut parts = Vec::new();
        match (self.modifier, before, after) {
            (Modifier::Modified, Some(old), Some(new)) => {
                parts.push(format!("{} → {}", size(old.length), size(new.length)));
            }
            (Modifier::Added | Modifier::Removed, Some(file), None)
            | (Modifier::Added | Modifier::Removed, None, Some(file)) => {
                parts.push(size(file.length));
            }
            _ => {}
        }
        let only_time = self.details.is_empty() && self.modifier == Modifier::Metadata;
        let time = self.time.iter().filter(|_| times == Times::Always || only_time);
        parts.extend(self.details.iter().chain(time).map(Detail::to_string));
        parts.join(", ")
    }

    /// The fields for programs.
    pub fn json(&self) -> serde_json::Map<String, serde_json::Value> {
        let changes = self.details.iter().chain(&self.time);
        let changes = changes.map(|Detail { name, before, after }| {
            json!({ "name": name, "before": before, "after": after })
        });
        let mut map = serde_json::Map::new();
        map.insert("modifier".to_owned(), self.modifier.letter().to_string().into());
        for (name, file) in [("old_size", &self.before), ("size", &self.after)] {
            if let Some(file) = file {
                map.insert(name.to_owned(), file.length.into());
            }
        }
        map.insert("changes".to_owned(), changes.collect());
        for (name, record) in [("before", &self.record_before), ("after", &self.record_after)] {
            // What was written as JSON can be read as JSON.
            if let Some(Ok(record)) = record.as_deref().map(serde_json::from_str) {
                map.insert(name.to_owned(), record);
            }
        }
        map
    }
}

impl Detail {
    fn of(name: &str, before: String, after: String) -> Option<Self> {
        (before != after).then(|| Self { name: name.to_owned(), before, after })
    }
}

impl std::fmt::Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} → {}", self.name, short(&self.before), short(&self.after))
    }
}

/// Everything but the content and the time.
fn differing(old: &Entry, new: &Entry) -> Vec<Detail> {
    let kind = |entry: &Entry| match &entry.kind {
        EntryKind::Symlink { target } => escape(target),
        EntryKind::CharacterDevice(device) | EntryKind::BlockDevice(device) => {
            format!("{}, {}", device.major, device.minor)
        }
        _ => String::new(),
    };
    let attributes = |entry: &Entry, other: &Entry| {
        let own = entry.attributes.iter().filter(|attribute| !other.attributes.contains(attribute));
        let texts = own.map(|a| format!("{}={}", escape(&a.name), escape(&a.value)));
        texts.collect::<Vec<_>>().join(" ")
    };
    let link = |entry: &Entry| entry.link.as_deref().map(display_key);
    let to = if matches!(new.kind, EntryKind::Symlink { .. }) { "target" } else { "device" };
    [
        Detail::of("type", old.kind.as_str().to_owned(), new.kind.as_str().to_owned()),
        Detail::of(to, kind(old), kind(new)),
        Detail::of("mode", mode(old), mode(new)),
        Detail::of("owner", format!("{}:{}", old.uid, old.gid), format!("{}:{}", new.uid, new.gid)),
        Detail::of("flags", flags(old), flags(new)),
        Detail::of("attributes", attributes(old, new), attributes(new, old)),
        Detail::of("link", link(old).unwrap_or_default(), link(new).unwrap_or_default()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether two contents are equal. Trees keep equal ones in the same way.
fn same_content(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::Inline(a), Content::Inline(b)) => a == b,
        (Content::Stored(a), Content::Stored(b)) => a == b,
        _ => false,
    }
}

/// A value that fits into a line.
pub fn short(value: &str) -> String {
    const LONGEST: usize = 60;
    match value.char_indices().nth(LONGEST) {
        _ if value.is_empty() => "nothing".to_owned(),
        None => value.to_owned(),
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn value(kind: EntryKind, mode: u16, seconds: i64, content: &str) -> Value {
        let entry = Entry::new(kind, mode, 0, 0, Timestamp::new(seconds, 0));
        Value { head: entry.encode(), content: Content::Inline(content.into()) }
    }

    fn change(old: impl Into<Option<Value>>, new: impl Into<Option<Value>>) -> (char, String) {
        let (old, new) = (old.into(), new.into());
        let change = Change::of_file(&Difference { key: b"f".to_vec(), old, new }).unwrap();
        (change.modifier.letter(), change.text(Times::Alone))
    }

    #[test]
    fn letters_are_those_of_restic() {
        let file = |mode, time, text| value(EntryKind::File, mode, time, text);
        let link = |target: &str| EntryKind::Symlink { target: target.as_bytes().to_vec() };
        let shown = |letter, text: &str| (letter, text.to_owned());
        assert_eq!(change(None, file(0o644, 0, "ab")), shown('+', "2 B"));
        assert_eq!(change(file(0o644, 0, "ab"), None), shown('-', "2 B"));
        assert_eq!(change(file(0o644, 0, "ab"), file(0o644, 9, "abc")), shown('M', "2 B → 3 B"));
        assert_eq!(
            change(file(0o644, 0, "a"), file(0o600, 0, "b")),
            shown('M', "1 B → 1 B, mode: -rw-r--r-- → -rw-------")
        );
        assert_eq!(
            change(file(0o644, 0, "a"), file(0o600, 7, "a")),
            shown('U', "mode: -rw-r--r-- → -rw-------")
        );
        assert_eq!(
            change(value(link("x"), 0o777, 0, ""), value(link("y"), 0o777, 0, "")),
            shown('M', "target: x → y")
        );
        let (letter, text) = change(file(0o777, 0, "a"), value(link("y"), 0o777, 0, ""));
        assert_eq!(letter, 'T');
        assert!(text.starts_with("type: file → symlink, target: nothing → y"), "{text}");
        let (letter, text) = change(file(0o644, 0, "a"), file(0o644, 1, "a"));
        assert_eq!(letter, 'U');
        assert!(text.starts_with("time: "), "{text}");
    }
}
