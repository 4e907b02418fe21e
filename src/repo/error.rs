//! Why a repository could not do what was asked.

use super::format::FormatError;
use crate::backend::BackendError;
use crate::context::Cancelled;
use crate::crypto::{KeyError, NoRandomness, OpenError, SealError};
use crate::hint::{ErrorKind, Hint};
use crate::id::{ChunkId, PackId, SnapshotId};

/// Why a repository could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// Nothing that looks like a repository is at that place.
    #[error("there is no repository at {place}")]
    NoRepository {
        /// Where it was looked for.
        place: String,
    },
    /// `init` found one already.
    #[error("there is a repository at {place} already")]
    Exists {
        /// Where.
        place: String,
    },
    /// There is no configuration, but something that only a repository has.
    #[error("{place} has no repository configuration, but holds {object}")]
    NotEmpty {
        /// Where.
        place: String,
        /// What lies there.
        object: String,
    },
    /// A key was given, but the repository says that it is not encrypted.
    #[error("a key was given, but this repository is not encrypted")]
    UnexpectedlyPlain,
    /// The last key slot cannot be removed.
    #[error("this is the only key that opens the repository")]
    LastKey,
    /// There is no such key slot.
    #[error("there is no key {id}")]
    NoSuchKey {
        /// As the user wrote it.
        id: String,
    },
    /// The repository is not encrypted, so there is no key to wrap.
    #[error("this repository is not encrypted and has no keys")]
    NotEncrypted,
    /// No pack holds the chunk.
    #[error("chunk {} is not in the repository", id.short())]
    ChunkMissing {
        /// Which chunk.
        id: ChunkId,
    },
    /// A chunk could not be read back from where the index says it is.
    #[error("chunk {} in pack {pack} is damaged: {reason}", id.short())]
    ChunkDamaged {
        /// Which chunk.
        id: ChunkId,
        /// The pack that should hold it.
        pack: PackId,
        /// What is wrong.
        reason: String,
    },
    /// A pack is not where this host's view of the index says.
    #[error("pack {pack} is gone")]
    PackGone {
        /// Which pack.
        pack: PackId,
    },
    /// A block did not decode to what was put into it, before its pack was published: the
    /// machine's memory or processor is faulty. Nothing was committed.
    #[error("a block that was just compressed does not decode to the same bytes")]
    Machine,
    /// Another process decided that this session is dead; its snapshot does not exist.
    #[error("snapshot {} was given up by a collector while it was being written", id.short())]
    Aborted {
        /// The session.
        id: SnapshotId,
    },
    /// A snapshot was removed while something was going to be made of it.
    #[error("snapshot {} was removed by a collection", id.short())]
    Collected {
        /// Which one.
        id: SnapshotId,
    },
    /// Backups are at work, and the collection was not to wait for them.
    #[error("{count} backups are at work, or died less than an hour ago")]
    Undecided {
        /// How many.
        count: usize,
    },
    /// Something that a snapshot needs is missing, so nothing can be said about what is not needed.
    #[error("the repository is damaged: {problem}")]
    Unsound {
        /// What was found.
        problem: String,
    },
    /// This host's view of the index holds nonsense.
    #[error("this host's cache of the index is damaged")]
    ViewDamaged,
    /// The same, and it cannot even be marked to be made anew.
    #[error("this host's cache of the index is damaged and cannot be written")]
    ViewStuck(#[source] std::io::Error),
    /// RocksDB failed.
    #[error("the cache of the index failed")]
    View(#[from] rocksdb::Error),
    /// The store failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A key slot cannot be used.
    #[error(transparent)]
    Slot(#[from] KeyError),
    /// Bytes are not what their format says.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The operating system gave no random numbers.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// Sealing failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// An object could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A chunk is longer than a block may be.
    #[error("a chunk of {length} bytes is too long")]
    ChunkTooLong {
        /// Its length.
        length: usize,
    },
    /// A temporary file failed.
    #[error("a temporary file failed")]
    Scratch(#[source] std::io::Error),
    /// zstd could not be set up.
    #[error("zstd could not be set up")]
    Zstd(#[source] std::io::Error),
    /// Another thread of the session failed first; its error is the one that is shown.
    #[error("the session failed before")]
    Failed,
    /// The user asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Hint for RepoError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRepository { .. } => ErrorKind::NoRepository,
            Self::UnexpectedlyPlain => ErrorKind::WrongKey,
            Self::Cancelled(error) => error.kind(),
            Self::NoSuchKey { .. } | Self::LastKey => ErrorKind::Usage,
            Self::Undecided { .. } => ErrorKind::Busy,
            Self::ChunkMissing { .. }
            | Self::PackGone { .. }
            | Self::ChunkDamaged { .. }
            | Self::Unsound { .. }
            | Self::Format(_) => ErrorKind::Damage,
            Self::Backend(error) => error.kind(),
            Self::Slot(error) => error.kind(),
            Self::Open(error) => error.kind(),
            _ => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoRepository { place } => {
                return Some(format!("make one with `coeval --repo {place} init`"));
            }
            Self::Exists { .. } => "use it as it is, or choose another place",
            Self::NotEmpty { .. } => {
                "if it lost its `config`, bring that back from a copy; else choose an empty place"
            }
            Self::UnexpectedlyPlain => {
                "if it should be encrypted, do not use it: someone may have replaced it; if not, give no key"
            }
            Self::LastKey => "add another with `coeval key add` first",
            Self::NoSuchKey { .. } => "list them with `coeval key list`",
            Self::ChunkMissing { .. } | Self::PackGone { .. } | Self::ChunkDamaged { .. } => {
                "see what is affected with `coeval check --read-data`"
            }
            Self::Machine => "test this machine's memory before you trust it with backups",
            Self::ViewDamaged => {
                "run the command again: the cache is made anew from the repository"
            }
            Self::ViewStuck(_) | Self::View(_) => {
                "delete the cache directory; it is rebuilt from the repository"
            }
            Self::Aborted { .. } => "run the backup again",
            Self::Collected { .. } => "choose another one from `coeval snapshots`",
            Self::Undecided { .. } => {
                "run it again later: it goes on where it stopped; if no backup is running \
                 anywhere, `coeval prune --immediate` does not wait"
            }
            Self::Unsound { .. } => {
                "nothing was removed; see what is affected with `coeval check`, and put what is \
                 left in its place with `coeval repair snapshots`"
            }
            Self::Backend(error) => return error.hint(),
            Self::Slot(error) => return error.hint(),
            Self::Open(error) => return error.hint(),
            Self::Format(error) => return error.hint(),
            _ => return None,
        };
        Some(text.to_owned())
    }
}
