//! What can go wrong with randomness, sealing, opening and keys.

use super::slot::{KdfCost, SlotKind};
use crate::hint::{ErrorKind, Hint};
use crate::id::KeyId;

/// The operating system gave no random bytes. Nothing secret may be made without them.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes ({0})")]
pub struct NoRandomness(pub(super) getrandom::Error);

impl Hint for NoRandomness {}

/// Why something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No salt could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// AES-GCM seals at most 64 GiB at once.
    #[error("{0} bytes are too many to seal at once")]
    TooLarge(usize),
    /// The block numbers of a pack are used up.
    #[error("a pack holds at most 4294967295 blocks")]
    TooManyBlocks,
}

impl Hint for SealError {}

/// Why something sealed could not be opened. Names the object as the repository does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The block is not what was sealed under this number, kind, pack and repository.
    #[error("block {number} is damaged or not from this repository")]
    Block {
        /// The number of the block within its pack; [`super::FOOTER_NUMBER`] is the footer.
        number: u32,
    },
    /// The object is not what was sealed under this name, kind and repository.
    #[error("`{object}` is damaged or not from this repository")]
    Object {
        /// Its name.
        object: String,
    },
    /// The object does not begin as an object of a repository.
    #[error("`{object}` is not an object of a coeval repository")]
    NotAnObject {
        /// Its name.
        object: String,
    },
    /// A newer program wrote it.
    #[error("`{object}` has format version {version}; this program reads version 1")]
    Version {
        /// Its name.
        object: String,
        /// The version found.
        version: u8,
    },
    /// The object is of another kind than its name says.
    #[error("`{object}` holds an object of another kind")]
    Kind {
        /// Its name.
        object: String,
    },
    /// An object in the clear in an encrypted repository: someone may have put it there.
    #[error("`{object}` is not encrypted although the repository is")]
    NotEncrypted {
        /// Its name.
        object: String,
    },
    /// An encrypted object in a repository without encryption.
    #[error("`{object}` is encrypted although the repository is not")]
    Encrypted {
        /// Its name.
        object: String,
    },
}

impl Hint for OpenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Version { .. } => ErrorKind::Failed,
            _ => ErrorKind::Damage,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Version { .. } => "use the newer program that wrote the repository".to_owned(),
            Self::NotEncrypted { .. } => {
                "do not trust the store: find out who wrote the object before going on".to_owned()
            }
            _ => "see what is affected with `coeval check --read-data`".to_owned(),
        })
    }
}

/// Why a key, or a slot, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No salt or key could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// Sealing failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Argon2 refused.
    #[error("cannot derive a key from the password")]
    Kdf(#[from] argon2::Error),
    /// No slot fits what was offered.
    #[error("the {} does not open this repository", offered.name())]
    WrongKey {
        /// What was offered.
        offered: SlotKind,
        /// What would open the repository.
        slots: Vec<SlotKind>,
    },
    /// The slot is not as it was written.
    #[error("key slot {id} is damaged")]
    Damaged {
        /// Which slot.
        id: KeyId,
    },
    /// A newer program wrote the slot.
    #[error("key slot {id} has format version {version}; this program reads version 1")]
    Version {
        /// Which slot.
        id: KeyId,
        /// The version found.
        version: u8,
    },
    /// The slot asks for an Argon2 that is too weak or too expensive.
    #[error(
        "key slot {id} asks for {} MiB, {} passes and {} lanes of Argon2id; accepted are 64 to \
         2048 MiB, 1 to 64 passes, 1 to 16 lanes",
        cost.memory_kib >> 10, cost.passes, cost.lanes
    )]
    Cost {
        /// Which slot.
        id: KeyId,
        /// What it asks for.
        cost: KdfCost,
    },
    /// The label does not fit.
    #[error("the label of a key has at most 64 bytes and no control characters")]
    Label,
    /// The text is not that of a key file.
    #[error("this is not a coeval key file: expected one line `coeval-key-1:<64 digits>`")]
    NotAKeyFile,
    /// A symbol that no recovery key has.
    #[error("`{0}` does not occur in a recovery key")]
    RecoverySymbol(char),
    /// Too few or too many symbols.
    #[error("a recovery key has 14 groups of 4 symbols")]
    RecoveryLength,
    /// A typing error.
    #[error("the recovery key has a typing error: its check symbols do not match")]
    RecoveryCheck,
}

impl Hint for KeyError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRandomness(_) | Self::Seal(_) | Self::Kdf(_) | Self::Version { .. } => {
                ErrorKind::Failed
            }
            Self::Damaged { .. } | Self::Cost { .. } => ErrorKind::Damage,
            Self::Label => ErrorKind::Usage,
            Self::WrongKey { .. }
            | Self::NotAKeyFile
            | Self::RecoverySymbol(_)
            | Self::RecoveryLength
            | Self::RecoveryCheck => ErrorKind::WrongKey,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::WrongKey { offered, slots } if slots.contains(offered) => {
                Some("check that the key belongs to this repository, or try another one".to_owned())
            }
            Self::WrongKey { slots, .. } => {
                let kinds = [SlotKind::KeyFile, SlotKind::Password, SlotKind::Recovery];
                let known = kinds.iter().filter(|kind| slots.contains(kind));
                let known: Vec<_> = known.map(|kind| kind.name()).collect();
                (!known.is_empty()).then(|| format!("it opens with a {}", known.join(" or a ")))
            }
            Self::Damaged { .. } | Self::Cost { .. } => Some(
                "open the repository with another key and replace this one with `coeval key add` \
                 and `coeval key remove`"
                    .to_owned(),
            ),
            Self::Version { .. } => Some("use the newer program that wrote it".to_owned()),
            Self::RecoveryCheck => {
                Some("compare it group by group with what was printed by `coeval init`".to_owned())
            }
            _ => None,
        }
    }
}
