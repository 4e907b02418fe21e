//! Packages that only those can read for whom they are meant: sealed as a whole, with a password
//! for stock `gpg --decrypt` (OpenPGP, RFC 4880, AES-256 with integrity protection), or for
//! recipients of `age` (age-encryption.org/v1, X25519). Both are streams; what comes out of one is
//! a package of anybody, trusted no more than another.

use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use age::secrecy::SecretString;
use pgp::composed::{DecryptionOptions, Edata, Esk, Message, MessageBuilder, TheRing};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::types::{Password, Seipdv1ReadMode, StringToKey};
use rand_core::OsRng;
use zeroize::Zeroizing;

use super::tarred::is_tar;
use crate::hint::{ErrorKind, Failure, Hint};

/// The most that stock `gpg` knows: 65,011,712 bytes are hashed to make a key of a password.
const ROUNDS: u8 = 255;
/// A message may ask for 64 MiB to make a key of a password, as RFC 9106 recommends, not for more:
/// 2¹⁶ KiB.
const LARGEST_ARGON2: u8 = 16;
/// Compressed within compressed within compressed is an attack.
const DEEPEST: usize = 3;

/// Why a package cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is sealed with another password. Where OpenPGP makes a key of the password alone, nothing
    /// but the sense of what comes out tells a wrong one from a package that was changed.
    #[error("the password does not open the package, or it was changed on its way")]
    WrongPassword,
    /// It is sealed for somebody else.
    #[error("none of the identities opens the package")]
    WrongIdentity,
    /// It is sealed for a recipient, and no identity was given.
    #[error("the package is sealed for a recipient, and no identity was given")]
    NoIdentity,
    /// It is sealed with an OpenPGP key, which only gpg has.
    #[error("the package is sealed with an OpenPGP key")]
    PublicKey,
    /// A text is no key of age.
    #[error("{0} is no {1} of age")]
    NotAKey(String, &'static str),
    /// The seal is none that is known here, or is damaged.
    #[error("the package's seal cannot be read: {0}")]
    Unreadable(String),
    /// The sealed package cannot be written.
    #[error("the sealed package cannot be written: {0}")]
    Unwritable(String),
}

impl Hint for SealError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::WrongPassword | Self::WrongIdentity | Self::NoIdentity => ErrorKind::WrongKey,
            Self::NotAKey(..) => ErrorKind::Usage,
            Self::Unreadable(_) => ErrorKind::Damage,
            Self::PublicKey | Self::Unwritable(_) => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::WrongPassword => "ask its sender for the password of the package",
            Self::WrongIdentity => "ask its sender for which recipients it was sealed",
            Self::NoIdentity => "give the file with the secret key: --identity FILE",
            Self::PublicKey => "open it with `gpg --decrypt` and give coeval what comes out",
            Self::NotAKey(_, "recipient") => "a recipient is what `age-keygen -y` prints: age1…",
            Self::NotAKey(..) => "an identity file is what `age-keygen` writes",
            Self::Unreadable(_) => "fetch or make the package again",
            Self::Unwritable(_) => return None,
        };
        Some(hint.to_owned())
    }
}

/// How a package is sealed.
#[derive(Clone)]
pub enum Seal {
    /// With a password, for `gpg`.
    Password(Zeroizing<String>),
    /// For recipients of `age`; never none.
    Recipients(Vec<Recipient>),
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Recipients(_) => "Recipients",
        })
    }
}

/// Somebody for whom a package is sealed: the public key of `age`.
#[derive(Clone)]
pub struct Recipient(age::x25519::Recipient);

impl Recipient {
    /// Reads `age1…`.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let not = |_| SealError::NotAKey(text.to_owned(), "recipient");
        text.parse().map(Self).map_err(not)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.0)
    }
}

/// The secret key of a recipient.
pub struct Identity(age::x25519::Identity);

