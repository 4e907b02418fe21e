//! Why a restore did not happen.

use crate::hint::{ErrorKind, Hint};
use crate::source::Kind;

/// Why a restore did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot has no such source.
    #[error("the snapshot has no /{}/{name}", kind.as_str())]
    NoSource {
        /// Which part.
        kind: Kind,
        /// Which source.
        name: String,
        /// What it has.
        there: Vec<String>,
    },
    /// Something in the target could not be read, so it could not be saved before the restore.
    #[error(
        "{item} in the target cannot be read, so it cannot be saved before the restore: {reason}"
    )]
    CannotSave {
        /// What.
        item: String,
        /// Why.
        reason: String,
    },
    /// Part of a database cannot be restored into tables of another structure.
    #[error("the structure of the target differs from the snapshot's")]
    StructureDiffers,
    /// The numbers that users and groups have here cannot be found out.
    #[error("cannot look up the users and groups of this machine")]
    Owners(#[source] std::io::Error),
    /// The database has no such table.
    #[error("there is no table {table}")]
    NoTable {
        /// Which.
        table: String,
        /// What there is.
        there: Vec<String>,
    },
    /// A row that is to stay as it is is not there.
    #[error("{row} is to stay as it is, but is not in the database")]
    NotPinned {
        /// Which row.
        row: String,
    },
    /// Rows are to stay, and their tables cannot.
    #[error("rows are to stay as they are, but the structure of the database must be made anew")]
    CannotPin,
    /// A pattern of tables is not valid.
    #[error("`{pattern}` is no pattern of table names")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why not.
        #[source]
        source: globset::Error,
    },
    /// Records refer to others that are neither restored nor in the target.
    #[error("what is restored refers to {count} records that the target has not got: {}", .rows.join(", "))]
    Parents {
        /// The first of them.
        rows: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// The target, read again, is not what it must be.
    #[error("{path} does not have the snapshot's root hash after the restore")]
    Mismatch {
        /// Which tree.
        path: String,
        /// The first key that differs, in hexadecimal.
        key: Option<String>,
    },
}

impl Hint for RestoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSource { .. }
            | Self::NoTable { .. }
            | Self::NotPinned { .. }
            | Self::CannotPin
            | Self::Pattern { .. } => ErrorKind::Usage,
            Self::Mismatch { .. } => ErrorKind::Damage,
            Self::CannotSave { .. }
            | Self::StructureDiffers
            | Self::Owners(_)
            | Self::Parents { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoSource { there, .. } => format!("it has {}", there.join(", ")),
            Self::NoTable { there, .. } => format!("there are {}", there.join(", ")),
            Self::NotPinned { .. } => "leave it out of the rows to pin".to_owned(),
            Self::CannotPin => {
                "migrate the database to the structure of the snapshot first, or pin no rows"
                    .to_owned()
            }
            Self::Pattern { .. } => "write it as `auth*`".to_owned(),
            Self::Parents { .. } => "restore them, too, with --with-parents".to_owned(),
            Self::CannotSave { .. } => "make it readable, or move it away".to_owned(),
            Self::StructureDiffers => "restore the whole database instead of a part".to_owned(),
            Self::Owners(_) => "restore without `--owner-by-name`".to_owned(),
            Self::Mismatch { key, .. } => format!(
                "databases were rolled back; bring files back with `coeval undo` (first difference at key {})",
                key.as_deref().unwrap_or("unknown")
            ),
        })
    }
}
