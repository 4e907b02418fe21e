//! The one place where bincode is used: manifests and similar records that are small, change
//! with versions and are read whole.
//!
//! bincode 2.0.1 is pinned (see `Cargo.toml`); this module fixes its configuration (little-endian,
//! variable-length integers, a limit) and refuses trailing bytes.

use serde::{Serialize, de::DeserializeOwned};

use super::FormatError;

/// The longest record that is read or written.
pub const LIMIT: usize = 256 << 20;

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// The bytes of a record.
pub fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, FormatError> {
    bincode::serde::encode_to_vec(value, configuration())
        .map_err(|error| FormatError { what, reason: error.to_string() })
}

/// The record in these bytes, all of which it must use.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, configuration())
        .map_err(|error| FormatError { what, reason: error.to_string() })?;
    if used == bytes.len() {
        Ok(value)
    } else {
        let reason = format!("{} bytes too many", bytes.len() - used);
        Err(FormatError { what, reason })
    }
}
