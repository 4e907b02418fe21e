//! Sealing the blocks of a pack: one key per pack, the block's number as nonce.

use super::FORMAT_VERSION;
use super::cipher::Cipher;
use super::error::{OpenError, SealError};
use crate::id::RepoId;

/// The number under which the footer of a pack is sealed: known without having read the pack.
pub const FOOTER_NUMBER: u32 = u32::MAX;

/// Seals the blocks of one pack. It counts the blocks itself and is the only one that ever seals
/// under this key, so no nonce can be used twice.
#[derive(Debug)]
pub struct PackSealer {
    cipher: Cipher,
    place: Place,
    next: u32,
}

impl PackSealer {
    pub(super) fn new(cipher: Cipher, repo: RepoId, salt: [u8; 32]) -> Self {
        Self { cipher, place: Place { repo, salt }, next: 0 }
    }

    /// What the pack's header must hold, so that it can be opened.
    pub fn salt(&self) -> &[u8; 32] {
        &self.place.salt
    }

    /// Seals a block in place, appends the tag, and returns the block's number, counted from 0.
    /// The kind is authenticated but not stored.
    pub fn seal(&mut self, kind: u8, bytes: &mut Vec<u8>) -> Result<u32, SealError> {
        let number = self.next;
        if number == FOOTER_NUMBER {
            return Err(SealError::TooManyBlocks);
        }
        // Before sealing: a number whose sealing failed is spent too.
        self.next += 1;
        self.seal_as(number, kind, bytes)?;
        Ok(number)
    }

    /// Seals the footer as block [`FOOTER_NUMBER`]; the pack can hold nothing after it.
    pub fn seal_footer(self, kind: u8, bytes: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal_as(FOOTER_NUMBER, kind, bytes)
    }

    fn seal_as(&self, number: u32, kind: u8, bytes: &mut Vec<u8>) -> Result<(), SealError> {
        let tag = self.cipher.seal(number, &self.place.associated(number, kind), bytes)?;
        bytes.extend_from_slice(&tag);
        Ok(())
    }
}

/// Opens the blocks of one pack, in any order.
#[derive(Debug)]
pub struct PackOpener {
    cipher: Cipher,
    place: Place,
}

impl PackOpener {
    pub(super) fn new(cipher: Cipher, repo: RepoId, salt: [u8; 32]) -> Self {
        Self { cipher, place: Place { repo, salt } }
    }

    /// The block's bytes without the tag, if they are what was sealed under this number and kind.
    pub fn open(&self, number: u32, kind: u8, mut bytes: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        self.cipher
            .open(number, &self.place.associated(number, kind), &mut bytes)
            .ok_or(OpenError::Block { number })?;
        Ok(bytes)
    }
}

/// Which pack of which repository.
#[derive(Debug)]
struct Place {
    repo: RepoId,
    salt: [u8; 32],
}

