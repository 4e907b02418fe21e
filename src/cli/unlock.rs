//! Where the key or the password comes from: a flag, else the environment, else `coeval.toml`,
//! else the terminal.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::error::{failed, usage};
use crate::context::{Cancel, Cancelled};
use crate::crypto::{KeyFile, RecoveryKey, Unlock};
use crate::hint::{ErrorKind, Failure};

/// Where a key or a password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// In a key file.
    KeyFile(PathBuf),
    /// In a file: its first line is the password.
    PasswordFile(PathBuf),
    /// The first line that a command prints.
    PasswordCommand(String),
    /// At hand.
    Password(Zeroizing<String>),
}

/// The one secret of several places, each with its name. More than one is an error: which of them
/// is right, nobody can know.
pub fn only(places: Vec<(&str, Option<Secret>)>) -> Result<Option<Secret>, Failure> {
    let mut given = places.into_iter().filter_map(|(name, secret)| Some((name, secret?)));
    let first = given.next();
    if let (Some((one, _)), Some((other, _))) = (&first, given.next()) {
        return Err(usage(
            format!("{one} and {other} are both given"),
            "leave one of them out".to_owned(),
        ));
    }
    Ok(first.map(|(_, secret)| secret))
}

impl Secret {
    /// Fetches it.
    pub fn read(&self) -> Result<Unlock, Failure> {
        match self {
            Self::KeyFile(path) => read_key_file(path).map(Unlock::KeyFile),
            _ => Ok(password_or_recovery(&self.password()?)),
        }
    }

    /// Fetches it as a text; what is in a key file is none.
    pub fn password(&self) -> Result<Zeroizing<String>, Failure> {
        match self {
            Self::KeyFile(_) => Err(wrong_key("a key file is no password".to_owned())),
            Self::PasswordFile(path) => {
                let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
                    wrong_key(format!("cannot read the password file {}: {error}", path.display()))
                })?;
                first_line(&text, &path.display().to_string())
            }
            Self::PasswordCommand(command) => {
                let text = Zeroizing::new(run(command)?);
                first_line(&text, "the password command's output")
            }
            Self::Password(password) => Ok(password.clone()),
        }
    }
}

/// What opens a repository with this text: the recovery key, if it is one, else a password. The
/// check symbols of recovery keys keep a password from being taken for one.
fn password_or_recovery(text: &str) -> Unlock {
    match RecoveryKey::parse(text) {
        Ok(key) => Unlock::Recovery(key),
        Err(_) => Unlock::Password(Zeroizing::new(text.to_owned())),
    }
}

fn first_line(text: &str, place: &str) -> Result<Zeroizing<String>, Failure> {
    match text.lines().next() {
        None | Some("") => Err(wrong_key(format!("there is no password in {place}"))),
        Some(line) => Ok(Zeroizing::new(line.to_owned())),
    }
}

fn wrong_key(text: String) -> Failure {
    Failure::message(ErrorKind::WrongKey, text, None)
}

fn run(command: &str) -> Result<String, Failure> {
    let output = Command::new("sh")
        .args(["-c", command])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(format!("cannot run the password command: {error}")))?;
    if !output.status.success() {
        return Err(wrong_key(format!("the password command failed: {}", output.status)));
    }
    let not_text = |_| wrong_key("the password command printed something that is not UTF-8".into());
    String::from_utf8(output.stdout).map_err(not_text)
}

fn read_key_file(path: &Path) -> Result<KeyFile, Failure> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        wrong_key(format!("cannot read the key file {}: {error}", path.display()))
    })?;
    Ok(KeyFile::parse(&text)?)
}

/// The key in a key file; if there is no such file, a new key, and a file that only the user may
/// read. Also says whether the file was made.
pub fn read_or_make_key_file(path: &Path) -> Result<(KeyFile, bool), Failure> {
    if path.exists() {
        return Ok((read_key_file(path)?, false));
    }
    let key = KeyFile::generate()?;
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(key.to_text().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| {
        failed(format!("cannot write the key file {}: {error}", path.display()))
    })?;
    Ok((key, true))
}

