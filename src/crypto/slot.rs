//! Key slots: the master key, wrapped once for every password, key file and recovery key, so that
//! any of them can be added or removed without touching anything else.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::cipher::{Cipher, TAG_LEN};
use super::error::KeyError;
use super::unlock::Unlock;
use super::{FORMAT_VERSION, MasterKey, random};
use crate::id::KeyId;
use crate::time::Timestamp;

const MAGIC: &[u8; 6] = b"COEKEY";
const SALT_LEN: usize = 32;
/// Magic, version, kind, three parameters of Argon2, salt, seconds, length of the label.
const FIXED_LEN: usize = 6 + 1 + 1 + 12 + SALT_LEN + 8 + 1;
const WRAPPED_LEN: usize = 32 + TAG_LEN;
const COMMITMENT_LEN: usize = 32;
const CHECKSUM_LEN: usize = 16;
const LABEL_MAX: usize = 64;

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A key file.
    KeyFile,
    /// A password.
    Password,
    /// The recovery key.
    Recovery,
}

impl SlotKind {
    const fn code(self) -> u8 {
        match self {
            Self::KeyFile => 1,
            Self::Password => 2,
            Self::Recovery => 3,
        }
    }

    const fn of(unlock: &Unlock) -> Self {
        match unlock {
            Unlock::KeyFile(_) => Self::KeyFile,
            Unlock::Password(_) => Self::Password,
            Unlock::Recovery(_) => Self::Recovery,
        }
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyFile => "key file",
            Self::Password => "password",
            Self::Recovery => "recovery key",
        }
    }
}

/// What trying one password costs, with Argon2id version 1.3 (RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl KdfCost {
    /// 256 MiB, three passes, two lanes: about a second on one core of a server.
    pub const DEFAULT: Self = Self { memory_kib: 256 << 10, passes: 3, lanes: 2 };
    /// The least that is accepted: a slot that someone weakened is refused.
    pub const FLOOR: Self = Self { memory_kib: 64 << 10, passes: 1, lanes: 1 };
    /// The most that is accepted: a slot must not be able to use up the machine.
    pub const CEILING: Self = Self { memory_kib: 2 << 20, passes: 64, lanes: 16 };
    /// Where there is no password.
    const NONE: Self = Self { memory_kib: 0, passes: 0, lanes: 0 };

    fn is_acceptable(self) -> bool {
        let between =
            |of: fn(Self) -> u32| (of(Self::FLOOR)..=of(Self::CEILING)).contains(&of(self));
        between(|c| c.memory_kib) && between(|c| c.passes) && between(|c| c.lanes)
    }
}

impl Default for KdfCost {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The master key, wrapped for one password, key file or recovery key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    id: KeyId,
    kind: SlotKind,
    cost: KdfCost,
    salt: [u8; SALT_LEN],
    created: i64,
    label: String,
    wrapped: [u8; WRAPPED_LEN],
    commitment: [u8; COMMITMENT_LEN],
}

impl Slot {
    /// Wraps the master key, so that `unlock` opens it. The label, at most 64 bytes, tells people
    /// which slot it is and is stored in the clear. The cost matters for passwords only.
    pub fn create(
        unlock: &Unlock,
        master: &MasterKey,
        label: &str,
        created: Timestamp,
        cost: KdfCost,
    ) -> Result<Self, KeyError> {
        if !is_label(label) {
            return Err(KeyError::Label);
        }
        let kind = SlotKind::of(unlock);
        let mut slot = Self {
            id: KeyId::new(random()?),
            kind,
            cost: if kind == SlotKind::Password { cost } else { KdfCost::NONE },
            salt: random()?,
            created: created.seconds,
            label: label.to_owned(),
            wrapped: [0; WRAPPED_LEN],
            commitment: [0; COMMITMENT_LEN],
        };
        if kind == SlotKind::Password && !cost.is_acceptable() {
            return Err(KeyError::Cost { id: slot.id, cost });
        }
        slot.wrap(unlock, master)?;
        Ok(slot)
    }

    fn wrap(&mut self, unlock: &Unlock, master: &MasterKey) -> Result<(), KeyError> {
        let kek = self.kek(unlock)?;
        let associated = self.fixed_part();
        let (key, tag) = self.wrapped.split_at_mut(32);
        key.copy_from_slice(master.as_bytes());
        // The salt, and so the key, is used this once: the counter can be 0.
        tag.copy_from_slice(&kek.cipher.seal(0, &associated, key)?);
        self.commitment = kek.commitment;
        Ok(())
    }