impl Place {
    /// Format version ‖ repository id ‖ pack salt ‖ block number ‖ kind.
    fn associated(&self, number: u32, kind: u8) -> [u8; 54] {
        let mut bytes = [0; 54];
        bytes[0] = FORMAT_VERSION;
        bytes[1..17].copy_from_slice(self.repo.as_bytes());
        bytes[17..49].copy_from_slice(&self.salt);
        bytes[49..53].copy_from_slice(&number.to_le_bytes());
        bytes[53] = kind;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::cipher::Protection;
    use super::super::key::Purpose;
    use super::super::{MasterKey, Sealer};
    use super::*;
    use crate::id::hex;

    const REPO: RepoId = RepoId::new([9; 16]);

    fn sealers() -> [Sealer; 2] {
        let master = MasterKey::new(Zeroizing::new([7; 32]));
        [Sealer::encrypted(&master, REPO), Sealer::plain(REPO)]
    }

    #[test]
    fn a_block_opens_as_what_was_sealed() {
        for sealer in sealers() {
            let mut pack = sealer.pack_sealer().unwrap();
            let opener = sealer.pack_opener(pack.salt());
            for number in 0..3_u8 {
                let len = 1000 * usize::from(number);
                let mut block = vec![number; len];
                assert_eq!(pack.seal(1, &mut block).unwrap(), u32::from(number));
                assert_eq!(block.len(), len + super::super::TAG_LEN);
                let opened = opener.open(number.into(), 1, block).unwrap();
                assert_eq!(opened, vec![number; len]);
            }
            let mut footer = b"footer".to_vec();
            pack.seal_footer(2, &mut footer).unwrap();
            assert_eq!(opener.open(FOOTER_NUMBER, 2, footer).unwrap(), b"footer");
        }
    }

    #[test]
    fn the_same_block_never_looks_the_same_twice() {
        let [sealer, _] = sealers();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..4 {
            let mut pack = sealer.pack_sealer().unwrap();
            for _ in 0..16 {
                let mut block = vec![0; 32];
                pack.seal(1, &mut block).unwrap();
                assert!(seen.insert(block[..32].to_vec()), "key stream repeated");
            }
        }
    }

    #[test]
    fn a_block_opens_only_in_its_own_place() {
        for sealer in sealers() {
            let mut pack = sealer.pack_sealer().unwrap();
            let mut block = b"some bytes".to_vec();
            let number = pack.seal(1, &mut block).unwrap();
            let opener = sealer.pack_opener(pack.salt());
            assert!(opener.open(number, 1, block.clone()).is_ok());
            assert_eq!(
                opener.open(number + 1, 1, block.clone()),
                Err(OpenError::Block { number: number + 1 })
            );
            assert!(opener.open(number, 2, block.clone()).is_err());
            let another_pack = sealer.pack_sealer().unwrap();
            assert!(
                sealer.pack_opener(another_pack.salt()).open(number, 1, block.clone()).is_err()
            );
            let other_repo = RepoId::new([10; 16]);
            let others = [
                Sealer::encrypted(&MasterKey::new(Zeroizing::new([7; 32])), other_repo),
                Sealer::plain(other_repo),
                Sealer::encrypted(&MasterKey::new(Zeroizing::new([8; 32])), REPO),
            ];
            for other in others {
                assert!(other.pack_opener(pack.salt()).open(number, 1, block.clone()).is_err());
            }
        }
    }

    #[test]
    fn every_flipped_or_missing_byte_of_a_block_is_found() {
        for sealer in sealers() {
            let mut pack = sealer.pack_sealer().unwrap();
            let mut block = b"twenty bytes of data".to_vec();
            pack.seal(1, &mut block).unwrap();
            let opener = sealer.pack_opener(pack.salt());
            for at in 0..block.len() {
                let mut damaged = block.clone();
                damaged[at] ^= 1 << (at % 8);
                assert!(opener.open(0, 1, damaged).is_err(), "byte {at}");
                assert!(opener.open(0, 1, block[..at].to_vec()).is_err(), "cut to {at}");
                assert!(opener.open(0, 1, block[at + 1..].to_vec()).is_err(), "cut from {at}");
            }
        }
    }

    #[test]
    fn the_last_block_number_is_kept_for_the_footer() {
        let [sealer, _] = sealers();
        let mut pack = sealer.pack_sealer().unwrap();
        pack.next = FOOTER_NUMBER - 1;
        assert_eq!(pack.seal(1, &mut Vec::new()).unwrap(), FOOTER_NUMBER - 1);
        assert!(matches!(pack.seal(1, &mut Vec::new()), Err(SealError::TooManyBlocks)));
        assert!(pack.seal_footer(2, &mut Vec::new()).is_ok());
    }

    #[test]
    fn sealed_blocks_are_part_of_the_format() {
        let sealed = |protection| {
            let master = MasterKey::new(Zeroizing::new([7; 32]));
            let cipher = Cipher::derive(protection, &master, Purpose::Data, &[3; 32]);
            let mut pack = PackSealer::new(cipher, REPO, [3; 32]);
            pack.seal(1, &mut vec![0]).unwrap();
            let mut block = b"abc".to_vec();
            pack.seal(1, &mut block).unwrap();
            hex(&block)
        };
        assert_eq!(sealed(Protection::Encrypted), "33f5a04b01ea768520fecafec35b14eba6fb30");
        assert_eq!(sealed(Protection::Plain), "61626382e9caee1ed09e37ba103c770427e0d1");
    }
}
