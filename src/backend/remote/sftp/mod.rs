//! Objects as files on a host that is reached by SSH, as in a folder of this one.
//!
//! The transport is the user's own `ssh`, with their keys, agent and configuration; the protocol is
//! SFTP (version 3, draft-ietf-secsh-filexfer-02) with OpenSSH's extensions for hard links and for
//! syncing, so that an object gets its name as it does locally: complete, durable, and only once.
//! A connection that breaks is made again, for as long as patience lasts; a create whose answer
//! was lost may find its own object, and callers compare, as with every backend.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use russh_sftp::protocol::StatusCode;
use tokio::runtime::Runtime;
use url::Url;

use self::connection::{Connection, Login, Trouble};
use super::patience;
use crate::backend::name::{check_folder, check_object, is_part};
use crate::backend::{
    Backend, BackendError, BackendErrorKind, Created, Deleted, Entry, StoreSettings, shown,
};
use crate::id::hex;

mod connection;
#[cfg(test)]
mod tests;

const TEMPORARY_PREFIX: &str = ".tmp-";
/// Folders that are listed at once.
const LISTINGS: usize = 16;
/// No range is longer.
const SIZE_MAX: u64 = 512 << 20;
/// No file goes on further: servers refuse to look.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// A folder of another host.
pub(super) struct Sftp {
    runtime: Runtime,
    login: Login,
    root: String,
    place: String,
    patience: Duration,
    cache: u64,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    answered: AtomicBool,
    /// Folders whose own entry is known to be durable, so that it is synced once a process.
    durable: Mutex<HashSet<String>>,
}

