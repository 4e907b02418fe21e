//! Parts of a snapshot: what a path leads to, with all that is below it.

use super::opened::Snapshot;
use super::path::Place;
use super::restore::KeyRange;
use crate::hint::Failure;
use crate::source::Kind;

/// A part of a snapshot: all, one kind, one source, one tree, or some keys of one tree.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Which kind, unless all.
    pub kind: Option<Kind>,
    /// Which source, unless all.
    pub source: Option<String>,
    /// Which tree, unless all.
    pub tree: Option<String>,
    /// Which keys, unless all.
    pub keys: Option<KeyRange>,
}

impl Scope {
    /// The part of a snapshot that a path leads to.
    pub fn of(snapshot: &Snapshot, path: &str) -> Result<Self, Failure> {
        Ok(match snapshot.resolve(path)? {
            Place::Root => Self::default(),
            Place::Kind(kind) => Self { kind: Some(kind), ..Self::default() },
            Place::Source(source) => {
                Self { kind: Some(source.kind), source: Some(source.name), ..Self::default() }
            }
            Place::Tree(source, record) => Self {
                kind: Some(source.kind),
                source: Some(source.name),
                tree: Some(record.info.name),
                keys: None,
            },
            Place::Entry(source, record, key) => Self {
                kind: Some(source.kind),
                source: Some(source.name),
                tree: Some(record.info.name),
                keys: Some(match source.kind {
                    Kind::Database => KeyRange::Exactly(key),
                    Kind::Storage | Kind::Configuration => KeyRange::Below(key),
                }),
            },
        })
    }

    /// Whether a source belongs to it.
    pub fn has_source(&self, kind: Kind, name: &str) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
            && self.source.as_ref().is_none_or(|wanted| wanted == name)
    }

    /// Whether a tree belongs to it.
    pub fn has_tree(&self, kind: Kind, source: &str, tree: &str) -> bool {
        self.has_source(kind, source) && self.tree.as_ref().is_none_or(|wanted| wanted == tree)
    }

    /// What the keys of its entries begin with.
    pub fn prefix(&self) -> &[u8] {
        match &self.keys {
            None => &[],
            Some(KeyRange::Exactly(key) | KeyRange::Below(key)) => key,
        }
    }

    /// Whether an entry of such a tree belongs to it.
    pub fn has_key(&self, key: &[u8]) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
    }
}
