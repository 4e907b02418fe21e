//! The three things that open a repository, and how they are written down.

use std::fmt;

use zeroize::Zeroizing;

use super::error::KeyError;
use super::{NoRandomness, random};
use crate::id::{hex, unhex};

/// What the user opens the repository with.
pub enum Unlock {
    /// A file on this host: no waiting, for automation.
    KeyFile(KeyFile),
    /// A password that a person remembers: about a second of Argon2id. Its bytes are used as they
    /// are, without Unicode normalisation.
    Password(Zeroizing<String>),
    /// The key that was printed when the repository was made.
    Recovery(RecoveryKey),
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyFile(_) => "Unlock::KeyFile(…)",
            Self::Password(_) => "Unlock::Password(…)",
            Self::Recovery(_) => "Unlock::Recovery(…)",
        })
    }
}

const KEY_FILE_PREFIX: &str = "coeval-key-1:";

/// 32 random bytes, kept in a file as the line `coeval-key-1:<64 hexadecimal digits>`.
pub struct KeyFile(Zeroizing<[u8; 32]>);

impl KeyFile {
    /// A new random key.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    /// The key in the content of a key file. White space around the line is allowed.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let digits = text.trim().strip_prefix(KEY_FILE_PREFIX).ok_or(KeyError::NotAKeyFile)?;
        let bytes = Zeroizing::new(unhex(digits).ok_or(KeyError::NotAKeyFile)?);
        let key = bytes.as_slice().try_into().ok().ok_or(KeyError::NotAKeyFile)?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// The content of a key file, with its line end.
    pub fn to_text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(hex(&*self.0));
        Zeroizing::new(format!("{KEY_FILE_PREFIX}{}\n", digits.as_str()))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFile(…)")
    }
}

/// Douglas Crockford's base 32: no I, L, O or U, so that nothing is misread.
const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const GROUP_LEN: usize = 4;
/// Three bytes make 35 of the key, 280 bits: 56 symbols, 14 groups, and a typing error remains
/// unnoticed once in 2^24.
const CHECK_LEN: usize = 3;

/// 32 random bytes for a person to write on paper: 14 groups of four symbols, the last of which
/// check the others.
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

impl RecoveryKey {
    /// A new random key.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    /// Reads a key as a person types it: lower case, spaces and dashes anywhere, `O` for 0 and
    /// `I` or `L` for 1.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0_u8; 32 + CHECK_LEN]);
        let mut bits = 0;
        for symbol in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let value = symbol_value(symbol).ok_or(KeyError::RecoverySymbol(symbol))?;
            for bit in (0..5).rev() {
                let byte = bytes.get_mut(bits / 8).ok_or(KeyError::RecoveryLength)?;
                *byte = *byte << 1 | value >> bit & 1;
                bits += 1;
            }
        }
        if bits != bytes.len() * 8 {
            return Err(KeyError::RecoveryLength);
        }
        let (key, check) = bytes.split_first_chunk::<32>().ok_or(KeyError::RecoveryLength)?;
        if recovery_check(key) != check {
            return Err(KeyError::RecoveryCheck);
        }
        Ok(Self(Zeroizing::new(*key)))
    }

    /// The key in groups of four symbols, as it is printed.
    pub fn to_text(&self) -> Zeroizing<String> {
        let check = recovery_check(&self.0);
        let bytes: Vec<u8> = self.0.iter().chain(&check).copied().collect();
        let bytes = Zeroizing::new(bytes);
        // Room for all of it: growing would leave copies of the secret behind.
        let mut text = Zeroizing::new(String::with_capacity(70));
        for (at, bits) in (0..bytes.len() * 8).step_by(5).enumerate() {
            if at > 0 && at % GROUP_LEN == 0 {
                text.push('-');
            }
            let pair = [bytes[bits / 8], bytes.get(bits / 8 + 1).copied().unwrap_or(0)];
            let value = u16::from_be_bytes(pair) >> (11 - bits % 8) & 31;
            text.push(char::from(SYMBOLS[usize::from(value)]));
        }
        text
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(…)")
    }
}