impl fmt::Debug for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sftp").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The folder at `sftp://[USER@]HOST[:PORT]/PATH`; a path that begins with `/~/` is below the
/// home of the user. Nobody is asked yet.
pub(super) fn connect(url: &Url, settings: &StoreSettings) -> Result<Sftp, BackendError> {
    let place = shown(url);
    let usage = |why: &'static str| BackendError::new(BackendErrorKind::Usage, why, place.clone());
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(usage("passwords and options belong to ssh, not in"));
    }
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned)
    };
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| usage("expected a host behind `://` in"))?;
    let path = decoded(url.path()).map_err(|_utf8| usage("the path is not UTF-8 in"))?;
    let path = path.trim_end_matches('/');
    let root = path.strip_prefix("/~/").unwrap_or(path);
    if root.is_empty() || root == "/~" {
        return Err(usage("expected a folder behind the host in"));
    }
    let user = decoded(url.username()).map_err(|_utf8| usage("the user is not UTF-8 in"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("sftp")
        .enable_all()
        .build()
        .map_err(|error| BackendError::io("cannot start threads for", place.clone(), error))?;
    Ok(Sftp {
        runtime,
        login: Login {
            command: settings.ssh_command.clone(),
            user: (!user.is_empty()).then_some(user),
            // Addresses of IPv6 stand in brackets in a URL and without in what ssh takes.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port(),
        },
        root: root.to_owned(),
        place,
        patience: settings.patience,
        cache: settings.cache,
        connection: tokio::sync::Mutex::default(),
        answered: AtomicBool::new(false),
        durable: Mutex::default(),
    })
}

impl Sftp {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    /// The folder of an object and those above it, from the root down.
    fn folders(&self, name: &str) -> Vec<String> {
        let below = name.match_indices('/').map(|(at, _)| self.path(&name[..at]));
        std::iter::once(self.root.clone()).chain(below).collect()
    }

    /// What to tell of a failed request.
    fn explain(&self, action: &'static str, name: &str, trouble: &Trouble) -> BackendError {
        let kind = match trouble {
            Trouble::Lost(_) => BackendErrorKind::Unreachable,
            Trouble::Unfit(_) => BackendErrorKind::Unfit,
            Trouble::Refused { code: StatusCode::NoSuchFile, .. } => BackendErrorKind::NotFound,
            Trouble::Refused { code: StatusCode::PermissionDenied, .. } => BackendErrorKind::Denied,
            Trouble::Refused { .. } => BackendErrorKind::Io,
        };
        BackendError::new(kind, action, format!("{}/{name}", self.place))
            .caused_by(std::io::Error::other(trouble.to_string()))
    }

    /// Makes attempts until one gives an answer, or patience ends. A host that never answered is
    /// asked once: ssh has said why, and may have asked for a password.
    fn ask<T>(
        &self,
        attempt: impl AsyncFn(&Connection) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let answered = self.answered.load(Ordering::Relaxed);
        let patience = if answered { self.patience } else { Duration::ZERO };
        let is_passing = |trouble: &Trouble| matches!(trouble, Trouble::Lost(_));
        let result = self.runtime.block_on(patience::ask(patience, is_passing, async move || {
            let connection = self.connected().await?;
            let result = attempt(&connection).await;
            if let Err(Trouble::Lost(_)) = &result {
                self.leave(&connection).await;
            }
            result
        }));
        if !matches!(result, Err(Trouble::Lost(_))) {
            self.answered.store(true, Ordering::Relaxed);
        }
        result
    }

    async fn connected(&self) -> Result<Arc<Connection>, Trouble> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = &*current {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(self.login.connect().await?);
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Lets the next request connect anew, unless another thread has done so already.
    async fn leave(&self, broken: &Arc<Connection>) {
        let mut current = self.connection.lock().await;
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, broken)) {
            *current = None;
        }
    }

    /// Makes folders unless they are there. Their entries are synced even when they are: whoever
    /// made them may have died before doing so.
    async fn ensure(&self, folders: &[String], server: &Connection) -> Result<(), Trouble> {
        let known = || self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let mut above: Option<&str> = None;
        for folder in folders {
            if !known().contains(folder) {
                match above {
                    None => self.ensure_root(server).await?,
                    Some(above) => {
                        server.make_folder(folder).await?;
                        server.sync_folder(above).await?;
                    }
                }
                known().insert(folder.clone());
            }
            above = Some(folder);
        }
        Ok(())
    }

    /// Makes the root and all missing folders above it. Those that are there may belong to others
    /// and are left alone.
    async fn ensure_root(&self, server: &Connection) -> Result<(), Trouble> {
        let ends = self.root.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        let all: Vec<&str> = ends.map(|at| &self.root[..at]).chain([self.root.as_str()]).collect();
        let mut there = all.len();
        while there > 0 && server.entries(all[there - 1]).await.is_err() {
            there -= 1;
        }
        for folder in &all[there..] {
            server.make_folder(folder).await?;
            let above = folder.rsplit_once('/').map_or(".", |(above, _)| above);
            server.sync_folder(if above.is_empty() { "/" } else { above }).await?;
        }
        Ok(())
    }

    async fn create_file(
        &self,
        name: &str,
        data: &[u8],
        server: &Connection,
    ) -> Result<Created, Trouble> {
        let folders = self.folders(name);
        self.ensure(&folders, server).await?;
        let folder = folders.last().unwrap_or(&self.root);
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| Trouble::Lost(error.to_string()))?;
        let temporary = format!("{folder}/{TEMPORARY_PREFIX}{}", hex(&nonce));
        let path = self.path(name);
        let linked = match server.write_new(&temporary, data).await {
            Ok(()) => match server.link(&temporary, &path).await {
                Ok(()) => Ok(Created::New),
                // The protocol has no code for what exists already.
                Err(trouble) if trouble.is(StatusCode::Failure) => match server.size(&path).await {
                    Ok(Some(_)) => Ok(Created::Existed),
                    _ => Err(trouble),
                },
                Err(trouble) => Err(trouble),
            },
            Err(trouble) => Err(trouble),
        };
        // Whether the object was created does not depend on this: a name that stays behind is as
        // after a kill, and shows in no listing.
        let _ = server.remove(&temporary).await;
        let created = linked?;
        // Also when it existed: whoever made it may have died before this.
        server.sync_folder(folder).await?;
        Ok(created)
    }

    /// A refusal without a reason, as a full disk gets: the protocol has no code for it.
    fn is_full(&self, trouble: &Trouble, wanted: usize) -> bool {
        let free = || self.ask(async |server| Ok(server.free(&self.root).await));
        trouble.is(StatusCode::Failure)
            && free().is_ok_and(|free| free.is_some_and(|free| free < wanted as u64))
    }

    fn too_short(&self, name: &str) -> BackendError {
        let shown = format!("{}/{name}", self.place);
        BackendError::new(BackendErrorKind::Damaged, "an object is too short:", shown)
    }

    /// Objects in a folder, and the folders in it; nothing where there is no folder.
    async fn list_one(
        &self,
        folder: String,
        server: &Connection,
    ) -> Result<(Vec<Entry>, Vec<String>), Trouble> {
        let path = if folder.is_empty() { self.root.clone() } else { self.path(&folder) };
        let entries = match server.entries(path.trim_end_matches('/')).await {
            Err(trouble) if trouble.is(StatusCode::NoSuchFile) => return Ok(Default::default()),
            entries => entries?,
        };
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        // What no object can be called is none: temporary files, and what others left here.
        for (part, attributes) in entries.into_iter().filter(|(part, _)| is_part(part)) {
            let kind = attributes.file_type();
            if kind.is_dir() {
                folders.push(format!("{folder}{part}/"));
            } else if kind.is_file() {
                let size = attributes.size.unwrap_or(0);
                objects.push(Entry { name: format!("{folder}{part}"), size });
            }
        }
        Ok((objects, folders))
    }
}

