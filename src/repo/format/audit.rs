//! An entry of the audit log: who did what, when, and what became of it; chained to the entry
//! before it and to other chains.

use serde::{Deserialize, Serialize};

use super::{FormatError, VERSION, codec};
use crate::id::ChainId;
use crate::time::Timestamp;

const WHAT: &str = "audit entry";

/// What a person wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the clock of that machine.
    pub time: Timestamp,
    /// Which machine.
    pub host: String,
    /// Which of its users.
    pub user: String,
    /// The version of coeval.
    pub program: String,
    /// The command with its arguments, without secrets.
    pub command: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It has begun: written before anything is changed or handed out.
    Begun,
    /// It has ended.
    Ended {
        /// The number of the entry, in the same chain, in which it began.
        begun: u64,
        /// Its exit code.
        code: u8,
        /// Why it failed; empty if it did not.
        message: String,
    },
}

/// The last entry of a chain, as somebody saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Which chain.
    pub chain: ChainId,
    /// The number of the entry in it, from 0.
    pub number: u64,
    /// BLAKE3 of the entry before it was sealed.
    pub hash: [u8; 32],
}

/// `audit/<chain>-<number>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    version: u8,
    /// Tells our own object from another's after a create whose answer was lost.
    pub nonce: [u8; 16],
    /// BLAKE3 of the entry before in this chain, before it was sealed; none for the first.
    pub previous: Option<[u8; 32]>,
    /// The last entries of other chains that were there.
    pub heads: Vec<Head>,
    /// What it says.
    pub entry: Entry,
}

impl Link {
    /// A link of these.
    pub const fn new(
        nonce: [u8; 16],
        previous: Option<[u8; 32]>,
        heads: Vec<Head>,
        entry: Entry,
    ) -> Self {
        Self { version: VERSION, nonce, previous, heads, entry }
    }

    /// The bytes that are hashed, and sealed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        codec::encode(WHAT, self)
    }

    /// The link in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let link: Self = codec::decode(WHAT, bytes)?;
        match link.version {
            VERSION => Ok(link),
            other => Err(FormatError { what: WHAT, reason: format!("version {other} is unknown") }),
        }
    }
}
