//! Where objects are kept: a flat store with one primitive that two writers can meet at,
//! **create-if-absent**. Objects never change, so there is no way to overwrite one.
//!
//! [`Local`] is a folder, [`Memory`] serves tests and dry runs, [`Faulty`] breaks another backend
//! by plan. All pass the same conformance suite.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

#[cfg(test)]
mod conformance;
mod error;
mod faulty;
mod local;
mod memory;
mod name;

pub use error::{BackendError, BackendErrorKind};
pub use faulty::{Call, Fault, Faults, Faulty, Verb};
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
}

/// The backend at a path or a `file://` URL. Nothing is read or made yet.
pub fn open(url: &str) -> Result<Arc<dyn Backend>, BackendError> {
    let usage = |why: &'static str| BackendError::new(BackendErrorKind::Usage, why, url);
    match url.split_once("://") {
        None if url.is_empty() => Err(usage("expected a path or a URL, not")),
        None => Ok(Arc::new(Local::new(url))),
        Some(("file", _)) => {
            let path = url::Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
            Ok(Arc::new(Local::new(path.ok_or_else(|| usage("cannot make a path of"))?)))
        }
        Some(_) => Err(usage("this version keeps repositories in folders only, not at")),
    }
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
        assert_eq!(open("/srv/repo").unwrap().place(), "/srv/repo");
        assert_eq!(open("some/where").unwrap().place(), "some/where");
        assert_eq!(open("file:///srv/my%20repo").unwrap().place(), "/srv/my repo");
        for url in ["", "s3://bucket/prefix", "az://x", "gs://x", "file://host/x"] {
            let error = open(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
        }
        let error = open("s3://bucket/prefix").unwrap_err().to_string();
        assert!(error.ends_with("in folders only, not at s3://bucket/prefix"), "{error}");
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
