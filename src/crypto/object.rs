//! The envelope of objects that are sealed alone: `config`, index segments, sessions, snapshots.
//!
//! Magic ‖ format version ‖ kind ‖ salt ‖ sealed(content ‖ zeros ‖ length of the content) ‖ tag.
//! The whole header, the repository and the object's name are authenticated, so that no object
//! can stand in for another.

use super::FORMAT_VERSION;
use super::cipher::{Cipher, Protection, TAG_LEN};
use super::error::{OpenError, SealError};
use super::key::Purpose;
use crate::id::RepoId;

const MAGIC: &[u8; 6] = b"COEVAL";
const KIND_AT: usize = 7;
const SALT_AT: usize = 8;
const HEADER_LEN: usize = 40;
/// Set in the byte of the kind when the object is not encrypted.
const UNSEALED: u8 = 0x80;
const LENGTH_LEN: usize = 8;

/// What a sealed object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// The parameters and the id of the repository.
    Config,
    /// Where chunks are.
    IndexSegment,
    /// A writer is at work.
    Session,
    /// The commit of a snapshot.
    Snapshot,
    /// What a collection removes.
    Collection,
    /// Who did what.
    Audit,
}

impl ObjectKind {
    const fn code(self) -> u8 {
        match self {
            Self::Config => 1,
            Self::IndexSegment => 2,
            Self::Session => 3,
            Self::Snapshot => 4,
            Self::Audit => 5,
            Self::Collection => 6,
        }
    }

    /// What says what is in the repository is kept apart from what says where it is.
    pub(super) const fn purpose(self) -> Purpose {
        match self {
            Self::Config | Self::Snapshot => Purpose::Manifest,
            Self::IndexSegment | Self::Session | Self::Collection => Purpose::Metadata,
            Self::Audit => Purpose::Audit,
        }
    }
}

/// Which object of which repository.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) kind: ObjectKind,
    pub(super) repo: RepoId,
    pub(super) name: &'a str,
}

impl Place<'_> {
    fn associated(&self, header: &[u8]) -> Vec<u8> {
        // The repository's id is read from the config, so the config cannot be bound to it.
        let repo = match self.kind {
            ObjectKind::Config => RepoId::new([0; 16]),
            _ => self.repo,
        };
        [header, repo.as_bytes(), self.name.as_bytes()].concat()
    }

    fn object(&self) -> String {
        self.name.to_owned()
    }
}

/// The size to which `len` bytes are padded: at most 12 % more, and only O(log log len) bits of
/// the size remain visible. Padmé, from Nikitin et al., "Reducing Metadata Leakage from Encrypted
/// Files and Communication with PURBs", PoPETs 2019(4).
pub fn padme(len: u64) -> u64 {
    let Some(exponent) = len.checked_ilog2().filter(|e| *e > 0) else { return len };
    let significant = exponent.ilog2() + 1;
    let mask = (1_u64 << (exponent - significant)) - 1;
    // Beyond 2^63 there is nothing to round up to; such a length cannot be allocated either.
    len.checked_add(mask).map_or(len, |sum| sum & !mask)
}

pub(super) fn seal(
    cipher: &Cipher,
    place: &Place<'_>,
    salt: &[u8; 32],
    bytes: &[u8],
) -> Result<Vec<u8>, SealError> {
    let flag = match cipher {
        Cipher::Aes(_) => 0,
        Cipher::Checksum => UNSEALED,
    };
    let length = bytes.len() as u64;
    let padded = usize::try_from(padme(length + LENGTH_LEN as u64))
        .ok()
        .ok_or(SealError::TooLarge(bytes.len()))?;
    let mut object = Vec::with_capacity(HEADER_LEN + padded + TAG_LEN);
    object.extend_from_slice(MAGIC);
    object.extend_from_slice(&[FORMAT_VERSION, place.kind.code() | flag]);
    object.extend_from_slice(salt);
    let associated = place.associated(&object);
    object.extend_from_slice(bytes);
    object.resize(HEADER_LEN + padded - LENGTH_LEN, 0);
    object.extend_from_slice(&length.to_le_bytes());
    // The salt, and so the key, is used this once: the counter can be 0.
    let tag = cipher.seal(0, &associated, &mut object[HEADER_LEN..])?;
    object.extend_from_slice(&tag);
    Ok(object)
}

