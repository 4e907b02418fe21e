//! One login: the program that logs in, and the SFTP session that speaks through it.

use std::process::Stdio;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use russh_sftp::client::error::Error;
use russh_sftp::client::rawsession::Limits;
use russh_sftp::client::{Config, RawSftpSession};
use russh_sftp::extensions;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::process::{Child, Command};

/// What is moved in one request. All servers take this much.
const PIECE: usize = 32 << 10;
/// Requests of one transfer that are under way at once.
const WINDOW: usize = 32;
/// Seconds for which an answer is waited for. Transfers of several threads share the line, so
/// this has to do for all that is under way; and for somebody to type a password.
const ANSWER: u64 = 180;
/// Objects never change, so not even their owner may write to them.
const FILE_MODE: u32 = 0o400;

/// How to log in.
#[derive(Debug)]
pub(super) struct Login {
    /// What is run, by the shell, before the arguments that `ssh` takes.
    pub(super) command: String,
    pub(super) user: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// Why a request was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// There is no connection, or none any more.
    #[error("{0}")]
    Lost(String),
    /// The server says no.
    #[error("the server says: {message}")]
    Refused { code: StatusCode, message: String },
    /// The server cannot do what a repository needs.
    #[error("{0}")]
    Unfit(&'static str),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Status(status) => match status.status_code {
                StatusCode::NoConnection | StatusCode::ConnectionLost => {
                    Self::Lost(status.error_message)
                }
                code => Self::Refused { code, message: status.error_message },
            },
            Error::Timeout => Self::Lost("no answer from the server".to_owned()),
            error => Self::Lost(error.to_string()),
        }
    }
}

impl Trouble {
    pub(super) fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

/// A session with a server; ends with this value.
pub(super) struct Connection {
    session: RawSftpSession,
    /// Killed when dropped.
    _login: Child,
}

impl Login {
    /// Logs in. What the program has to say it says to the user, who may have to answer it.
    pub(super) async fn connect(&self) -> Result<Connection, Trouble> {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {} \"$@\"", self.command), "sh"]);
        // A line that is cut is noticed within a minute.
        command.args(["-oServerAliveInterval=20", "-oServerAliveCountMax=3"]);
        if let Some(port) = self.port {
            command.arg(format!("-p{port}"));
        }
        if let Some(user) = &self.user {
            command.args(["-l", user]);
        }
        command.args(["-s", "--", &self.host, "sftp"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let lost = |error: std::io::Error| Trouble::Lost(format!("{}: {error}", self.command));
        let mut login = command.spawn().map_err(lost)?;
        let (Some(output), Some(input)) = (login.stdout.take(), login.stdin.take()) else {
            return Err(Trouble::Lost("there is no way to speak with the server".to_owned()));
        };
        let config = Config { request_timeout_secs: ANSWER, ..Config::default() };
        let mut session = RawSftpSession::new_with_config(tokio::io::join(output, input), config);
        let version = match session.init().await {
            Ok(version) => version,
            Err(error) => {
                // Whatever kept it from logging in, it ends with it, and told the user why.
                drop(session);
                let ended = tokio::time::timeout(std::time::Duration::from_secs(5), login.wait());
                return Err(match ended.await {
                    Ok(Ok(status)) => Trouble::Lost(format!("{}: {status}", self.command)),
                    _ => error.into(),
                });
            }
        };
        let has = |name| version.extensions.get(name).is_some_and(|version| version == "1");
        if !has(extensions::HARDLINK) || !has(extensions::FSYNC) {
            return Err(Trouble::Unfit(
                "the server lacks hardlink@openssh.com or fsync@openssh.com, which OpenSSH has",
            ));
        }
        if has(extensions::LIMITS) {
            session.set_limits(Limits::from(session.limits().await?));
        }
        Ok(Connection { session, _login: login })
    }
}

