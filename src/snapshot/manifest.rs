//! What a snapshot says of itself.

use serde::{Deserialize, Serialize};

use crate::id::{ChunkId, RepoId, SnapshotId, hex};
use crate::repo::Written;
use crate::repo::format::{FormatError, codec};
use crate::source::Kind;
use crate::time::Timestamp;
use crate::tree::Tree;

/// The version of a manifest that lists all that was skipped, of one that does not, of one that was
/// rewritten, and of one that was copied from another repository.
const ALL_LISTED: u8 = 1;
const SOME_UNLISTED: u8 = 2;
const REWRITTEN: u8 = 3;
const COPIED: u8 = 4;
const WHAT: &str = "snapshot manifest";

/// The content of a snapshot object; see `docs/FORMAT.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout: [`Manifest::version`].
    pub version: u8,
    /// The instant that the snapshot shows: when the first source's consistent read began.
    pub time: Timestamp,
    /// When the capture was complete.
    pub finished: Timestamp,
    /// The machine that took it.
    pub host: String,
    /// The application it belongs to; snapshots of one application form one timeline.
    pub application: String,
    /// What the user called it.
    pub tags: Vec<String>,
    /// The snapshot that unchanged entries were taken over from.
    pub parent: Option<SnapshotId>,
    /// Why it was taken.
    pub reason: Reason,
    /// How well the sources agree on one instant.
    pub instant: Instant,
    /// What was captured, in order.
    pub sources: Vec<SourceRecord>,
    /// What could not be read, up to [`Manifest::SKIPPED_MAX`] items. Not empty: the snapshot is
    /// incomplete.
    pub skipped: Vec<Skipped>,
    /// What the capture added to the repository.
    pub written: Written,
    /// The version of coeval that wrote it.
    pub program: String,
    /// How many more items could not be read than `skipped` lists.
    #[serde(skip)]
    pub unlisted: u64,
    /// What became of it since it was taken.
    #[serde(skip)]
    pub later: Later,
}

/// What became of a snapshot since it was taken. Snapshots never change: one with other tags is
/// another snapshot, which shows the same, in the place of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Later {
    /// The snapshot that this one stands for, under the name that it had first.
    pub original: Option<SnapshotId>,
    /// Whether no rule forgets it.
    pub protection: Protection,
    /// Which snapshot of another repository this one is a copy of.
    #[serde(skip)]
    pub origin: Option<Origin>,
}

/// Where a copy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The repository in which the snapshot was taken.
    pub repository: RepoId,
    /// The name that it had there first.
    pub snapshot: SnapshotId,
    /// BLAKE3 of both lists of sources, in bincode: of what was copied, then of the copy. While it
    /// is that of two snapshots, their trees hold the same, and what changed since in the one can
    /// be changed in the other.
    pub pairing: [u8; 32],
}

/// How long a snapshot is kept, whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Protection {
    /// Not beyond the rules.
    #[default]
    None,
    /// Until then.
    Until(Timestamp),
    /// Until somebody takes the protection away.
    Forever,
}

/// Why a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Someone asked for it, or a schedule.
    Backup,
    /// A restore was about to change the sources: `undo` comes back to here.
    BeforeRestore {
        /// The snapshot that was going to be restored.
        of: SnapshotId,
        /// Where each source was going to be restored into.
        into: Vec<RestoredInto>,
    },
    /// It came from a package.
    Import {
        /// Where that snapshot was made, in the package's own words.
        origin: String,
    },
    /// It is the state between two snapshots, made of the first and of transactions that the
    /// second holds.
    Transaction {
        /// The snapshot before.
        after: SnapshotId,
        /// The snapshot that holds the transactions since.
        before: SnapshotId,
        /// How many of them belong to the state.
        transactions: u64,
    },
    /// It is a copy of another one, without what must not be known.
    Anonymised {
        /// The other one.
        of: SnapshotId,
    },
}

/// A target of a restore, so that `undo` finds it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredInto {
    /// Which part of the application.
    pub kind: Kind,
    /// Which source.
    pub name: String,
    /// A path, or the URL of a database without its password.
    pub place: String,
}

/// How well the sources agree on one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instant {
    /// There is one source, read in one consistent read; or one such and files, which were the
    /// same before that read began and when they were captured.
    Exact,
    /// The sources were read one after the other, databases first, within the time from
    /// [`Manifest::time`] to [`Manifest::finished`]; nothing proves that none changed meanwhile.
    Unproven,
    /// As [`Instant::Exact`], but only a further try found nothing changed meanwhile.
    Converged,
    /// Something changed meanwhile: what was captured of one source may be this much younger than
    /// what was captured of another.
    Bounded {
        /// Milliseconds.
        milliseconds: u64,
    },
}

