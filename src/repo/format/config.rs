//! The repository's parameters, fixed when it is made.

use serde::{Deserialize, Serialize};

use super::{FormatError, codec};
use crate::id::RepoId;
use crate::time::Timestamp;

/// Version of a repository in which every chunk is stored whole.
const WHOLE: u8 = 1;
/// Version of one in which chunks may be stored as differences to others, and which a program that
/// cannot read those refuses.
const DIFFERENCES: u8 = 2;

/// What every reader and writer of a repository must agree on. Stored sealed as `config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Version of the repository's format: 1, or 2 where chunks may be stored as differences.
    pub version: u8,
    /// Which repository it is: part of everything that is sealed.
    pub id: RepoId,
    /// When it was made.
    pub created: Timestamp,
    /// How files are cut into chunks.
    pub chunking: Chunking,
    /// How trees are cut into nodes.
    pub trees: Trees,
    /// How file content is gathered into blocks and packs.
    pub data: Gathering,
    /// How tree nodes are gathered into blocks and packs.
    pub nodes: Gathering,
}

/// How byte streams are cut; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunking {
    /// A stream of up to this length is one chunk.
    pub whole: u32,
    /// No cut before this.
    pub min: u32,
    /// Where cuts become likely.
    pub avg: u32,
    /// A cut at the latest here.
    pub max: u32,
}

/// How trees are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trees {
    /// Mean bytes of a leaf.
    pub leaf: u32,
    /// Mean children of an inner node.
    pub fan_out: u32,
    /// Contents of records up to this many bytes stand in the leaf itself.
    pub inline_record: u32,
    /// Contents of files up to this many bytes stand in the leaf itself.
    pub inline_file: u32,
}

/// How chunks of one class are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gathering {
    /// Bytes of chunks that are compressed and sealed together; a chunk of half of it or more
    /// is alone.
    pub block: u32,
    /// Bytes after which a pack is complete.
    pub pack: u32,
    /// zstd parameters.
    pub zstd: Zstd,
}

/// zstd parameters that were measured to beat the stock levels on the corpora of 78,600 small
/// files and of a 725 MB fixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zstd {
    /// The level whose parameters are the base.
    pub level: i32,
    /// Binary logarithm of the hash table's entries; 0 leaves the level's.
    pub hash_log: u32,
    /// Binary logarithm of the chain table's entries; 0 leaves the level's.
    pub chain_log: u32,
    /// Shortest match; 0 leaves the level's.
    pub min_match: u32,
    /// Whether the strategy is `dfast` rather than the level's.
    pub dfast: bool,
}

impl Config {
    /// The parameters of a new repository: those that measured best.
    pub fn new(id: RepoId, created: Timestamp) -> Self {
        let zstd = Zstd { level: 3, hash_log: 16, chain_log: 15, min_match: 5, dfast: true };
        Self {
            version: DIFFERENCES,
            id,
            created,
            chunking: Chunking { whole: 512 << 10, min: 128 << 10, avg: 256 << 10, max: 1 << 20 },
            trees: Trees { leaf: 8 << 10, fan_out: 64, inline_record: 8 << 10, inline_file: 128 },
            data: Gathering { block: 1 << 20, pack: 16 << 20, zstd },
            nodes: Gathering { block: 64 << 10, pack: 16 << 20, zstd },
        }
    }

    /// Whether chunks may be stored as differences to others.
    pub const fn allows_differences(&self) -> bool {
        self.version >= DIFFERENCES
    }

    /// The bytes that are sealed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        codec::encode("repository configuration", self)
    }

    /// Reads the parameters and refuses those that no version of coeval writes: they come from
    /// storage that may be hostile and decide how much memory is used.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "repository configuration";
        let config: Self = codec::decode(what, bytes)?;
        let bad = |reason: &str| Err(FormatError { what, reason: reason.to_owned() });
        let Chunking { whole, min, avg, max } = config.chunking;
        if ![WHOLE, DIFFERENCES].contains(&config.version) {
            return bad("it was written by another version of coeval");
        }
        if !(64 <= min && min <= avg && avg <= max && max <= 16 << 20 && whole <= 16 << 20) {
            return bad("its chunk sizes make no sense");
        }
        if [min, avg, max].iter().any(|size| !size.is_multiple_of(2)) {
            return bad("its chunk sizes are odd");
        }
        let gathering = |g: Gathering| g.block <= 16 << 20 && g.pack <= 64 << 20;
        let trees = config.trees;
        if !(gathering(config.data) && gathering(config.nodes)) {
            return bad("its pack sizes make no sense");
        }
        if !(2..=4096).contains(&trees.fan_out) || !(64..=1 << 20).contains(&trees.leaf) {
            return bad("its tree sizes make no sense");
        }
        Ok(config)
    }
}
