//! Paths into a snapshot, as people write them: `latest:/database/main/users/17`,
//! `@yesterday:/storage/documents/a.pdf`, `4f2a:/configuration/.env`.

use super::manifest::SourceRecord;
use super::opened::{Snapshot, TreeRecord};
use crate::hint::{ErrorKind, Failure, Hint};
use crate::source::record::TableHeader;
use crate::source::{Kind, TreeInfo, display_key, key, parse_key};

/// A snapshot and, perhaps, a path in it, not yet looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPath {
    /// The snapshot as written: see [`Timeline::select`](super::Timeline::select).
    pub snapshot: String,
    /// The path with its leading slash; empty for the whole snapshot.
    pub path: String,
}

impl SnapshotPath {
    /// Splits at the first `:/`, since times contain colons too.
    pub fn parse(text: &str) -> Self {
        let (snapshot, path) = text.find(":/").map_or((text, ""), |at| text.split_at(at));
        let path = path.strip_prefix(':').unwrap_or_default().trim_end_matches('/');
        Self { snapshot: snapshot.to_owned(), path: path.to_owned() }
    }
}

/// What a path leads to.
#[derive(Debug, Clone)]
pub enum Place {
    /// The snapshot itself.
    Root,
    /// All sources of a kind.
    Kind(Kind),
    /// A source as a whole; for files also the root folder.
    Source(SourceRecord),
    /// A table.
    Tree(SourceRecord, TreeRecord),
    /// A record, a file or a folder.
    Entry(SourceRecord, TreeRecord, Vec<u8>),
}

impl Snapshot {
    /// Finds what a path leads to. Whether an entry exists is not looked up.
    pub fn resolve(&self, path: &str) -> Result<Place, Failure> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let Some(first) = parts.next() else { return Ok(Place::Root) };
        let kinds = [Kind::Database, Kind::Storage, Kind::Configuration];
        let Some(kind) = kinds.into_iter().find(|kind| kind.as_str() == first) else {
            return Err(self.not_found(path));
        };
        // The configuration is one unnamed source: its files stand directly below.
        let name = match self.manifest.source(kind, "") {
            Some(_) => "",
            None => match parts.next() {
                Some(name) => name,
                None => return Ok(Place::Kind(kind)),
            },
        };
        let source = self.manifest.source(kind, name).ok_or_else(|| self.not_found(path))?.clone();
        let rest: Vec<&str> = parts.collect();
        if rest.is_empty() {
            return Ok(Place::Source(source));
        }
        if kind == Kind::Database {
            self.record(path, source, &rest)
        } else {
            self.file(path, source, &rest)
        }
    }

    fn record(&self, path: &str, source: SourceRecord, parts: &[&str]) -> Result<Place, Failure> {
        let (table, key) = parts.split_first().ok_or_else(|| self.not_found(path))?;
        let tree = self.tree(&source, table)?.ok_or_else(|| self.not_found(path))?;
        if key.is_empty() {
            return Ok(Place::Tree(source, tree));
        }
        let header = TableHeader::from_json(&tree.info.header)?;
        let key = key::parse_key(&header, &key.join("/"))?;
        Ok(Place::Entry(source, tree, key))
    }

    fn file(&self, path: &str, source: SourceRecord, parts: &[&str]) -> Result<Place, Failure> {
        let tree = self.tree(&source, "")?.ok_or_else(|| self.not_found(path))?;
        let key = parse_key(&parts.join("/"));
        Ok(Place::Entry(source, tree, key))
    }

    fn not_found(&self, path: &str) -> Failure {
        let there = self
            .manifest
            .sources
            .iter()
            .map(|source| format!("/{}/{}", source.kind.as_str(), source.name))
            .collect();
        PathError { path: path.to_owned(), there }.into()
    }
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

    /// The path of the tree.
    pub fn tree(&self) -> &str {
        &self.tree
    }

    /// The path of an entry.
    pub fn of(&self, key: &[u8]) -> Result<String, Failure> {
        match &self.header {
            Some(header) => Ok(format!("{}/{}", self.tree, key::format_key(header, key)?)),
            None if key.is_empty() => Ok(self.tree.clone()),
            None => Ok(format!("{}/{}", self.tree, display_key(key))),
        }
    }
}

/// A path that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot has no {path}")]
pub struct PathError {
    /// The path as written.
    pub path: String,
    /// The sources that there are.
    pub there: Vec<String>,
}

impl Hint for PathError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(format!("it has {}; look around with `coeval ls`", self.there.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_begins_at_the_first_colon_before_a_slash() {
        let split = |text| {
            let SnapshotPath { snapshot, path } = SnapshotPath::parse(text);
            (snapshot, path)
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(split("latest"), pair("latest", ""));
        assert_eq!(split("latest:/database/main/"), pair("latest", "/database/main"));
        assert_eq!(split("@2026-01-04T12:00:/storage"), pair("@2026-01-04T12:00", "/storage"));
        assert_eq!(split("tag:deploy:/storage"), pair("tag:deploy", "/storage"));
    }
}
