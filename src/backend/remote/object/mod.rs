//! Objects in an object store: S3 and what speaks like it, Azure, Google.
//!
//! Create-if-absent is a conditional put (`If-None-Match: *`; on Google a generation of zero),
//! which the store decides. One request is one attempt; what fails in passing is tried again with
//! growing, random pauses until patience ends. So an answer of [`Created::Existed`] may be about
//! an earlier attempt of the same call whose answer was lost: callers compare what is there with
//! what they wrote, as the contract of [`Backend`] asks.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};
use tokio::runtime::Runtime;

use self::failure::{explain, is_passing};
use super::patience;
use crate::backend::name::{check_folder, check_object};
use crate::backend::{Backend, BackendError, BackendErrorKind, Created, Deleted, Entry};

mod connect;
mod failure;
#[cfg(test)]
mod tests;

pub(super) use connect::connect;

/// How long at most a store that never answered is asked: the address is more likely wrong than
/// the network down.
const FIRST_PATIENCE: Duration = Duration::from_secs(20);
/// What one attempt may take, besides [`SLOWEST`].
const ATTEMPT: Duration = Duration::from_secs(30);
/// Bytes a second below which a transfer counts as stuck.
const SLOWEST: u64 = 32 << 10;
/// No range is longer.
const SIZE_MAX: u64 = 512 << 20;