/// The salt of an object whose header is as it must be.
pub(super) fn salt<'a>(
    place: &Place<'_>,
    protection: Protection,
    bytes: &'a [u8],
) -> Result<&'a [u8; 32], OpenError> {
    match (protection, claimed_protection(place.name, bytes)?) {
        (Protection::Encrypted, Protection::Plain) => {
            return Err(OpenError::NotEncrypted { object: place.object() });
        }
        (Protection::Plain, Protection::Encrypted) => {
            return Err(OpenError::Encrypted { object: place.object() });
        }
        _ => {}
    }
    if bytes[KIND_AT] & !UNSEALED != place.kind.code() {
        return Err(OpenError::Kind { object: place.object() });
    }
    bytes[SALT_AT..].first_chunk().ok_or_else(|| OpenError::NotAnObject { object: place.object() })
}

pub(super) fn open(cipher: &Cipher, place: &Place<'_>, bytes: &[u8]) -> Result<Vec<u8>, OpenError> {
    let damaged = || OpenError::Object { object: place.object() };
    let (header, body) = bytes.split_at_checked(HEADER_LEN).ok_or_else(damaged)?;
    let mut content = body.to_vec();
    cipher.open(0, &place.associated(header), &mut content).ok_or_else(damaged)?;
    let (padded, length) = content.split_last_chunk().ok_or_else(damaged)?;
    let length = usize::try_from(u64::from_le_bytes(*length))
        .ok()
        .filter(|length| *length <= padded.len())
        .ok_or_else(damaged)?;
    content.truncate(length);
    Ok(content)
}

