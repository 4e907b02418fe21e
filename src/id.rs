//! One type per kind of name, so that a pack can never be asked for with the id of a chunk.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is not the hexadecimal form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not {1} hexadecimal digits")]
pub struct ParseIdError(String, usize);

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $bytes;

            /// The id with these bytes.
            pub const fn new(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The raw bytes, as they stand in every format on disk.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The id in a slice of exactly the right length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The first eight hexadecimal digits: what people type and read.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                unhex(text)
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| ParseIdError(text.to_owned(), $bytes * 2))
            }
        }
    };
}

id_type!(
    /// Names a chunk: the keyed BLAKE3-256 of its bytes.
    ChunkId, 32
);
id_type!(
    /// Names a snapshot, and the session that wrote it: 16 random bytes, never reused.
    SnapshotId, 16
);
id_type!(
    /// Names an index segment: 16 random bytes.
    SegmentId, 16
);
id_type!(
    /// Names a repository: 16 random bytes.
    RepoId, 16
);
id_type!(
    /// Names a key slot: 8 random bytes.
    KeyId, 8
);

id_type!(
    /// Names a chain of the audit log: 16 random bytes.
    ChainId, 16
);

/// Names a pack: the session that wrote it and a running number within that session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackId {
    /// The session that wrote the pack: tells an orphan from an upload in flight.
    pub session: SnapshotId,
    /// Counts the packs of the session from 0.
    pub number: u32,
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.session, self.number)
    }
}

impl std::str::FromStr for PackId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError(text.to_owned(), 32);
        let (session, number) = text.split_once('-').ok_or_else(bad)?;
        let id = Self { session: session.parse()?, number: number.parse().map_err(|_| bad())? };
        // One name per pack: `-07` and `-7` must not be two spellings of the same.
        if id.to_string() == text { Ok(id) } else { Err(bad()) }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a lower-case hexadecimal text; `None` for anything else, upper case included.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_hex_and_parse_back() {
        let id = SnapshotId::new(std::array::from_fn(|i| u8::try_from(i).expect("16 bytes") * 17));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "00112233");
        assert!("00".parse::<SnapshotId>().is_err());
        assert!("0G112233445566778899aabbccddeeff".parse::<SnapshotId>().is_err());
    }

    #[test]
    fn pack_names_have_one_spelling() {
        let id = PackId { session: SnapshotId::new([7; 16]), number: 12 };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().replace("-12", "-012").parse::<PackId>().is_err());
    }
}
