//! A collection: what it removes, said before anything is removed.

use serde::{Deserialize, Serialize};

use super::{FormatError, VERSION, codec};
use crate::id::{PackId, SnapshotId};

const WHAT: &str = "collection";

/// `gc/<number>`: never deleted, so that a pack and a snapshot that were removed stay so, whatever
/// a late request brings back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    version: u8,
    /// Tells our own object from another's after a create whose answer was lost.
    pub nonce: [u8; 16],
    /// Packs that go, after what is needed of them was copied. Nobody who learns of this refers to
    /// them any more.
    pub condemned: Vec<PackId>,
    /// Snapshots that go.
    pub forgotten: Vec<SnapshotId>,
}

impl Collection {
    /// A collection of these.
    pub const fn new(nonce: [u8; 16], condemned: Vec<PackId>, forgotten: Vec<SnapshotId>) -> Self {
        Self { version: VERSION, nonce, condemned, forgotten }
    }

    /// The bytes that are sealed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        codec::encode(WHAT, self)
    }

    /// The collection in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let collection: Self = codec::decode(WHAT, bytes)?;
        match collection.version {
            VERSION => Ok(collection),
            other => Err(FormatError { what: WHAT, reason: format!("version {other} is unknown") }),
        }
    }
}