pub(super) fn claimed_protection(name: &str, bytes: &[u8]) -> Result<Protection, OpenError> {
    let object = || name.to_owned();
    if bytes.len() < HEADER_LEN || !bytes.starts_with(MAGIC) {
        return Err(OpenError::NotAnObject { object: object() });
    }
    match bytes[MAGIC.len()] {
        FORMAT_VERSION if bytes[KIND_AT] & UNSEALED == 0 => Ok(Protection::Encrypted),
        FORMAT_VERSION => Ok(Protection::Plain),
        version => Err(OpenError::Version { object: object(), version }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::super::{MasterKey, Sealer};
    use super::*;
    use crate::id::hex;

    const REPO: RepoId = RepoId::new([9; 16]);
    const KINDS: [ObjectKind; 4] =
        [ObjectKind::Config, ObjectKind::IndexSegment, ObjectKind::Session, ObjectKind::Snapshot];

    fn sealers(repo: RepoId) -> [Sealer; 2] {
        let master = MasterKey::new(Zeroizing::new([7; 32]));
        [Sealer::encrypted(&master, repo), Sealer::plain(repo)]
    }

    #[test]
    fn an_object_opens_as_what_was_sealed() {
        for sealer in sealers(REPO) {
            for kind in KINDS {
                for bytes in [&b""[..], b"x", &[5; 1000]] {
                    let sealed = sealer.seal_object(kind, "some/name", bytes).unwrap();
                    assert_eq!(sealer.open_object(kind, "some/name", &sealed).unwrap(), bytes);
                    let claimed = Sealer::claimed_protection("some/name", &sealed);
                    assert_eq!(claimed, Ok(sealer.protection()));
                }
            }
        }
    }

    #[test]
    fn an_object_opens_only_in_its_own_place() {
        for (sealer, foreign) in sealers(REPO).iter().zip(sealers(RepoId::new([1; 16]))) {
            for kind in KINDS {
                let sealed = sealer.seal_object(kind, "a", b"content").unwrap();
                assert!(sealer.open_object(kind, "b", &sealed).is_err());
                for other in KINDS.into_iter().filter(|other| *other != kind) {
                    assert!(sealer.open_object(other, "a", &sealed).is_err());
                    let mut relabelled = sealed.clone();
                    relabelled[KIND_AT] ^= kind.code() ^ other.code();
                    assert!(sealer.open_object(other, "a", &relabelled).is_err());
                }
                let elsewhere = foreign.open_object(kind, "a", &sealed);
                assert_eq!(elsewhere.is_ok(), kind == ObjectKind::Config, "{kind:?}");
            }
        }
    }

    #[test]
    fn a_plain_object_is_no_stand_in_for_an_encrypted_one() {
        let [encrypted, plain] = sealers(REPO);
        for kind in KINDS {
            let forged = plain.seal_object(kind, "a", b"x").unwrap();
            let refused = encrypted.open_object(kind, "a", &forged).unwrap_err();
            assert!(matches!(refused, OpenError::NotEncrypted { .. }));
            let sealed = encrypted.seal_object(kind, "a", b"x").unwrap();
            let refused = plain.open_object(kind, "a", &sealed).unwrap_err();
            assert!(matches!(refused, OpenError::Encrypted { .. }));
        }
    }

    #[test]
    fn every_flipped_or_missing_byte_of_an_object_is_found() {
        for sealer in sealers(REPO) {
            let sealed = sealer.seal_object(ObjectKind::Snapshot, "a", b"content").unwrap();
            for at in 0..sealed.len() {
                for bit in 0..8 {
                    let mut damaged = sealed.clone();
                    damaged[at] ^= 1 << bit;
                    let opened = sealer.open_object(ObjectKind::Snapshot, "a", &damaged);
                    assert!(opened.is_err(), "byte {at} bit {bit}");
                }
                assert!(sealer.open_object(ObjectKind::Snapshot, "a", &sealed[..at]).is_err());
            }
            let longer = [sealed.as_slice(), &[0]].concat();
            assert!(sealer.open_object(ObjectKind::Snapshot, "a", &longer).is_err());
        }
    }

    #[test]
    fn the_same_object_never_looks_the_same_twice() {
        let [sealer, _] = sealers(REPO);
        let seal = || sealer.seal_object(ObjectKind::Session, "a", &[0; 64]).unwrap();
        assert_ne!(seal()[HEADER_LEN..], seal()[HEADER_LEN..]);
    }

    #[test]
    fn sealed_objects_are_part_of_the_format() {
        let sealed = |protection| {
            let master = MasterKey::new(Zeroizing::new([7; 32]));
            let place = Place { kind: ObjectKind::Snapshot, repo: REPO, name: "snapshots/x" };
            let cipher = Cipher::derive(protection, &master, place.kind.purpose(), &[3; 32]);
            hex(&seal(&cipher, &place, &[3; 32], b"abc").unwrap())
        };
        assert_eq!(
            sealed(Protection::Encrypted),
            "434f4556414c01040303030303030303030303030303030303030303030303030303030303030303449e015513ff9fcd33fe885d4be5a4fe5bbbbbffae5aeda45a91b092"
        );
        assert_eq!(
            sealed(Protection::Plain),
            "434f4556414c01840303030303030303030303030303030303030303030303030303030303030303616263000300000000000000f587bce1d133b601ba3b85684bec2118"
        );
    }

    #[test]
    fn padded_sizes_are_those_of_the_paper() {
        for (len, padded) in
            [(0, 0), (1, 1), (8, 8), (9, 10), (100, 104), (1000, 1024), (9000, 9216)]
        {
            assert_eq!(padme(len), padded, "{len}");
        }
    }

    proptest! {
        #[test]
        fn padding_costs_at_most_12_percent_and_keeps_order(len in 0_u64..1 << 50, more in 0_u64..1 << 20) {
            let padded = padme(len);
            prop_assert!(padded >= len && padded - len <= len / 8 + 1);
            prop_assert!(padme(len + more) >= padded);
            prop_assert_eq!(padme(padded), padded);
        }
    }
}
