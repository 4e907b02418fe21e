//! The one place where bytes are sealed and opened: AES-256-GCM, or a checksum when the
//! repository is not encrypted.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::error::SealError;
use super::key::{MasterKey, Purpose};

/// How many bytes sealing adds.
pub const TAG_LEN: usize = 16;

/// Whether a repository hides its content or only proves that it is undamaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// AES-256-GCM under keys derived from the master key.
    Encrypted,
    /// In the clear with a checksum: finds damage, not malice.
    Plain,
}

/// A key that seals and opens; whoever holds one sees to it that no counter repeats.
#[derive(Debug)]
pub(super) enum Cipher {
    Aes(LessSafeKey),
    Checksum,
}

impl Cipher {
    /// The cipher for everything with this salt: `keyed_hash(subkey, salt)`, so that a fresh salt
    /// is a fresh key and counters may start again at 0.
    pub(super) fn derive(
        protection: Protection,
        master: &MasterKey,
        purpose: Purpose,
        salt: &[u8; 32],
    ) -> Self {
        match protection {
            Protection::Plain => Self::Checksum,
            Protection::Encrypted => {
                let subkey = master.subkey(purpose);
                let key = Zeroizing::new(*blake3::keyed_hash(&subkey, salt).as_bytes());
                Self::new(&key)
            }
        }
    }

    pub(super) fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key is 32 bytes long");
        Self::Aes(LessSafeKey::new(key))
    }

    /// Seals in place and returns the tag.
    pub(super) fn seal(
        &self,
        counter: u32,
        associated: &[u8],
        bytes: &mut [u8],
    ) -> Result<[u8; TAG_LEN], SealError> {
        match self {
            Self::Aes(key) => {
                let tag = key
                    .seal_in_place_separate_tag(nonce(counter), Aad::from(associated), bytes)
                    .ok()
                    .and_then(|tag| tag.as_ref().try_into().ok());
                tag.ok_or(SealError::TooLarge(bytes.len()))
            }
            Self::Checksum => Ok(checksum(associated, bytes)),
        }
    }

    /// Opens bytes that end in a tag, in place; the tag is cut off. `None` when anything differs
    /// from what was sealed; the bytes are then unusable.
    pub(super) fn open(&self, counter: u32, associated: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
        let body_len = bytes.len().checked_sub(TAG_LEN)?;
        let (body, tag) = bytes.split_at_mut(body_len);
        match self {
            Self::Aes(key) => {
                let aad = Aad::from(associated);
                key.open_in_place_separate_tag(nonce(counter), aad, tag, body).ok()?;
            }
            Self::Checksum => {
                if checksum(associated, body) != tag {
                    return None;
                }
            }
        }
        bytes.truncate(body_len);
        Some(())
    }
}

fn nonce(counter: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The length keeps associated data and content apart.
fn checksum(associated: &[u8], bytes: &[u8]) -> [u8; TAG_LEN] {
    let mut hasher = blake3::Hasher::new_derive_key("coeval 2026-11 plain tag");
    hasher.update(&(associated.len() as u64).to_le_bytes()).update(associated).update(bytes);
    let mut tag = [0; TAG_LEN];
    hasher.finalize_xof().fill(&mut tag);
    tag
}