/// What is asked for on the terminal, and how else it can be given.
#[derive(Debug, Clone, Copy)]
pub enum Asked {
    /// The password of the repository.
    Repository,
    /// The password of a package.
    Package,
}

impl Asked {
    fn unanswered(self) -> Failure {
        let (text, hint) = match self {
            Self::Repository => (
                "the repository is encrypted, and neither a key nor a password was given",
                "give one with --key-file, --password-file or COEVAL_PASSWORD",
            ),
            Self::Package => (
                "the package is sealed with a password, and none was given",
                "give it with --package-password-file or COEVAL_PACKAGE_PASSWORD",
            ),
        };
        Failure::message(ErrorKind::WrongKey, text, Some(hint.to_owned()))
    }
}

/// Asks for the password of the repository on the terminal.
pub fn ask(cancel: &Cancel) -> Result<Unlock, Failure> {
    let answer = prompt("password or recovery key: ", Asked::Repository, cancel)?;
    Ok(password_or_recovery(&answer))
}

/// Asks for the password of a package on the terminal.
pub fn ask_for_package(cancel: &Cancel) -> Result<Zeroizing<String>, Failure> {
    prompt("password of the package: ", Asked::Package, cancel)
}

/// Asks for a new password of the repository on the terminal, twice.
pub fn ask_new(cancel: &Cancel) -> Result<Unlock, Failure> {
    ask_twice(Asked::Repository, cancel).map(Unlock::Password)
}

/// Asks for a new password on the terminal, twice.
pub fn ask_twice(asked: Asked, cancel: &Cancel) -> Result<Zeroizing<String>, Failure> {
    let password = prompt("new password: ", asked, cancel)?;
    if password.is_empty() {
        return Err(usage("the password is empty", "think of one, or give it in a file"));
    }
    if prompt("again: ", asked, cancel)? != password {
        return Err(usage("the two passwords differ", "run the command again"));
    }
    Ok(password)
}

/// One line from the terminal, which does not show it.
fn prompt(question: &str, asked: Asked, cancel: &Cancel) -> Result<Zeroizing<String>, Failure> {
    if !io::stdin().is_terminal() && !io::stderr().is_terminal() {
        return Err(asked.unanswered());
    }
    let terminal =
        File::options().read(true).write(true).open("/dev/tty").map_err(|_| asked.unanswered())?;
    let asked = Silenced::new(&terminal).and_then(|silenced| {
        (&terminal).write_all(question.as_bytes())?;
        // A signal must not end the process while the terminal shows nothing.
        let mut descriptors = [PollFd::new(&terminal, PollFlags::IN)];
        let tick = rustix::time::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        while !cancel.is_cancelled() {
            match poll(&mut descriptors, Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut line = Zeroizing::new(String::new());
        if !cancel.is_cancelled() {
            BufReader::new(&terminal).read_line(&mut line)?;
        }
        drop(silenced);
        (&terminal).write_all(b"\n")?;
        Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
    });
    let line = asked.map_err(|error| failed(format!("cannot ask for the password: {error}")))?;
    if cancel.is_cancelled() { Err(Cancelled.into()) } else { Ok(line) }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silenced<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silenced<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silenced<'_> {
    fn drop(&mut self) {
        // A terminal that cannot be set back is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_secrets_in_one_place_are_refused() {
        let secret = || Some(Secret::PasswordCommand("x".to_owned()));
        assert_eq!(only(vec![("A", None), ("B", secret())]).expect("one"), secret());
        assert_eq!(only(vec![("A", None), ("B", None)]).expect("none"), None);
        let error = only(vec![("A", secret()), ("B", secret())]).unwrap_err();
        assert_eq!(error.to_string(), "A and B are both given");
        assert_eq!(error.kind(), ErrorKind::Usage);
    }

    #[test]
    fn a_recovery_key_is_told_from_a_password() {
        let text = RecoveryKey::generate().expect("randomness").to_text();
        assert!(matches!(password_or_recovery(&text), Unlock::Recovery(_)));
        assert!(matches!(password_or_recovery("correct horse"), Unlock::Password(_)));
        assert!(first_line("\nsecond", "x").is_err());
    }
}
