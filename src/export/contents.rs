//! What a package is made from. The exporter sees a snapshot only through [`Contents`], so that
//! anything that can list its tables and files can be handed over.

use crate::hint::Failure;
use crate::source::{Kind, TreeInfo};
use crate::time::Timestamp;
use crate::tree::Changes;

/// One snapshot, opened.
pub trait Contents {
    /// What is known about it as a whole.
    fn facts(&self) -> &Facts;

    /// The tables of a database, each with its header.
    fn tables(&self, database: &str) -> Result<Vec<TreeInfo>, Failure>;

    /// The records of a table, in the order of their keys. The content of each is its row, as
    /// [`Inline`](crate::tree::Content::Inline) or [`Reader`](crate::tree::Content::Reader).
    fn records<'a>(&'a self, database: &str, table: &str) -> Result<Changes<'a>, Failure>;

    /// The files of a storage or of the configuration, in the order of their keys; heads are
    /// encoded [`Entry`](crate::source::Entry)s.
    fn files<'a>(&'a self, kind: Kind, name: &str) -> Result<Changes<'a>, Failure>;

    /// What the application said about its models when the snapshot was taken, in JSON.
    fn introspection(&self, database: &str) -> Result<Option<String>, Failure>;
}

/// What is known about a snapshot as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Its id.
    pub snapshot: String,
    /// When it was taken: the time of everything in the package.
    pub time: Timestamp,
    /// On which host.
    pub host: String,
    /// Of which application.
    pub application: String,
    /// The hash of everything in it.
    pub root: String,
    /// How well database and files are known to be of one instant.
    pub instant: String,
    /// What could not be captured, and why.
    pub skipped: Vec<Skipped>,
    /// Its sources, sorted by kind and name.
    pub sources: Vec<SourceFacts>,
}

/// Something that is not in the snapshot, or not in the package.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Skipped {
    /// What it is.
    pub item: String,
    /// Why it is missing.
    pub reason: String,
}

/// One source of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// Which part of the application it is.
    pub kind: Kind,
    /// Its name within that part.
    pub name: String,
    /// The header of its description, as it was captured.
    pub header: Vec<u8>,
    /// Its root hash, where it has one of its own.
    pub root: Option<String>,
}

impl Facts {
    /// The sources of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &SourceFacts> {
        self.sources.iter().filter(move |source| source.kind == kind)
    }
}
