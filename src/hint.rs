//! What the user should do next, and what a failure means to a script: every error type of the
//! library implements [`Hint`], and `cli` turns it into an exit code and a second line.

use std::fmt;

/// What kind of failure it is: decides the exit code, and later the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Anything without a code of its own. Exit code 1.
    Failed,
    /// The command line or the configuration is wrong. Exit code 2.
    Usage,
    /// There is no repository at that place. Exit code 10.
    NoRepository,
    /// Someone else holds what is needed. Exit code 11.
    Busy,
    /// Wrong password or key. Exit code 12.
    WrongKey,
    /// Verification found damage. Exit code 13.
    Damage,
}

impl ErrorKind {
    /// The process exit code that scripts rely on.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoRepository => 10,
            Self::Busy => 11,
            Self::WrongKey => 12,
            Self::Damage => 13,
        }
    }
}

/// An error that knows its kind and the next command to try.
pub trait Hint: std::error::Error + Send + Sync {
    /// What kind of failure this is.
    fn kind(&self) -> ErrorKind {
        ErrorKind::Failed
    }

    /// What the user should do next, as one sentence; `None` when the message says it all.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// Any error of the library with its hint kept: what crosses the borders between rooms
/// (trait objects, closures), where the type of the error is the other room's business.
pub struct Failure(Box<dyn Hint>);

impl Failure {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    /// What the user should do next.
    pub fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    /// The error itself, for its message and its chain of causes.
    pub fn error(&self) -> &(dyn std::error::Error + 'static) {
        // `Hint: Error`, so this is an upcast of the boxed trait object.
        &*self.0
    }

    /// A failure that is only a sentence and, perhaps, what to do next.
    pub fn message(kind: ErrorKind, text: impl Into<String>, hint: Option<String>) -> Self {
        Self(Box::new(Message { kind, text: text.into(), hint }))
    }
}

impl<E: Hint + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for Failure {
    /// The message and all its causes, joined by colons.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({:?})", self.0)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Message {
    kind: ErrorKind,
    text: String,
    hint: Option<String>,
}

impl Hint for Message {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