    /// The master key, or `None` when the slot was made for something else. A password costs
    /// what the slot asks for; a key of another kind costs nothing.
    pub fn open(&self, unlock: &Unlock) -> Result<Option<MasterKey>, KeyError> {
        if SlotKind::of(unlock) != self.kind {
            return Ok(None);
        }
        let kek = self.kek(unlock)?;
        // Comparing hashes takes the same time wherever they differ. AES-GCM alone would not tell
        // a wrong key from damage, nor keep one slot from opening under two passwords.
        if blake3::Hash::from_bytes(kek.commitment) != self.commitment {
            return Ok(None);
        }
        let mut wrapped = Zeroizing::new(self.wrapped.to_vec());
        kek.cipher
            .open(0, &self.fixed_part(), &mut wrapped)
            .and_then(|()| wrapped.as_slice().try_into().ok())
            .map(|key| Some(MasterKey::new(Zeroizing::new(key))))
            .ok_or(KeyError::Damaged { id: self.id })
    }

    /// The slot's name in the repository is `keys/<id>`.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What opens it.
    pub fn kind(&self) -> SlotKind {
        self.kind
    }

    /// What the user called it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// When it was made, to the second.
    pub fn created(&self) -> Timestamp {
        Timestamp::new(self.created, 0)
    }

    /// The bytes of the object `keys/<id>`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.fixed_part();
        bytes.extend_from_slice(&self.wrapped);
        bytes.extend_from_slice(&self.commitment);
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads the object `keys/<id>`. Damage is found without any key, and a cost out of bounds is
    /// refused before anyone pays it.
    pub fn decode(id: KeyId, bytes: &[u8]) -> Result<Self, KeyError> {
        let damaged = || KeyError::Damaged { id };
        let mut reader = bytes;
        if take::<6>(&mut reader).ok_or_else(damaged)? != MAGIC {
            return Err(damaged());
        }
        let [version] = *take(&mut reader).ok_or_else(damaged)?;
        if version != FORMAT_VERSION {
            return Err(KeyError::Version { id, version });
        }
        let (body, found) = bytes.split_last_chunk().ok_or_else(damaged)?;
        if checksum(body) != *found {
            return Err(damaged());
        }
        let slot = Self::decode_fields(id, &mut reader).ok_or_else(damaged)?;
        if slot.kind == SlotKind::Password && !slot.cost.is_acceptable() {
            return Err(KeyError::Cost { id, cost: slot.cost });
        }
        // One form per slot: anything left over, or not as this program writes it, is damage.
        if slot.encode() == bytes { Ok(slot) } else { Err(damaged()) }
    }

    fn decode_fields(id: KeyId, reader: &mut &[u8]) -> Option<Self> {
        let kind = match take(reader)? {
            [1] => SlotKind::KeyFile,
            [2] => SlotKind::Password,
            [3] => SlotKind::Recovery,
            [_] => return None,
        };
        let cost = KdfCost {
            memory_kib: u32::from_le_bytes(*take(reader)?),
            passes: u32::from_le_bytes(*take(reader)?),
            lanes: u32::from_le_bytes(*take(reader)?),
        };
        let salt = *take(reader)?;
        let created = i64::from_le_bytes(*take(reader)?);
        let [label_len] = *take(reader)?;
        let (label, rest) = reader.split_at_checked(usize::from(label_len))?;
        *reader = rest;
        let label = std::str::from_utf8(label).ok()?.to_owned();
        Some(Self {
            id,
            kind,
            cost,
            salt,
            created,
            label: Some(label).filter(|label| is_label(label))?,
            wrapped: *take(reader)?,
            commitment: *take(reader)?,
        })
    }

