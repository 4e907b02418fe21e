//! The repository: chunks in packs, an index of where they are, snapshots. It does not know what
//! its chunks mean.
//!
//! Everything is an immutable object in a [`Backend`](crate::backend::Backend), created at most
//! once (I2); `docs/FORMAT.md` describes each. [`Repo::write`] opens a session, through which
//! chunks become packs and, with its commit, a snapshot; [`ChunkReader`] reads them back.

mod audit;
mod budget;
mod check;
mod chunks;
mod collect;
mod collections;
mod compression;
mod error;
mod fetch;
pub mod format;
mod gather;
mod history;
mod keys;
mod open;
mod packer;
mod read;
mod remember;
mod repair;
mod scratch;
mod seen;
mod session;
mod sizes;
mod snapshots;
mod subset;
mod sync;
mod view;

pub use audit::{AuditLog, Heads, Numbered};
pub use check::{Checked, Finding, ReadData};
pub use chunks::{ChunkReader, ChunkWriter, Class, EachChunk, MemoryChunks};
pub use collect::{
    CollectOptions, CollectedBytes, CollectionPlan, EachNeeded, Mark, Needed, Salvaged, Unused,
    Writers,
};
pub use compression::Compression;
pub use error::RepoError;
pub use history::History;
pub use open::{NewKey, Repo, Unlocking};
pub use scratch::Scratch;
pub use seen::SeenChunks;
pub use session::{Session, Written};
pub use sizes::StoredChunk;
pub use snapshots::StoredSnapshot;
pub use subset::Subset;
pub use sync::{Collected, Present, SyncError, SyncOptions, Synced};
