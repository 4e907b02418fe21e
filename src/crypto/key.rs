//! The master key and what is derived from it.

use std::fmt;

use zeroize::Zeroizing;

use super::{NoRandomness, random};

/// What a subkey is for. The strings are BLAKE3 `derive_key` contexts: globally unique, and part
/// of the repository format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    ChunkId,
    Gear,
    Boundary,
    Data,
    Metadata,
    Manifest,
    Audit,
}

impl Purpose {
    const fn context(self) -> &'static str {
        match self {
            Self::ChunkId => "coeval 2026-11 chunk id",
            Self::Gear => "coeval 2026-11 gear table",
            Self::Boundary => "coeval 2026-11 record boundary",
            Self::Data => "coeval 2026-11 data",
            Self::Metadata => "coeval 2026-11 metadata",
            Self::Manifest => "coeval 2026-11 manifest",
            Self::Audit => "coeval 2026-11 audit",
        }
    }
}

/// The one secret of a repository: 32 random bytes from which every other key is derived.
/// Erased from memory when dropped, never printed.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// A new random key.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    /// The key with these bytes: only slots and tests know any.
    pub(super) fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The subkey for one purpose: knowing it tells nothing about the others.
    pub(super) fn subkey(&self, purpose: Purpose) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(purpose.context(), self.as_bytes()))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hex;

    #[test]
    fn subkeys_are_part_of_the_format() {
        let master = MasterKey::new(Zeroizing::new([7; 32]));
        let purposes = [
            Purpose::ChunkId,
            Purpose::Gear,
            Purpose::Boundary,
            Purpose::Data,
            Purpose::Metadata,
            Purpose::Manifest,
            Purpose::Audit,
        ];
        let subkeys: Vec<_> = purposes.iter().map(|p| hex(&master.subkey(*p)[..8])).collect();
        assert_eq!(
            subkeys,
            [
                "b1b43b0c64de339a",
                "cbe6bb7bc9d7341f",
                "e4eb6876dd7d8724",
                "6a49c44594c3ffda",
                "239daf130d1af1f7",
                "bb598fcbfb3f063d",
                "88b379b4dd885b2f"
            ]
        );
    }

    #[test]
    fn two_generated_keys_differ_and_neither_is_printed() {
        let (one, two) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        assert_ne!(one.as_bytes(), two.as_bytes());
        assert_eq!(format!("{one:?}"), "MasterKey(…)");
    }
}
