//! Where objects are kept: a flat store with one primitive that two writers can meet at,
//! **create-if-absent**. Objects never change, so there is no way to overwrite one.
//!
//! [`Local`] is a folder, `Sftp` one of another host, `Objects` an object store, [`Memory`] serves
//! tests and dry runs; [`Cached`] keeps a part of another backend on this host, [`Limited`] slows
//! one down and [`Faulty`] breaks one by plan. All pass the same conformance suite.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

mod cached;
#[cfg(test)]
mod conformance;
mod error;
mod faulty;
mod limited;
mod local;
mod memory;
mod name;
mod remote;

pub use cached::Cached;
pub use error::{BackendError, BackendErrorKind};
pub use faulty::{Call, Fault, Faults, Faulty, Verb};
pub use limited::{Limited, Limits};
pub use local::{Local, create_private_dir};
pub use memory::Memory;

/// A store of immutable objects with names such as `packs/ab/…`.
///
/// A name is at most 200 bytes of lower-case letters, digits, `-`, `_` and `.`, in parts divided
/// by `/`, of which none is empty or begins with a dot. Every method refuses any other name, so
/// that no name, however hostile its origin, leads out of the store.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Creates the object unless there is one of that name. Of several callers, in this or any
    /// other process, exactly one is told [`Created::New`]. Whatever the answer, the object with
    /// that name is complete and durable when it comes; after an error it may be there or not,
    /// but never in part.
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError>;

    /// The same for an object that is hardly ever read: a store with tiers may have a cheaper one
    /// for it.
    fn create_cold(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.create(name, data)
    }

    /// The whole object.
    fn get(&self, name: &str) -> Result<Bytes, BackendError>;

    /// The bytes of the object in the range. An object that ends before the range does is
    /// [`BackendErrorKind::Damaged`]: whoever asks knows the size from what refers to it.
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError>;

    /// All objects below a folder, which is `""` for everything or ends in `/`, and below its
    /// folders, by name. Holds every object that was there throughout the call.
    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError>;

    /// Deletes the object, durably, and says whether there was one.
    fn delete(&self, name: &str) -> Result<Deleted, BackendError>;

    /// Where this is, as the user knows it.
    fn place(&self) -> String;

    /// How many bytes of it may be kept in a folder of this host, since they are far away.
    fn worth_keeping(&self) -> u64 {
        0
    }
}

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was made by this call.
    New,
    /// There was one already, perhaps with other content; it is as it was.
    Existed,
}

/// What became of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The object was there and is not any more.
    Gone,
    /// There was none.
    Absent,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its full name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        (**self).create(name, data)
    }

    fn create_cold(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        (**self).create_cold(name, data)
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        (**self).get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        (**self).get_range(name, range)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        (**self).list(folder)
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        (**self).delete(name)
    }

    fn place(&self) -> String {
        (**self).place()
    }

    fn worth_keeping(&self) -> u64 {
        (**self).worth_keeping()
    }
}

/// How what is not on this host is reached.
#[derive(Clone)]
pub struct StoreSettings {
    /// What the environment says of endpoints and credentials: variables that begin with `AWS_`,
    /// `AZURE_` or `GOOGLE_`, by the names that the tools of the stores give them.
    pub variables: Vec<(String, String)>,
    /// What logs in to the hosts of `sftp://` URLs, as the shell runs it: takes the arguments of
    /// `ssh`.
    pub ssh_command: String,
    /// How long a store that fails in passing is asked again.
    pub patience: Duration,
    /// How many bytes of it may be kept on this host, see [`Cached`].
    pub cache: u64,
    /// The storage class of what is hardly ever read, as the store calls it; otherwise the
    /// bucket's own.
    pub cold_class: Option<String>,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            variables: Vec::new(),
            ssh_command: "ssh".to_owned(),
            patience: Duration::from_mins(3),
            cache: 1 << 30,
            cold_class: None,
        }
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variables hold secrets.
        f.debug_struct("StoreSettings").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// The backend at a path, or at a URL: `file://`, `sftp://[USER@]HOST[:PORT]/PATH`,
