//! What the repository holds instead of keys.

use std::fmt;

use zeroize::Zeroizing;

use super::cipher::{Cipher, Protection};
use super::error::{OpenError, SealError};
use super::key::{MasterKey, Purpose};
use super::object::{self, ObjectKind};
use super::pack::{PackOpener, PackSealer};
use crate::id::{ChunkId, RepoId};

/// Names chunks and seals packs and objects of one repository.
pub struct Sealer {
    protection: Protection,
    repo: RepoId,
    /// All zero, and so public, when the repository is not encrypted: then it only feeds the
    /// derivation of the chunking keys.
    master: MasterKey,
    chunk_id_key: Zeroizing<[u8; 32]>,
}

impl Sealer {
    /// The sealer of an encrypted repository.
    pub fn encrypted(master: &MasterKey, repo: RepoId) -> Self {
        Self::new(Protection::Encrypted, master.clone(), repo)
    }

    /// The sealer of a repository made with `--no-encryption`: ids are unkeyed, chunking keys
    /// public, and sealing only adds a checksum.
    pub fn plain(repo: RepoId) -> Self {
        Self::new(Protection::Plain, MasterKey::new(Zeroizing::new([0; 32])), repo)
    }

    fn new(protection: Protection, master: MasterKey, repo: RepoId) -> Self {
        let chunk_id_key = master.subkey(Purpose::ChunkId);
        Self { protection, repo, master, chunk_id_key }
    }

    /// Whether this repository is encrypted.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// The repository whose objects it seals.
    pub fn repo(&self) -> RepoId {
        self.repo
    }

    /// The name of a chunk. Keyed, so that nobody without the key can tell whether a repository
    /// holds a certain file; unkeyed BLAKE3 without encryption.
    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        let hash = match self.protection {
            Protection::Encrypted => blake3::keyed_hash(&self.chunk_id_key, bytes),
            Protection::Plain => blake3::hash(bytes),
        };
        ChunkId::new(*hash.as_bytes())
    }

    /// The key of the chunker's gear table.
    pub fn gear_key(&self) -> [u8; 32] {
        *self.master.subkey(Purpose::Gear)
    }

    /// The key of the function that cuts trees.
    pub fn boundary_key(&self) -> [u8; 16] {
        let subkey = self.master.subkey(Purpose::Boundary);
        std::array::from_fn(|i| subkey[i])
    }

    /// Begins a pack under a fresh salt, and so under a fresh key.
    pub fn pack_sealer(&self) -> Result<PackSealer, SealError> {
        let salt = super::random()?;
        Ok(PackSealer::new(self.pack_cipher(&salt), self.repo, salt))
    }

    /// Opens the blocks of the pack with this salt.
    pub fn pack_opener(&self, salt: &[u8; 32]) -> PackOpener {
        PackOpener::new(self.pack_cipher(salt), self.repo, *salt)
    }

    fn pack_cipher(&self, salt: &[u8; 32]) -> Cipher {
        Cipher::derive(self.protection, &self.master, Purpose::Data, salt)
    }

    /// Seals a single object under its name, padded so that its size says little.
    pub fn seal_object(
        &self,
        kind: ObjectKind,
        name: &str,
        bytes: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let salt = super::random()?;
        let cipher = Cipher::derive(self.protection, &self.master, kind.purpose(), &salt);
        object::seal(&cipher, &object::Place { kind, repo: self.repo, name }, &salt, bytes)
    }

    /// Opens an object sealed with [`Self::seal_object`] for the same kind and name.
    ///
    /// The `config` object can be opened with any repository id: it is where the id comes from.
    pub fn open_object(
        &self,
        kind: ObjectKind,
        name: &str,
        bytes: &[u8],
    ) -> Result<Vec<u8>, OpenError> {
        let place = object::Place { kind, repo: self.repo, name };
        let salt = object::salt(&place, self.protection, bytes)?;
        let cipher = Cipher::derive(self.protection, &self.master, kind.purpose(), salt);
        object::open(&cipher, &place, bytes)
    }

    /// Whether an object, such as `config`, says that it is encrypted, before any key is at hand.
    ///
    /// The answer is not authenticated: whoever can write to the store could put a plain `config`
    /// in place of an encrypted one. So it must not be followed when a key was given for the
    /// repository, or when the repository has key slots.
    pub fn claimed_protection(name: &str, bytes: &[u8]) -> Result<Protection, OpenError> {
        object::claimed_protection(name, bytes)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("protection", &self.protection)
            .field("repo", &self.repo)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hex;

    const REPO: RepoId = RepoId::new([9; 16]);

    fn sealer() -> Sealer {
        Sealer::encrypted(&MasterKey::new(Zeroizing::new([7; 32])), REPO)
    }

    #[test]
    fn ids_and_chunking_keys_are_part_of_the_format() {
        let derived = |s: &Sealer| {
            [
                hex(&s.chunk_id(b"abc").as_bytes()[..8]),
                hex(&s.gear_key()[..8]),
                hex(&s.boundary_key()),
            ]
        };
        assert_eq!(
            derived(&sealer()),
            ["e51ee05dce9b2268", "cbe6bb7bc9d7341f", "e4eb6876dd7d87244b66e745a6cfde7e"]
        );
        assert_eq!(
            derived(&Sealer::plain(REPO)),
            ["6437b3ac38465133", "fec592fc00ff4c2a", "388b359142ce61344be1cba90206dce0"]
        );
    }

    #[test]
    fn without_encryption_ids_are_plain_blake3() {
        let id = Sealer::plain(REPO).chunk_id(b"abc");
        assert_eq!(id.as_bytes(), blake3::hash(b"abc").as_bytes());
        assert_ne!(id, sealer().chunk_id(b"abc"));
    }

    #[test]
    fn no_key_is_printed() {
        let sealer = sealer();
        let pack = sealer.pack_sealer().unwrap();
        let printed = format!("{sealer:?} {pack:?} {:?}", sealer.pack_opener(pack.salt()));
        let data = sealer.master.subkey(Purpose::Data);
        let pack_key = blake3::keyed_hash(&data, pack.salt());
        let secrets: [&[u8]; 5] =
            [&[7; 32], &*sealer.chunk_id_key, &*data, &sealer.gear_key(), pack_key.as_bytes()];
        for secret in secrets {
            assert!(!printed.contains(&format!("{:?}", &secret[..4])[1..10]), "{printed}");
            assert!(!printed.contains(&hex(&secret[..4])), "{printed}");
        }
    }
}
