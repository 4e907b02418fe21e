//! One error for all backends: what was tried, on what, and why it failed.

use std::io;

use crate::hint::{ErrorKind, Hint};

/// Why a backend failed, as far as it makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendErrorKind {
    /// There is no such object.
    NotFound,
    /// The store does not let us.
    Denied,
    /// No room is left, or the quota is used up.
    Full,
    /// The object is shorter than what refers to it says.
    Damaged,
    /// The name is none that an object can have.
    BadName,
    /// The place of the repository is none that this program can use.
    Usage,
    /// The store lacks what the repository relies on.
    Unfit,
    /// An object store was given no credentials, or refuses those.
    Credentials,
    /// There is no such bucket or container.
    NoBucket,
    /// The store refuses requests because its clock and ours differ.
    Clock,
    /// No answer, or only failures, for as long as the store was asked.
    Unreachable,
    /// Anything else.
    Io,
}

/// A backend could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{action} {object}")]
pub struct BackendError {
    kind: BackendErrorKind,
    action: &'static str,
    object: String,
    source: Option<io::Error>,
}

impl BackendError {
    /// The failure of an action on an object, which are joined to a sentence: `cannot read` and
    /// `/srv/repo/config`.
    pub(super) fn new(
        kind: BackendErrorKind,
        action: &'static str,
        object: impl Into<String>,
    ) -> Self {
        Self { kind, action, object: object.into(), source: None }
    }

    /// The same, with the kind found from what the operating system said.
    pub(super) fn io(action: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => BackendErrorKind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                BackendErrorKind::Denied
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BackendErrorKind::Full,
            _ => BackendErrorKind::Io,
        };
        Self::new(kind, action, object).caused_by(source)
    }

    pub(super) fn caused_by(mut self, source: io::Error) -> Self {
        self.source = Some(source);
        self
    }

    /// Why, as far as it makes a difference to the caller.
    pub fn cause(&self) -> BackendErrorKind {
        self.kind
    }

    /// Whether the object does not exist: for many callers an answer, not a failure.
    pub fn is_not_found(&self) -> bool {
        self.kind == BackendErrorKind::NotFound
    }

    /// What it was about, as the user knows it.
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl Hint for BackendError {
    fn kind(&self) -> ErrorKind {
        match self.kind {
            BackendErrorKind::Damaged => ErrorKind::Damage,
            BackendErrorKind::Usage => ErrorKind::Usage,
            _ => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self.kind {
            BackendErrorKind::Full => {
                "nothing that was committed is harmed: free some space (`coeval forget` and \
                 `coeval prune` do, in a repository) and run the command again"
            }
            BackendErrorKind::Denied => {
                "check the owner and the permissions of the repository, and whether it is mounted \
                 read-only"
            }
            BackendErrorKind::Damaged => "see what is affected with `coeval check --read-data`",
            BackendErrorKind::Unfit => {
                "use a file system with hard links, such as ext4, XFS, Btrfs or ZFS, by SFTP on a \
                 host with OpenSSH's server, or an object store with conditional puts \
                 (If-None-Match)"
            }
            BackendErrorKind::Credentials => {
                "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; \
                 AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; GOOGLE_SERVICE_ACCOUNT) \
                 and that they may get, put, list and, to prune, delete objects there"
            }
            BackendErrorKind::NoBucket => {
                "check its name, the region (AWS_REGION) and the endpoint (AWS_ENDPOINT_URL); coeval \
                 makes no buckets"
            }
            BackendErrorKind::Clock => "set this machine's clock right and run the command again",
            BackendErrorKind::Unreachable => {
                "check the network and the endpoint (AWS_ENDPOINT_URL; for sftp://, that `ssh HOST` \
                 lets you in) and run the command again: what was committed is safe"
            }
            BackendErrorKind::NotFound
            | BackendErrorKind::BadName
            | BackendErrorKind::Usage
            | BackendErrorKind::Io => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Failure;

    #[test]
    fn a_full_disk_is_told_apart_and_says_what_to_do() {
        for code in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            let error = BackendError::io("cannot write", "/srv/repo/config", code.into());
            assert_eq!(error.cause(), BackendErrorKind::Full);
            assert!(error.hint().unwrap().contains("free some space"));
            let printed = Failure::from(error).to_string();
            assert!(printed.starts_with("cannot write /srv/repo/config: "), "{printed}");
        }
    }
}