impl Identity {
    /// Reads the file that `age-keygen` writes: one `AGE-SECRET-KEY-1…` a line, and comments.
    pub fn parse_file(text: &str, name: &str) -> Result<Vec<Self>, SealError> {
        let lines = text.lines().map(str::trim);
        let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        // The line itself stays out of the message: it is a secret, or almost one.
        let not = || SealError::NotAKey(name.to_owned(), "identity file");
        let keys: Vec<Self> =
            keys.map(|line| line.parse().map(Self).map_err(|_| not())).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(not()) } else { Ok(keys) }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// What opens a sealed package. The password is asked for only when there is one to be asked for.
pub struct Keys<'a> {
    /// Gives the password.
    pub password: &'a dyn Fn() -> Result<Zeroizing<String>, Failure>,
    /// The identities at hand.
    pub identities: Vec<Identity>,
}

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} identities)", self.identities.len())
    }
}

/// Lets `write` write a package, and seals it on the way. What is left in `out` after a failure
/// does not open as a whole.
pub fn sealed<T>(
    out: &mut (dyn Write + Send),
    seal: &Seal,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let unwritable = |error: String| Failure::from(SealError::Unwritable(error));
    match seal {
        Seal::Recipients(recipients) => {
            let recipients = recipients.iter().map(|recipient| &recipient.0 as _);
            let encryptor = age::Encryptor::with_recipients(recipients)
                .map_err(|error| unwritable(error.to_string()))?;
            let mut plain =
                encryptor.wrap_output(out).map_err(|error| unwritable(error.to_string()))?;
            let done = write(&mut plain)?;
            let finished = plain.finish().and_then(Write::flush);
            finished.map_err(|error| unwritable(error.to_string()))?;
            Ok(done)
        }
        Seal::Password(password) => with_password(out, password, write),
    }
}

/// OpenPGP's writer pulls what it seals, and a package is pushed: a pipe joins them.
fn with_password<T>(
    out: &mut (dyn Write + Send),
    password: &str,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let unwritable = |error: String| Failure::from(SealError::Unwritable(error));
    let (reader, writer) = io::pipe().map_err(|error| unwritable(error.to_string()))?;
    let (complete, abandoned) = (AtomicBool::new(false), AtomicBool::new(false));
    let (written, sealed) = std::thread::scope(|scope| {
        let plain = Pulled { pipe: reader, complete: &complete, abandoned: &abandoned };
        let sealing = scope.spawn(move || {
            let key = StringToKey::new_iterated(OsRng, HashAlgorithm::Sha256, ROUNDS);
            let mut message = MessageBuilder::from_reader("", plain)
                .seipd_v1(OsRng, SymmetricKeyAlgorithm::AES256);
            message.encrypt_with_password(key, &Password::from(password))?;
            message.to_writer(OsRng, &mut *out)?;
            out.flush().map_err(pgp::errors::Error::from)
        });
        let mut pipe = BufWriter::with_capacity(1 << 16, writer);
        let written = write(&mut pipe).and_then(|done| {
            pipe.flush().map_err(|error| unwritable(error.to_string()))?;
            complete.store(true, Ordering::Release);
            Ok(done)
        });
        drop(pipe);
        (written, sealing.join())
    });
    match sealed {
        Ok(Err(error)) if !abandoned.into_inner() => Err(unwritable(error.to_string())),
        Ok(_) => written,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The pipe's end, which is an error unless the package was written to its end.
struct Pulled<'a> {
    pipe: io::PipeReader,
    complete: &'a AtomicBool,
    abandoned: &'a AtomicBool,
}

impl Read for Pulled<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.pipe.read(into)?;
        if read == 0 && !into.is_empty() && !self.complete.load(Ordering::Acquire) {
            self.abandoned.store(true, Ordering::Release);
            return Err(io::Error::other("the package was not written to its end"));
        }
        Ok(read)
    }
}

/// A sealed package's bytes.
pub trait Input: BufRead + Send {}

impl<R: BufRead + Send> Input for R {}

struct Shown<'a>(Box<dyn Input + 'a>);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Input")
    }
}

impl Read for Shown<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl BufRead for Shown<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

/// Whether something begins as a sealed package does.
pub fn is_sealed(start: &[u8]) -> bool {
    is_age(start) || is_openpgp(start)
}

fn is_age(start: &[u8]) -> bool {
    start.starts_with(b"age-encryption.org/")
}