    /// Everything before the wrapped key, which is sealed together with it.
    fn fixed_part(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_LEN + LABEL_MAX + WRAPPED_LEN + 48);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[FORMAT_VERSION, self.kind.code()]);
        for parameter in [self.cost.memory_kib, self.cost.passes, self.cost.lanes] {
            bytes.extend_from_slice(&parameter.to_le_bytes());
        }
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.created.to_le_bytes());
        bytes.push(u8::try_from(self.label.len()).expect("a label has at most 64 bytes"));
        bytes.extend_from_slice(self.label.as_bytes());
        bytes
    }

    /// Random keys need no Argon2: they cannot be guessed.
    fn salted(&self, key: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(key, &self.salt).as_bytes()
    }

    /// The key that wraps, from what the user holds and the slot's salt.
    fn kek(&self, unlock: &Unlock) -> Result<Kek, KeyError> {
        let mut secret = Zeroizing::new([0_u8; 32]);
        match unlock {
            Unlock::KeyFile(key) => *secret = self.salted(key.as_bytes()),
            Unlock::Recovery(key) => *secret = self.salted(key.as_bytes()),
            Unlock::Password(password) => {
                let KdfCost { memory_kib, passes, lanes } = self.cost;
                let params = Params::new(memory_kib, passes, lanes, Some(secret.len()))?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
                    password.as_bytes(),
                    &self.salt,
                    secret.as_mut_slice(),
                )?;
            }
        }
        let wrap = Zeroizing::new(blake3::derive_key("coeval 2026-11 key wrap", secret.as_slice()));
        Ok(Kek {
            cipher: Cipher::new(&wrap),
            commitment: blake3::derive_key("coeval 2026-11 key commitment", secret.as_slice()),
        })
    }
}

/// Opens the repository with the first slot that fits.
///
/// Fails with [`KeyError::WrongKey`] when none does. Several password slots cost their Argon2id
/// each.
pub fn unlock(slots: &[Slot], unlock: &Unlock) -> Result<MasterKey, KeyError> {
    for slot in slots {
        if let Some(master) = slot.open(unlock)? {
            return Ok(master);
        }
    }
    Err(KeyError::WrongKey {
        offered: SlotKind::of(unlock),
        slots: slots.iter().map(Slot::kind).collect(),
    })
}

struct Kek {
    cipher: Cipher,
    commitment: [u8; COMMITMENT_LEN],
}

fn is_label(text: &str) -> bool {
    text.len() <= LABEL_MAX && !text.chars().any(char::is_control)
}

fn take<'a, const N: usize>(reader: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = reader.split_first_chunk()?;
    *reader = rest;
    Some(head)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}

#[cfg(test)]
mod tests {
    use super::super::{KeyFile, RecoveryKey};
    use super::*;
    use crate::hint::{ErrorKind, Hint as _};
    use crate::id::hex;

    const QUICK: KdfCost = KdfCost::FLOOR;

    fn master() -> MasterKey {
        MasterKey::new(Zeroizing::new([7; 32]))
    }

    fn password(text: &str) -> Unlock {
        Unlock::Password(Zeroizing::new(text.to_owned()))
    }

    fn slot(unlock: &Unlock) -> Slot {
        Slot::create(unlock, &master(), "cron", Timestamp::new(1_700_000_000, 5), QUICK).unwrap()
    }

    fn opens(slot: &Slot, unlock: &Unlock) -> bool {
        match slot.open(unlock).unwrap() {
            Some(key) => {
                assert_eq!(key.as_bytes(), master().as_bytes());
                true
            }
            None => false,
        }
    }