/// A bucket or container, or what lies below a prefix of it.
pub(super) struct Objects {
    runtime: Runtime,
    store: Box<dyn ObjectStore>,
    prefix: Path,
    place: String,
    patience: Duration,
    cache: u64,
    cold_class: Option<String>,
    answered: AtomicBool,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The store knows secrets.
        f.debug_struct("Objects").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Objects {
    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), Path::join)
    }

    fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    /// Makes attempts until one gives an answer that another one could not change, or patience
    /// ends. Each has a limit of its own, see [`within`].
    fn ask<T>(&self, attempt: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
        let answered = self.answered.load(Ordering::Relaxed);
        let patience = self.patience;
        let patience = if answered { patience } else { patience.min(FIRST_PATIENCE) };
        let result = self.runtime.block_on(patience::ask(patience, is_passing, attempt));
        if result.is_ok() {
            self.answered.store(true, Ordering::Relaxed);
        }
        result
    }

    /// The size of the object; none where there is no object.
    fn size(&self, path: &Path) -> Result<Option<u64>, Error> {
        match self.ask(async || within(0, self.store.head(path)).await) {
            Ok(meta) => Ok(Some(meta.size)),
            // A missing bucket has no body that says so here; the next read or write does.
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn too_short(&self, name: &str) -> BackendError {
        let shown = self.shown(name);
        BackendError::new(BackendErrorKind::Damaged, "an object is too short:", shown)
    }

    /// Creates an object of a storage class, or of that which the bucket has for all.
    fn put(
        &self,
        name: &str,
        data: &[u8],
        class: Option<&String>,
    ) -> Result<Created, BackendError> {
        check_object(name)?;
        let path = self.path(name);
        let payload = PutPayload::from(Bytes::copy_from_slice(data));
        let attributes = class.map(|class| (Attribute::StorageClass, class.clone()));
        let attributes: Attributes = attributes.into_iter().collect();
        let created = self.ask(async || {
            let options = PutOptions {
                mode: PutMode::Create,
                attributes: attributes.clone(),
                ..PutOptions::default()
            };
            let put = self.store.put_opts(&path, payload.clone(), options);
            match within(data.len() as u64, put).await {
                Ok(_) => Ok(Created::New),
                // Also said of a conflict with a request under way (S3's 409), which may come to
                // nothing: the object is there when it can be seen.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    match within(0, self.store.head(&path)).await {
                        Ok(_) => Ok(Created::Existed),
                        Err(Error::NotFound { .. }) => Err(failure::conflict()),
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        });
        created.map_err(|error| explain("cannot write", self.shown(name), &error))
    }
}

impl Backend for Objects {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.put(name, data, None)
    }

    fn create_cold(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.put(name, data, self.cold_class.as_ref())
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        check_object(name)?;
        let path = self.path(name);
        let object = self.ask(async || {
            let answer = within(0, self.store.get(&path)).await?;
            within(answer.meta.size, answer.bytes()).await
        });
        object.map_err(|error| explain("cannot read", self.shown(name), &error))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        check_object(name)?;
        let path = self.path(name);
        let failed = |error: &Error| explain("cannot read", self.shown(name), error);
        let size = || match self.size(&path) {
            Ok(size) => size.ok_or_else(|| {
                let (kind, shown) = (BackendErrorKind::NotFound, self.shown(name));
                BackendError::new(kind, "there is no object", shown)
            }),
            Err(error) => Err(failed(&error)),
        };
        let wanted = range.end.saturating_sub(range.start);
        // Stores refuse to be asked for nothing, and a damaged reference may ask for anything.
        if wanted == 0 || wanted > SIZE_MAX {
            return match size()? {
                size if range.end > size => Err(self.too_short(name)),
                _ if wanted == 0 => Ok(Bytes::new()),
                _ => {
                    let (kind, shown) = (BackendErrorKind::Damaged, self.shown(name));
                    Err(BackendError::new(kind, "too much is asked for at once of", shown))
                }
            };
        }
        let read = self.ask(async || {
            let bytes = within(wanted, self.store.get_range(&path, range.clone())).await?;
            if bytes.len() as u64 == wanted { Ok(Some(bytes)) } else { Ok(None) }
        });
        match read {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(self.too_short(name)),
            Err(error) if matches!(error, Error::NotFound { .. }) => Err(failed(&error)),
            // What a store says of a range that is not there differs; the size does not.
            Err(_) if size()? < range.end => Err(self.too_short(name)),
            Err(error) => Err(failed(&error)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        check_folder(folder)?;
        let below = match folder.trim_end_matches('/') {
            "" => self.prefix.clone(),
            folder => self.path(folder),
        };
        let below = (!below.as_ref().is_empty()).then_some(below);
        let listed = self.ask(async || {
            let (mut objects, mut found) = (self.store.list(below.as_ref()), Vec::new());
            while let Some(object) = within(0, objects.try_next()).await? {
                found.push(object);
            }
            Ok(found)
        });
        let listed = listed.map_err(|error| explain("cannot list", self.shown(folder), &error))?;
        let mut entries: Vec<_> = listed
            .into_iter()
            .filter_map(|meta| {
                let parts: Option<Vec<_>> =
                    meta.location.prefix_match(&self.prefix).map(Iterator::collect);
                let parts = parts?;
                let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
                let name = parts.join("/");
                // What no object can be called is none, as in a folder.
                check_object(&name).ok().map(|()| Entry { name, size: meta.size })
            })
            .filter(|entry| entry.name.starts_with(folder))
            .collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        check_object(name)?;
        let path = self.path(name);
        let failed = |error: Error| explain("cannot delete", self.shown(name), &error);
        // Stores do not say whether there was one.
        if self.size(&path).map_err(failed)?.is_none() {
            return Ok(Deleted::Absent);
        }
        match self.ask(async || within(0, self.store.delete(&path)).await) {
            // Not found: an earlier attempt was heard.
            Ok(()) | Err(Error::NotFound { .. }) => Ok(Deleted::Gone),
            Err(error) => Err(failed(error)),
        }
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn worth_keeping(&self) -> u64 {
        self.cache
    }
}

/// The outcome of a request that moves about so many bytes, which is given up when it is stuck.
async fn within<T>(
    bytes: u64,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let limit = ATTEMPT + Duration::from_secs(bytes / SLOWEST);
    let stuck = |_elapsed| Err(failure::passing(format!("no answer for {} s", limit.as_secs())));
    tokio::time::timeout(limit, request).await.unwrap_or_else(stuck)
}