/// `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`. Nothing is read or made
/// yet.
pub fn open(url: &str, settings: &StoreSettings) -> Result<Arc<dyn Backend>, BackendError> {
    let usage = |why: &'static str| BackendError::new(BackendErrorKind::Usage, why, url);
    match url.split_once("://") {
        None if url.is_empty() => Err(usage("expected a path or a URL, not")),
        None => Ok(Arc::new(Local::new(url))),
        Some(("file", _)) => {
            let path = url::Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
            Ok(Arc::new(Local::new(path.ok_or_else(|| usage("cannot make a path of"))?)))
        }
        Some(_) => {
            let parsed = url::Url::parse(url).map_err(|_error| usage("this is no URL:"))?;
            remote::connect(&parsed, settings).unwrap_or_else(|| {
                Err(usage(
                    "repositories are at paths, sftp://, s3://, gs:// and az:// URLs, not at",
                ))
            })
        }
    }
}

/// The URL as it may be shown: a password that does not belong there is left out.
fn shown(url: &url::Url) -> String {
    let mut shown = url.clone();
    if shown.password().is_some() && shown.set_password(Some("…")).is_err() {
        return format!("{}://…", url.scheme());
    }
    shown.as_str().trim_end_matches('/').to_owned()
}

/// Proves, by trying, that the store can do what everything relies on: the second create of a
/// name is told so, and a listing shows what was created.
pub fn probe(backend: &dyn Backend) -> Result<(), BackendError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| {
        BackendError::new(BackendErrorKind::Io, "no random name to probe", backend.place())
            .caused_by(std::io::Error::other(error))
    })?;
    let name = format!("probe-{}", crate::id::hex(&nonce));
    let outcomes = [backend.create(&name, b"first")?, backend.create(&name, b"second")?];
    let listed = backend.list("")?.iter().any(|entry| entry.name == name);
    let kept = backend.get(&name)? == b"first"[..];
    let deleted = backend.delete(&name)?;
    if outcomes == [Created::New, Created::Existed] && listed && kept && deleted == Deleted::Gone {
        return Ok(());
    }
    let why = "two writers could overwrite each other's objects at";
    Err(BackendError::new(BackendErrorKind::Unfit, why, backend.place()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::{ErrorKind, Hint as _};

    #[test]
    fn paths_and_file_urls_are_folders() {
        let open = |url| open(url, &StoreSettings::default());
        assert_eq!(open("/srv/repo").unwrap().place(), "/srv/repo");
        assert_eq!(open("some/where").unwrap().place(), "some/where");
        assert_eq!(open("file:///srv/my%20repo").unwrap().place(), "/srv/my repo");
        for url in ["", "file://host/x", "http://host/x", "s3://", "s3://key:secret@bucket/x"] {
            let error = open(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
        }
        let error = open("ftp://host/x").unwrap_err().to_string();
        assert!(error.ends_with("URLs, not at ftp://host/x"), "{error}");
    }

    #[test]
    fn urls_of_object_stores_open_with_the_environment_s_settings_and_only_over_tls() {
        let open = |url, variables: &[(&str, &str)]| {
            let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let variables = variables.iter().map(text).collect();
            open(url, &StoreSettings { variables, ..StoreSettings::default() })
        };
        let (plain, allowed) = (("AWS_ENDPOINT_URL", "http://[::1]:9"), ("AWS_ALLOW_HTTP", "1"));
        assert_eq!(open("s3://bucket/a/b/", &[]).unwrap().place(), "s3://bucket/a/b");
        assert_eq!(open("s3://bucket", &[plain]).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(open("s3://bucket", &[plain, allowed]).unwrap().place(), "s3://bucket");
        let account = ("AZURE_STORAGE_ACCOUNT_NAME", "a");
        assert_eq!(open("az://c/p", &[account]).unwrap().place(), "az://c/p");
        let error = open("az://c/p", &[]).unwrap_err();
        assert_eq!(error.cause(), BackendErrorKind::Credentials);
    }

    #[test]
    fn a_store_that_overwrites_is_found_unfit() {
        #[derive(Debug, Default)]
        struct Overwriting(Memory);
        impl Backend for Overwriting {
            fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
                self.0.delete(name)?;
                self.0.create(name, data)
            }
            fn get(&self, name: &str) -> Result<Bytes, BackendError> {
                self.0.get(name)
            }
            fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
                self.0.get_range(name, range)
            }
            fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
                self.0.list(folder)
            }
            fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
                self.0.delete(name)
            }
            fn place(&self) -> String {
                self.0.place()
            }
        }
        let store = Overwriting::default();
        assert_eq!(probe(&store).unwrap_err().cause(), BackendErrorKind::Unfit);
        let fine = Memory::default();
        probe(&fine).unwrap();
        assert_eq!(fine.list("").unwrap(), []);
    }
}