impl Connection {
    /// Writes a new file and makes its content durable.
    pub(super) async fn write_new(&self, path: &str, data: &[u8]) -> Result<(), Trouble> {
        let flags = OpenFlags::CREATE | OpenFlags::EXCLUDE | OpenFlags::WRITE;
        let file = self.session.open(path, flags, mode(FILE_MODE)).await?.handle;
        let pieces = data.chunks(PIECE).zip((0..).step_by(PIECE));
        let written = stream::iter(pieces)
            .map(|(piece, at)| self.session.write(file.as_str(), at, piece.to_vec()))
            .buffer_unordered(WINDOW)
            .try_for_each(async |_| Ok(()))
            .await;
        // An error here is final for this file, as with every fsync.
        let synced = match written {
            Ok(()) => self.session.fsync(file.as_str()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        let closed = self.session.close(file).await;
        synced?;
        closed?;
        Ok(())
    }

    /// The bytes of a file in the range, or as many of them as there are.
    pub(super) async fn read(
        &self,
        path: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, Trouble> {
        let file = self.session.open(path, OpenFlags::READ, FileAttributes::empty()).await?.handle;
        let pieces = range.clone().step_by(PIECE);
        let read = stream::iter(pieces)
            .map(|at| self.read_piece(&file, at, range.end.min(at.saturating_add(PIECE as u64))))
            .buffered(WINDOW)
            .try_fold(Vec::new(), async |mut all: Vec<u8>, piece| {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await;
        let closed = self.session.close(file).await;
        let read = read?;
        closed?;
        Ok(read)
    }

    /// A server may answer with less than was asked for although there is more.
    async fn read_piece(&self, file: &str, mut at: u64, end: u64) -> Result<Vec<u8>, Trouble> {
        let mut piece = Vec::new();
        while at < end {
            let wanted = u32::try_from(end - at).unwrap_or(u32::MAX);
            match self.session.read(file, at, wanted).await {
                Ok(answer) if answer.data.is_empty() => break,
                Ok(answer) => {
                    at += answer.data.len() as u64;
                    piece.extend_from_slice(&answer.data);
                }
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(piece)
    }

    /// The size of a file, or `None` if it is a folder or something else; follows links.
    pub(super) async fn size(&self, path: &str) -> Result<Option<u64>, Trouble> {
        let attributes = self.session.stat(path).await?.attrs;
        Ok(if attributes.file_type().is_file() { attributes.size } else { None })
    }

    /// Gives a file a second name, unless something has it.
    pub(super) async fn link(&self, from: &str, to: &str) -> Result<(), Trouble> {
        self.session.hardlink(from, to).await?;
        Ok(())
    }

    pub(super) async fn remove(&self, path: &str) -> Result<(), Trouble> {
        self.session.remove(path).await?;
        Ok(())
    }

    /// Makes a folder for its owner alone; that it is there already is fine.
    pub(super) async fn make_folder(&self, path: &str) -> Result<(), Trouble> {
        match self.session.mkdir(path, mode(0o700)).await {
            Ok(_) => Ok(()),
            // The protocol has no code for what exists already.
            Err(error) => match self.session.stat(path).await {
                Ok(found) if found.attrs.is_dir() => Ok(()),
                _ => Err(error.into()),
            },
        }
    }

    /// Makes the names in a folder durable. The protocol has no such request; OpenSSH opens a
    /// folder like a file, and syncs what is open.
    pub(super) async fn sync_folder(&self, path: &str) -> Result<(), Trouble> {
        let unfit = |error: Error| match error {
            Error::Status(status) if status.status_code == StatusCode::Failure => {
                Trouble::Unfit("the server cannot make the names in a folder durable")
            }
            error => error.into(),
        };
        let open = self.session.open(path, OpenFlags::READ, FileAttributes::empty());
        let folder = open.await.map_err(unfit)?.handle;
        let synced = self.session.fsync(folder.as_str()).await;
        self.session.close(folder).await?;
        synced.map_err(unfit)?;
        Ok(())
    }

    /// Names and attributes of what is in a folder.
    pub(super) async fn entries(
        &self,
        path: &str,
    ) -> Result<Vec<(String, FileAttributes)>, Trouble> {
        let folder = self.session.opendir(path).await?.handle;
        let mut found = Vec::new();
        let read = loop {
            match self.session.readdir(folder.as_str()).await {
                Ok(part) => found.extend(part.files.into_iter().map(|f| (f.filename, f.attrs))),
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let closed = self.session.close(folder).await;
        read?;
        closed?;
        Ok(found)
    }

    /// How many bytes are free where `path` is, if the server can tell.
    pub(super) async fn free(&self, path: &str) -> Option<u64> {
        let system = self.session.statvfs(path).await.ok()?;
        Some(system.blocks_avail.saturating_mul(system.fragment_size))
    }
}

fn mode(mode: u32) -> FileAttributes {
    FileAttributes { permissions: Some(mode), ..FileAttributes::empty() }
}