fn symbol_value(symbol: char) -> Option<u8> {
    let symbol = match symbol.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let at = SYMBOLS.iter().position(|known| char::from(*known) == symbol)?;
    u8::try_from(at).ok()
}

fn recovery_check(key: &[u8; 32]) -> [u8; CHECK_LEN] {
    let hash = blake3::derive_key("coeval 2026-11 recovery key check", key);
    std::array::from_fn(|i| hash[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery() -> RecoveryKey {
        RecoveryKey(Zeroizing::new(std::array::from_fn(|i| u8::try_from(i * 7).unwrap())))
    }

    #[test]
    fn a_key_file_is_one_line_that_reads_back() {
        let key = KeyFile(Zeroizing::new([0xab; 32]));
        let text = key.to_text();
        assert_eq!(*text, format!("coeval-key-1:{}\n", "ab".repeat(32)));
        assert_eq!(KeyFile::parse(&text).unwrap().as_bytes(), key.as_bytes());
        let long = format!("coeval-key-1:{}", "ab".repeat(33));
        for bad in ["", "coeval-key-1:", "ab", "coeval-key-2:00", long.as_str()] {
            assert!(matches!(KeyFile::parse(bad), Err(KeyError::NotAKeyFile)), "{bad}");
        }
    }

    #[test]
    fn a_recovery_key_reads_back_however_it_is_typed() {
        let key = recovery();
        let text = key.to_text();
        assert_eq!(*text, "003G-W58W-4CN3-2E1Z-8S6N-8PV2-D5R7-EZM5-HJ9S-N8D8-NYVB-VH6B-TBCX-QJ0W");
        let typed = [
            text.to_lowercase(),
            text.replace('-', " "),
            text.replace('-', ""),
            text.replace('0', "o").replace('1', "l"),
            format!("\n {}\n", text.replace('1', "I")),
        ];
        for typed in typed {
            assert_eq!(RecoveryKey::parse(&typed).unwrap().as_bytes(), key.as_bytes(), "{typed}");
        }
    }

    #[test]
    fn every_wrong_symbol_and_every_swap_is_found() {
        let text = recovery().to_text();
        let symbols: Vec<char> = text.chars().filter(|c| *c != '-').collect();
        for at in 0..symbols.len() {
            for wrong in SYMBOLS.iter().map(|b| char::from(*b)).filter(|c| *c != symbols[at]) {
                let mut typed = symbols.clone();
                typed[at] = wrong;
                let typed: String = typed.into_iter().collect();
                assert!(matches!(RecoveryKey::parse(&typed), Err(KeyError::RecoveryCheck)));
            }
            if at > 0 && symbols[at] != symbols[at - 1] {
                let mut typed = symbols.clone();
                typed.swap(at, at - 1);
                let typed: String = typed.into_iter().collect();
                assert!(matches!(RecoveryKey::parse(&typed), Err(KeyError::RecoveryCheck)));
            }
        }
        let short = &text[..text.len() - 1];
        assert!(matches!(RecoveryKey::parse(short), Err(KeyError::RecoveryLength)));
        let long = format!("{}0", *text);
        assert!(matches!(RecoveryKey::parse(&long), Err(KeyError::RecoveryLength)));
        assert!(matches!(RecoveryKey::parse("0U"), Err(KeyError::RecoverySymbol('U'))));
    }

    #[test]
    fn no_secret_is_printed() {
        let password = Unlock::Password(Zeroizing::new("hunter2".to_owned()));
        let key_file = KeyFile(Zeroizing::new([0xab; 32]));
        let printed = format!("{password:?} {key_file:?} {:?}", recovery());
        assert_eq!(printed, "Unlock::Password(…) KeyFile(…) RecoveryKey(…)");
        assert_eq!(format!("{:?}", Unlock::KeyFile(key_file)), "Unlock::KeyFile(…)");
        assert_eq!(format!("{:?}", Unlock::Recovery(recovery())), "Unlock::Recovery(…)");
    }
}
