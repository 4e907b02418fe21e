//! Secrecy and proof: names chunks, seals what leaves the process, and keeps the master key in
//! slots.
//!
//! ```text
//!  key file ─┐                          ┌─ chunk id key ──▶ ChunkId
//!  password ─┼─▶ slot ──▶ MasterKey ──▶ ├─ gear, boundary ▶ cut points
//!  recovery ─┘   (wrapped)              ├─ data ───────────▶ one key per pack, by salt
//!                                       └─ metadata, manifest ▶ one key per object, by salt
//! ```
//!
//! Callers never see a key or a nonce: a [`Sealer`] hands out [`PackSealer`]s that count their own
//! nonces under a fresh key, and seals single objects under a key that is used once.
//! `docs/FORMAT.md` has the byte tables.

mod cipher;
mod error;
mod key;
mod object;
mod pack;
mod sealer;
mod slot;
mod unlock;

pub use cipher::{Protection, TAG_LEN};
pub use error::{KeyError, NoRandomness, OpenError, SealError};
pub use key::MasterKey;
pub use object::{ObjectKind, padme};
pub use pack::{FOOTER_NUMBER, PackOpener, PackSealer};
pub use sealer::Sealer;
pub use slot::{KdfCost, Slot, SlotKind, unlock};
pub use unlock::{KeyFile, RecoveryKey, Unlock};

/// Version of the layouts of this room; part of everything that is authenticated.
pub const FORMAT_VERSION: u8 = 1;

/// Fresh random bytes of the operating system; there is no other source of randomness.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}