impl Backend for Sftp {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        check_object(name)?;
        self.ask(async |server| self.create_file(name, data, server).await).map_err(|trouble| {
            if self.is_full(&trouble, data.len()) {
                let shown = format!("{}/{name}", self.place);
                return BackendError::new(BackendErrorKind::Full, "no room is left for", shown);
            }
            self.explain("cannot write", name, &trouble)
        })
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        check_object(name)?;
        let path = self.path(name);
        let read = self.ask(async |server| match server.size(&path).await? {
            Some(size) => server.read(&path, 0..size).await,
            None => Err(Trouble::Refused {
                code: StatusCode::Failure,
                message: "this is not a file".to_owned(),
            }),
        });
        read.map(Bytes::from).map_err(|trouble| self.explain("cannot read", name, &trouble))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        check_object(name)?;
        let path = self.path(name);
        let wanted = range.end.saturating_sub(range.start);
        // A damaged reference may ask for anything.
        let read = if wanted == 0 || wanted > SIZE_MAX || range.end > OFFSET_MAX {
            let size = self.ask(async |server| server.size(&path).await);
            let size = size.map_err(|trouble| self.explain("cannot read", name, &trouble))?;
            (wanted == 0 && size.is_some_and(|size| range.end <= size)).then(Vec::new)
        } else {
            let read = self.ask(async |server| server.read(&path, range.clone()).await);
            let read = read.map_err(|trouble| self.explain("cannot read", name, &trouble))?;
            (read.len() as u64 == wanted).then_some(read)
        };
        read.map(Bytes::from).ok_or_else(|| self.too_short(name))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        check_folder(folder)?;
        let listed = self.ask(async |server| {
            let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
            while !folders.is_empty() {
                let listings = folders.drain(..).map(|folder| self.list_one(folder, server));
                let level: Vec<_> = stream::iter(listings.collect::<Vec<_>>())
                    .buffer_unordered(LISTINGS)
                    .try_collect()
                    .await?;
                for (objects, below) in level {
                    found.extend(objects);
                    folders.extend(below);
                }
            }
            Ok(found)
        });
        let mut found = listed.map_err(|trouble| self.explain("cannot list", folder, &trouble))?;
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        check_object(name)?;
        let (path, folders) = (self.path(name), self.folders(name));
        let deleted = self.ask(async |server| match server.remove(&path).await {
            Ok(()) => {
                // The order of deletions matters to those who come after a crash.
                server.sync_folder(folders.last().unwrap_or(&self.root)).await?;
                Ok(Deleted::Gone)
            }
            Err(trouble) if trouble.is(StatusCode::NoSuchFile) => Ok(Deleted::Absent),
            Err(trouble) => Err(trouble),
        });
        deleted.map_err(|trouble| self.explain("cannot delete", name, &trouble))
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn worth_keeping(&self) -> u64 {
        self.cache
    }
}
