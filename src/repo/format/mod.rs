//! What the repository's objects look like, byte by byte; no I/O here. `docs/FORMAT.md` is the
//! normative text, and every layout has golden vectors in `tests/`.
//!
//! All integers are little-endian. Decoders are strict: a length beyond the end, an unknown
//! version, a non-zero reserved bit or a trailing byte is an error, never a guess.

pub mod audit;
pub mod block;
pub mod codec;
pub mod collection;
pub mod config;
mod cursor;
pub mod difference;
pub mod pack;
pub mod segment;

pub use cursor::FormatError;

/// Version of every layout in this module; stands in each object's header.
pub const VERSION: u8 = 1;

/// The names of objects in the backend.
pub mod name {
    use crate::id::{ChainId, KeyId, PackId, SegmentId, SnapshotId};

    /// The repository's parameters.
    pub const CONFIG: &str = "config";
    /// Folder of key slots.
    pub const KEYS: &str = "keys/";
    /// Folder of packs.
    pub const PACKS: &str = "packs/";
    /// Folder of index segments.
    pub const INDEX: &str = "index/";
    /// Folder of sessions.
    pub const SESSIONS: &str = "sessions/";
    /// Folder of snapshots.
    pub const SNAPSHOTS: &str = "snapshots/";
    /// Folder of what marks snapshots as forgotten.
    pub const TOMBSTONES: &str = "tombstones/";
    /// Folder of collections.
    pub const COLLECTIONS: &str = "gc/";

    /// Folder of the audit log.
    pub const AUDIT: &str = "audit/";

    /// `keys/<id>`
    pub fn key(id: KeyId) -> String {
        format!("{KEYS}{id}")
    }

    /// `packs/<first 2 hex digits>/<session>-<n>`
    pub fn pack(id: PackId) -> String {
        let name = id.to_string();
        format!("{PACKS}{}/{name}", name.get(..2).unwrap_or_default())
    }

    /// `index/<id>`
    pub fn segment(id: SegmentId) -> String {
        format!("{INDEX}{id}")
    }

    /// `sessions/<id>`
    pub fn session(id: SnapshotId) -> String {
        format!("{SESSIONS}{id}")
    }

    /// `tombstones/<id>`
    pub fn tombstone(id: SnapshotId) -> String {
        format!("{TOMBSTONES}{id}")
    }

    /// `gc/<number>`
    pub fn collection(number: u64) -> String {
        format!("{COLLECTIONS}{number}")
    }

    /// What counts in the place of the collection of this number, whose own content is lost.
    pub fn collection_replaced(number: u64) -> String {
        format!("{COLLECTIONS}{number}.replaced")
    }

    /// `gc/<number>.done`
    pub fn collection_done(number: u64) -> String {
        format!("{COLLECTIONS}{number}.done")
    }

    /// `audit/<chain>-<number>`
    pub fn entry(chain: &ChainId, number: u64) -> String {
        format!("{AUDIT}{chain}-{number}")
    }

    /// `snapshots/<id>`
    pub fn snapshot(id: SnapshotId) -> String {
        format!("{SNAPSHOTS}{id}")
    }
}
