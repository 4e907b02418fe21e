//! Whether a password is the one that a Django application keeps a hash of.
//!
//! The forms are those of `django.contrib.auth.hashers`: an algorithm and what it needs, separated
//! by `$`. Parameters from a database are limited: a hash must not take minutes or gigabytes.

use argon2::{Algorithm, Argon2, Params, Version};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::id::hex;
use crate::source::record::base64;

const MOST_ROUNDS: u32 = 10_000_000;
/// KiB.
const MOST_MEMORY: u32 = 1 << 20;

/// Compares in a time that does not tell where they differ. The error says why that is impossible:
/// the hash itself is not repeated.
pub fn verify(password: &str, encoded: &str) -> Result<bool, String> {
    let (algorithm, rest) = encoded.split_once('$').ok_or("it is no hash of a password")?;
    let password = password.as_bytes();
    match algorithm {
        "pbkdf2_sha256" => pbkdf2(rest, 32, |salt, rounds, out| {
            pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, rounds, out);
        }),
        "pbkdf2_sha1" => pbkdf2(rest, 20, |salt, rounds, out| {
            pbkdf2::pbkdf2_hmac::<Sha1>(password, salt, rounds, out);
        }),
        "scrypt" => scrypt(password, rest),
        "argon2" => argon2(password, rest),
        "bcrypt" => bcrypt(password, rest),
        "bcrypt_sha256" => bcrypt(hex(&Sha256::digest(password)).as_bytes(), rest),
        _ => Err(format!("hashes of the kind `{algorithm}` are not known here")),
    }
}

/// `ROUNDS$SALT$HASH`
fn pbkdf2(
    rest: &str,
    length: usize,
    derive: impl Fn(&[u8], u32, &mut [u8]),
) -> Result<bool, String> {
    let mut parts = rest.splitn(3, '$');
    let rounds: u32 = number(parts.next())?;
    let (Some(salt), Some(hash)) = (parts.next(), parts.next()) else { return Err(short()) };
    if rounds == 0 || rounds > MOST_ROUNDS {
        return Err(format!("{rounds} rounds are not done here"));
    }
    let mut out = vec![0; length];
    derive(salt.as_bytes(), rounds, &mut out);
    same(&out, hash)
}

/// `N$SALT$R$P$HASH`
fn scrypt(password: &[u8], rest: &str) -> Result<bool, String> {
    let parts: Vec<&str> = rest.splitn(5, '$').collect();
    let [cost, salt, r, p, hash] = parts[..] else { return Err(short()) };
    let (cost, r, p): (u32, u32, u32) = (number(Some(cost))?, number(Some(r))?, number(Some(p))?);
    if !cost.is_power_of_two()
        || u64::from(cost) * u64::from(r) / 8 > u64::from(MOST_MEMORY)
        || p > 16
    {
        return Err("its parameters are not used here".to_owned());
    }
    let log = u8::try_from(cost.ilog2()).map_err(|_| short())?;
    let params = scrypt::Params::new(log, r, p).map_err(|error| error.to_string())?;
    let mut out = [0; 64];
    scrypt::scrypt(password, salt.as_bytes(), &params, &mut out).map_err(|e| e.to_string())?;
    same(&out, hash)
}

/// `argon2id$v=19$m=102400,t=2,p=8$SALT$HASH`
fn argon2(password: &[u8], rest: &str) -> Result<bool, String> {
    let parts: Vec<&str> = rest.splitn(5, '$').collect();
    let [kind, version, params, salt, hash] = parts[..] else { return Err(short()) };
    let kind: Algorithm = kind.parse().map_err(|_| "its kind of Argon2 is not known here")?;
    let version = match version {
        "v=19" => Version::V0x13,
        "v=16" => Version::V0x10,
        _ => return Err("its version of Argon2 is not known here".to_owned()),
    };
    let value = |name: &str| -> Result<u32, String> {
        let found = params.split(',').find_map(|part| part.strip_prefix(name));
        number(found.and_then(|found| found.strip_prefix('=')))
    };
    let (memory, time, lanes) = (value("m")?, value("t")?, value("p")?);
    if memory > MOST_MEMORY || time > 100 {
        return Err("its parameters are not used here".to_owned());
    }
    let wanted = unpadded(hash)?;
    let params = Params::new(memory, time, lanes, Some(wanted.len())).map_err(|e| e.to_string())?;
    let mut out = vec![0; wanted.len()];
    Argon2::new(kind, version, params)
        .hash_password_into(password, &unpadded(salt)?, &mut out)
        .map_err(|error| error.to_string())?;
    Ok(out.ct_eq(&wanted).into())
}

/// `$2b$12$…`, as bcrypt itself writes it.
fn bcrypt(password: &[u8], hash: &str) -> Result<bool, String> {
    // What is longer is cut off by every implementation.
    let password = password.get(..72).unwrap_or(password);
    bcrypt::verify(password, hash).map_err(|error| error.to_string())
}

fn same(derived: &[u8], encoded: &str) -> Result<bool, String> {
    let wanted = base64::decode(encoded.as_bytes()).ok_or_else(short)?;
    Ok(derived.ct_eq(&wanted).into())
}

fn unpadded(text: &str) -> Result<Vec<u8>, String> {
    let padding = "=".repeat((4 - text.len() % 4) % 4);
    base64::decode(format!("{text}{padding}").as_bytes()).ok_or_else(short)
}

fn number(text: Option<&str>) -> Result<u32, String> {
    text.and_then(|text| text.parse().ok()).ok_or_else(short)
}

fn short() -> String {
    "it is no hash of a password, or a damaged one".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's hashlib and crypt; that of Argon2 is from the tests of its reference
    /// implementation.
    const HASHES: [(&str, &str); 6] = [
        ("sesame", "pbkdf2_sha256$1000$salt$C6cm3E2hP+SBSmboRpwbM6BvvCJJ3v7PTxBde0Nr9TA="),
        ("sesame", "pbkdf2_sha1$1000$salt$vxPCKti2GYzJewmN+ghmMP3OUpU="),
        (
            "sesame",
            "scrypt$1024$salt$8$1$q4cTYWtuqz8Y8GTWNb9feh+Bu8EnB5nQkEpMKXjnjMLKI/DyssYZo0YJ8+Sor3lH\
             33jCvbZ5ktVkdyUrnM65FA==",
        ),
        (
            "password",
            "argon2$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$\
             nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
        ),
        ("sesame", "bcrypt$$2b$04$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85RW"),
        ("sesame", "bcrypt_sha256$$2b$04$abcdefghijklmnopqrstuuHp/SWOHUOgzjoCVrP.P4ovKkJP0A4cq"),
    ];

    #[test]
    fn hashes_as_django_makes_them_are_verified() {
        for (password, hash) in HASHES {
            assert_eq!(verify(password, hash), Ok(true), "{hash}");
            assert_eq!(verify("Sesame", hash), Ok(false), "{hash}");
        }
    }

    #[test]
    fn what_is_no_hash_is_said_to_be_none() {
        for hash in [
            "",
            "!",
            "!x$y",
            "pbkdf2_sha256$",
            "pbkdf2_sha256$0$a$b",
            "md5$a$b",
            "scrypt$3$a$8$1$AA==",
            "argon2$argon2id$v=19$m=99999999,t=2,p=8$YWFhYWFhYWE$AAAA",
            "bcrypt$x",
        ] {
            assert!(verify("sesame", hash).is_err(), "{hash}");
        }
    }
}
