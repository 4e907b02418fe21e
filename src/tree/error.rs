//! Why a tree could not be read or written.

use std::io;

use crate::hint::{ErrorKind, Failure, Hint};
use crate::id::{ChunkId, hex};
use crate::repo::RepoError;

/// Why a tree, or a stream of bytes, could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The repository could not read or write a chunk.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A chunk that should be a node of a tree is not one.
    #[error("chunk {} is not a valid node of a tree: {reason}", id.short())]
    BadNode {
        /// Which chunk.
        id: ChunkId,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The chunks of a stream do not make up the stream.
    #[error("the stream at chunk {} is damaged at chunk {}: {reason}", root.short(), chunk.short())]
    BadStream {
        /// The chunk at the top of the stream.
        root: ChunkId,
        /// The chunk that was read, or about to be read.
        chunk: ChunkId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The changes were not in strictly ascending order. Nothing of them counts.
    #[error("the changes are out of order: {} does not come after {}", show(key), show(after))]
    Unsorted {
        /// The key that came too late.
        key: Vec<u8>,
        /// The key before it.
        after: Vec<u8>,
    },
    /// A key or head is longer than [`MAX_KEY`](super::MAX_KEY).
    #[error(
        "the {part} of entry {} is {length} bytes long, more than {}",
        show(key),
        super::MAX_KEY
    )]
    TooLong {
        /// `key` or `head`.
        part: &'static str,
        /// The key of the entry.
        key: Vec<u8>,
        /// How long the part is.
        length: usize,
    },
    /// A content does not fit into the memory that it may take.
    #[error("the content is longer than the {limit} bytes that are allowed for it here")]
    ContentTooLong {
        /// How many bytes were allowed.
        limit: usize,
    },
    /// A content came from the repository although it is so short that it belongs in a leaf: it
    /// was stored under another shape, and keeping it would give the same entries another root.
    #[error("entry {} has a stored content of only {length} bytes", show(key))]
    StoredTooShort {
        /// The key of the entry.
        key: Vec<u8>,
        /// The length of its content.
        length: u64,
    },
    /// A content could not be read from where it comes from.
    #[error("cannot read the content of entry {}", show(key))]
    Content {
        /// The key of the entry.
        key: Vec<u8>,
        /// Why.
        source: io::Error,
    },
    /// A byte stream could not be read from where it comes from.
    #[error("cannot read the bytes to store")]
    Read {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Levels stopped getting shorter, which needs a boundary key that was made for that.
    #[error("the tree has too many levels")]
    TooHigh,
    /// The stream of changes failed.
    #[error("{0}")]
    Changes(Failure),
}

impl Hint for TreeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Repo(error) => error.kind(),
            Self::Changes(failure) => failure.kind(),
            Self::BadNode { .. } | Self::BadStream { .. } => ErrorKind::Damage,
            Self::Content { source, .. } | Self::Read { source } => {
                inner(source).map_or(ErrorKind::Failed, Self::kind)
            }
            Self::Unsorted { .. }
            | Self::TooLong { .. }
            | Self::ContentTooLong { .. }
            | Self::StoredTooShort { .. }
            | Self::TooHigh => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Repo(error) => error.hint(),
            Self::Changes(failure) => failure.hint(),
            Self::BadNode { .. } | Self::BadStream { .. } => {
                Some("see what else is affected with `coeval check --read-data`".to_owned())
            }
            Self::Content { source, .. } | Self::Read { source } => {
                inner(source).and_then(Self::hint)
            }
            Self::Unsorted { .. }
            | Self::TooLong { .. }
            | Self::ContentTooLong { .. }
            | Self::StoredTooShort { .. }
            | Self::TooHigh => None,
        }
    }
}

impl From<TreeError> for io::Error {
    /// How the error of a [`StreamReader`](super::StreamReader) passes through
    /// [`io::Read`]; [`TreeError::from_io`] finds it again.
    fn from(error: TreeError) -> Self {
        Self::other(error)
    }
}

impl TreeError {
    /// The error of a [`StreamReader`](super::StreamReader) that came through [`io::Read`], or
    /// the I/O error that it was.
    pub fn from_io(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(|source| Self::Read { source })
    }
}

/// The error of a stream of the repository inside an I/O error.
fn inner(error: &io::Error) -> Option<&TreeError> {
    error.get_ref()?.downcast_ref()
}

/// A key as people can read it: text where it is text, else the beginning in hexadecimal.
fn show(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if key.len() <= 1000 => format!("`{}`", text.escape_debug()),
        _ => {
            format!("0x{}{}", hex(&key[..key.len().min(40)]), if key.len() > 40 { "…" } else { "" })
        }
    }
}