/// One captured source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Which part of the application.
    pub kind: Kind,
    /// Its name within the kind.
    pub name: String,
    /// A tree that lists the source's trees and holds its header: the one hash of everything in
    /// the source.
    pub catalogue: Tree,
    /// A second one, of what only helps: see [`Description::aids`](crate::source::Description) and
    /// `notes`. It differs between equal sources, so that no proof covers it.
    pub help: Tree,
    /// Entries (files and folders, records) in all its trees.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
}

/// An item that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which one.
    pub item: String,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for Instant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Unproven => f.write_str("unproven"),
            Self::Converged => f.write_str("converged"),
            Self::Bounded { milliseconds } => {
                write!(f, "bounded: {}.{:03} s", milliseconds / 1000, milliseconds % 1000)
            }
        }
    }
}

impl Manifest {
    /// How many items a manifest lists: a snapshot that lacks a million of them has no need to name
    /// each, and every command reads all manifests.
    pub const SKIPPED_MAX: usize = 1000;

    /// The version of the layout, by how many items are not listed.
    pub const fn version(unlisted: u64) -> u8 {
        if unlisted == 0 { ALL_LISTED } else { SOME_UNLISTED }
    }

    /// The manifest of a snapshot that takes the place of this one, which is called `id`.
    #[must_use]
    pub fn rewritten(&self, id: SnapshotId, tags: Vec<String>, protection: Protection) -> Self {
        let original = self.later.original.or(Some(id));
        let later = Later { original, protection, ..self.later };
        Self { version: self.version.max(REWRITTEN), tags, later, ..self.clone() }
    }

    /// The manifest of a copy of this one in another repository, where its sources are `sources`.
    #[must_use]
    pub fn copied(
        &self,
        origin: Origin,
        parent: Option<SnapshotId>,
        sources: Vec<SourceRecord>,
        written: Written,
    ) -> Self {
        let later =
            Later { original: None, protection: self.later.protection, origin: Some(origin) };
        Self { version: COPIED, parent, sources, written, later, ..self.clone() }
    }

    /// Whether no rule forgets it now.
    pub fn is_protected(&self, now: Timestamp) -> bool {
        match self.later.protection {
            Protection::None => false,
            Protection::Until(time) => now <= time,
            Protection::Forever => true,
        }
    }

    /// How many items could not be read.
    pub const fn missing(&self) -> u64 {
        self.skipped.len() as u64 + self.unlisted
    }

    /// Whether everything that should have been captured was.
    pub fn is_complete(&self) -> bool {
        self.skipped.is_empty()
    }

    /// Entries in all sources.
    pub fn entries(&self) -> u64 {
        self.sources.iter().map(|source| source.entries).sum()
    }

    /// Bytes of content in all sources.
    pub fn bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.bytes).sum()
    }

    /// The source of this kind and name.
    pub fn source(&self, kind: Kind, name: &str) -> Option<&SourceRecord> {
        self.sources.iter().find(|source| source.kind == kind && source.name == name)
    }

    /// One hash over everything that was captured, in hexadecimal: equal exactly when every
    /// source has the same entries.
    pub fn root_hash(&self) -> String {
        let mut sources: Vec<_> = self.sources.iter().collect();
        sources.sort_by_key(|source| (source.kind, &source.name));
        let mut hasher = blake3::Hasher::new();
        for source in sources {
            for part in [source.kind.as_str(), &source.name] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
            hasher.update(ChunkId::as_bytes(&source.catalogue.root));
        }
        hex(hasher.finalize().as_bytes())
    }

    /// The bytes that are sealed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        match self.version {
            ALL_LISTED => codec::encode(WHAT, self),
            SOME_UNLISTED => codec::encode(WHAT, &(self, self.unlisted)),
            REWRITTEN => codec::encode(WHAT, &(self, self.unlisted, self.later)),
            _ => codec::encode(WHAT, &(self, self.unlisted, self.later, self.later.origin)),
        }
    }

    /// The manifest in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        match bytes.first() {
            Some(&ALL_LISTED) | None => codec::decode(WHAT, bytes),
            Some(&SOME_UNLISTED) => {
                let (manifest, unlisted): (Self, u64) = codec::decode(WHAT, bytes)?;
                Ok(Self { unlisted, ..manifest })
            }
            Some(&REWRITTEN) => {
                let (manifest, unlisted, later): (Self, u64, Later) = codec::decode(WHAT, bytes)?;
                Ok(Self { unlisted, later, ..manifest })
            }
            Some(&COPIED) => {
                let (manifest, unlisted, later, origin): (Self, u64, Later, Option<Origin>) =
                    codec::decode(WHAT, bytes)?;
                Ok(Self { unlisted, later: Later { origin, ..later }, ..manifest })
            }
            Some(_) => {
                let reason = "it was written by another version of coeval".to_owned();
                Err(FormatError { what: WHAT, reason })
            }
        }
    }
}