/// A session key under a password (packet 3) or a public key (packet 1), in the old or the new
/// form of headers (RFC 4880, 4.2), or armour around it.
fn is_openpgp(start: &[u8]) -> bool {
    start.starts_with(b"-----BEGIN PGP MESSAGE-----")
        || matches!(start.first(), Some(0x84..=0x86 | 0x8c..=0x8e | 0xc1 | 0xc3))
}

/// The package in a sealed one. Integrity is proven only when it has been read to the end: until
/// then every byte may be an attacker's, as in any package.
pub fn open<'a>(
    mut input: Box<dyn Input + 'a>,
    keys: &Keys<'_>,
) -> Result<Box<dyn Read + 'a>, Failure> {
    let start = input.fill_buf().map_err(|e| SealError::Unreadable(e.to_string()))?;
    if is_age(start) { open_age(input, keys) } else { open_openpgp(input, keys) }
}

fn open_age<'a>(
    input: Box<dyn Input + 'a>,
    keys: &Keys<'_>,
) -> Result<Box<dyn Read + 'a>, Failure> {
    use age::DecryptError;
    let unreadable = |error: &DecryptError| SealError::Unreadable(error.to_string());
    let decryptor = age::Decryptor::new_buffered(input).map_err(|error| unreadable(&error))?;
    let opened = if decryptor.is_scrypt() {
        let password = (keys.password)()?;
        let identity = age::scrypt::Identity::new(SecretString::from(password.as_str()));
        decryptor.decrypt(std::iter::once(&identity as _))
    } else if keys.identities.is_empty() {
        return Err(SealError::NoIdentity.into());
    } else {
        decryptor.decrypt(keys.identities.iter().map(|identity| &identity.0 as _))
    };
    match opened {
        Ok(reader) => Ok(Box::new(reader)),
        Err(DecryptError::NoMatchingKeys) => Err(SealError::WrongIdentity.into()),
        Err(DecryptError::KeyDecryptionFailed | DecryptError::DecryptionFailed) => {
            Err(SealError::WrongPassword.into())
        }
        Err(error) => Err(unreadable(&error).into()),
    }
}

fn open_openpgp<'a>(
    input: Box<dyn Input + 'a>,
    keys: &Keys<'_>,
) -> Result<Box<dyn Read + 'a>, Failure> {
    let unreadable = |error: &dyn fmt::Display| SealError::Unreadable(error.to_string());
    let (message, _) = Message::from_reader(Shown(input)).map_err(|error| unreadable(&error))?;
    let Message::Encrypted { esk, edata, .. } = &message else {
        return Err(unreadable(&"it is no encrypted message").into());
    };
    let mut with_password = false;
    for key in esk {
        let Esk::SymKeyEncryptedSessionKey(key) = key else { continue };
        with_password = true;
        if matches!(key.s2k(), Some(StringToKey::Argon2 { m_enc, .. }) if *m_enc > LARGEST_ARGON2) {
            return Err(unreadable(&"its password costs more than 64 MiB to try").into());
        }
    }
    if matches!(edata, Edata::SymEncryptedData { .. }) {
        return Err(unreadable(&"it is not protected against changes").into());
    }
    if !with_password {
        return Err(SealError::PublicKey.into());
    }
    let password = Password::from((keys.password)()?.as_str());
    let ring = TheRing {
        message_password: vec![&password],
        // The spool takes what comes, and nothing of it counts before the end was reached.
        decrypt_options: DecryptionOptions::new()
            .enable_gnupg_aead()
            .set_seipdv1_read_mode(Seipdv1ReadMode::Streaming),
        ..TheRing::default()
    };
    let opened = message.decrypt_the_ring(ring, true);
    let (mut message, _) = opened.map_err(|_| SealError::WrongPassword)?;
    for _ in 0..DEEPEST {
        if message.is_compressed() {
            message = message.decompress().map_err(|_| SealError::WrongPassword)?;
        }
    }
    let mut opened = BufReader::with_capacity(64 << 10, message);
    let start = opened.fill_buf().map_err(|_| SealError::WrongPassword)?;
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    let sensible = start.starts_with(&[0x1f, 0x8b]) || matches!(first, Some(b'[' | b'{'));
    if !opened.get_ref().is_literal() || !(sensible || is_tar(opened.buffer())) {
        return Err(SealError::WrongPassword.into());
    }
    Ok(Box::new(opened))
}