    #[test]
    fn each_slot_opens_with_its_own_key_and_no_other() {
        let unlocks = [
            password("correct horse"),
            Unlock::KeyFile(KeyFile::generate().unwrap()),
            Unlock::KeyFile(KeyFile::generate().unwrap()),
            Unlock::Recovery(RecoveryKey::generate().unwrap()),
        ];
        let slots: Vec<_> = unlocks.iter().map(slot).collect();
        for (i, unlock) in unlocks.iter().enumerate() {
            for (j, slot) in slots.iter().enumerate() {
                assert_eq!(opens(slot, unlock), i == j, "{unlock:?} {j}");
            }
            assert_eq!(super::unlock(&slots, unlock).unwrap().as_bytes(), master().as_bytes());
        }
        let wrong = unlock(&slots, &password("Correct horse")).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::WrongKey);
        assert_eq!(wrong.to_string(), "the password does not open this repository");
        let missing = unlock(&slots[1..2], &password("x")).unwrap_err();
        assert_eq!(missing.hint().unwrap(), "it opens with a key file");
    }

    #[test]
    fn a_slot_reads_back_as_written() {
        let slot = slot(&Unlock::KeyFile(KeyFile::generate().unwrap()));
        let read = Slot::decode(slot.id(), &slot.encode()).unwrap();
        assert_eq!(read, slot);
        assert_eq!((read.label(), read.kind()), ("cron", SlotKind::KeyFile));
        assert_eq!(read.created(), Timestamp::new(1_700_000_000, 0));
    }

    #[test]
    fn every_flipped_or_missing_byte_of_a_slot_is_found_without_a_key() {
        let slot = slot(&Unlock::KeyFile(KeyFile::generate().unwrap()));
        let bytes = slot.encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(Slot::decode(slot.id(), &damaged).is_err(), "byte {at}");
            assert!(Slot::decode(slot.id(), &bytes[..at]).is_err(), "cut to {at}");
        }
        assert!(Slot::decode(slot.id(), &[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn a_slot_that_was_changed_by_someone_who_fixed_its_checksum_does_not_open() {
        let unlock = Unlock::KeyFile(KeyFile::generate().unwrap());
        let slot = slot(&unlock);
        let bytes = slot.encode();
        let end = bytes.len() - CHECKSUM_LEN;
        for at in 8..end {
            let mut forged = bytes[..end].to_vec();
            forged[at] ^= 1;
            let sum = checksum(&forged);
            forged.extend_from_slice(&sum);
            if let Ok(forged) = Slot::decode(slot.id(), &forged) {
                assert!(!matches!(forged.open(&unlock), Ok(Some(_))), "byte {at}");
            }
        }
    }

    #[test]
    fn a_cost_out_of_bounds_is_refused_before_it_is_paid() {
        let unlock = password("x");
        let fine = slot(&unlock);
        let bad = [
            KdfCost { memory_kib: KdfCost::FLOOR.memory_kib - 1, ..QUICK },
            KdfCost { memory_kib: KdfCost::CEILING.memory_kib + 1, ..QUICK },
            KdfCost { memory_kib: u32::MAX, passes: u32::MAX, lanes: u32::MAX },
            KdfCost { passes: 0, ..QUICK },
            KdfCost { passes: 65, ..QUICK },
            KdfCost { lanes: 0, ..QUICK },
            KdfCost { lanes: 17, ..QUICK },
        ];
        for cost in bad {
            let bytes = Slot { cost, ..fine.clone() }.encode();
            assert!(
                matches!(Slot::decode(fine.id(), &bytes), Err(KeyError::Cost { .. })),
                "{cost:?}"
            );
            let made = Slot::create(&unlock, &master(), "", Timestamp::default(), cost);
            assert!(matches!(made, Err(KeyError::Cost { .. })), "{cost:?}");
        }
        assert!(KdfCost::DEFAULT.is_acceptable() && KdfCost::CEILING.is_acceptable());
    }

    #[test]
    fn a_label_is_short_and_printable() {
        let unlock = Unlock::KeyFile(KeyFile::generate().unwrap());
        for label in ["a\nb", "\u{1b}[2J", &"x".repeat(65)] {
            let made = Slot::create(&unlock, &master(), label, Timestamp::default(), QUICK);
            assert!(matches!(made, Err(KeyError::Label)));
        }
    }

    #[test]
    fn slots_are_part_of_the_format() {
        let encoded = |unlock: &Unlock, kind, cost| {
            let mut slot = Slot {
                id: KeyId::new([1; 8]),
                kind,
                cost,
                salt: [2; 32],
                created: 1_700_000_000,
                label: "cron".to_owned(),
                wrapped: [0; WRAPPED_LEN],
                commitment: [0; COMMITMENT_LEN],
            };
            slot.wrap(unlock, &master()).unwrap();
            hex(&slot.encode())
        };
        let key = format!("coeval-key-1:{}", "ab".repeat(32));
        let key = Unlock::KeyFile(KeyFile::parse(&key).unwrap());
        assert_eq!(
            encoded(&key, SlotKind::KeyFile, KdfCost::NONE),
            "434f454b45590101000000000000000000000000020202020202020202020202020202020202020202020202020202020202020200f15365000000000463726f6e30c326df23aa0eca114ddf114103ec8dd9516c3d0e69b2500b5fb316664c6aa22f7ebe5175b5fa1aa8cdc8be9ec85f4db27c246f96ea43df7b0558ca6df560949f836b4eb97e8dcba9f597c7cee5b11a3f98eb9964dae8ec306665fd67e4f7f2"
        );
        assert_eq!(
            encoded(&password("correct horse"), SlotKind::Password, QUICK),
            "434f454b45590102000001000100000001000000020202020202020202020202020202020202020202020202020202020202020200f15365000000000463726f6e19871e65f26ae0125b8d37c526564668baf0e509019d19e41698bd43b8c0ef31ac7370814d736a252d8869540ad4d17529704f8a770fc7793f7dea57b8b4190fbb61ae1ac29b3d3fbf4423b261ff31bbe15bb9ffe35f5ec5698a52ae3694b56e"
        );
    }
}
