//! Objects that are not on this host. Drivers of such stores are asynchronous; each has threads of
//! its own for that, and shows the rest of the program the synchronous [`Backend`].

use std::sync::Arc;

use url::Url;

use super::{Backend, BackendError, StoreSettings};

mod object;
mod patience;
mod sftp;

/// The backend at a URL, if its kind is known. Nobody is asked yet.
pub(super) fn connect(
    url: &Url,
    settings: &StoreSettings,
) -> Option<Result<Arc<dyn Backend>, BackendError>> {
    Some(match url.scheme() {
        "s3" | "s3a" | "gs" | "az" | "azure" => {
            object::connect(url, settings).map(|store| Arc::new(store) as _)
        }
        "sftp" => sftp::connect(url, settings).map(|host| Arc::new(host) as _),
        _ => return None,
    })
}
