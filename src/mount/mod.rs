//! Snapshots as a file system (FUSE), read-only: `ids/ID`, and links to them by time, machine and
//! tag. Linux only.
//!
//! Nothing is loaded before it is looked at, and nothing stays in memory because it was: the
//! number of a file is its place in its tree, from which its name, metadata and content are found
//! again. So a folder may have a million entries, and the kernel may know them all.

mod adapter;
mod answers;
mod contents;
mod files;
mod links;
mod names;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};

use self::answers::Mounted;
use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint};
use crate::repo::Repo;
use crate::report::Event;
use crate::snapshot::Filter;

/// How often the wish to stop is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Threads that answer, at most: each holds what it is reading.
const MOST_THREADS: usize = 16;

/// Who may look at what is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Only who mounts it, and then everything.
    #[default]
    Owner,
    /// Everybody, each what the modes of the files allow.
    Everyone,
}

/// Why snapshots could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such folder.
    #[error("{} is no folder to mount at", folder.display())]
    NoFolder {
        /// Which one.
        folder: PathBuf,
    },
    /// The system refused.
    #[error("cannot mount at {}", folder.display())]
    Refused {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection to the kernel broke.
    #[error("the mount at {} failed", folder.display())]
    Broken {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Hint for MountError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoFolder { .. } => ErrorKind::Usage,
            Self::Refused { .. } | Self::Broken { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoFolder { folder } => Some(format!("make it: `mkdir -p {}`", folder.display())),
            Self::Refused { .. } => Some(
                "it needs /dev/fuse (in a container, --device /dev/fuse), and for other users than \
                 root fusermount3 of the package fuse3"
                    .to_owned(),
            ),
            Self::Broken { .. } => None,
        }
    }
}

/// Mounts the snapshots that a filter admits, calls `ready`, and comes back when someone unmounts
/// them or asks to stop. New snapshots appear by themselves.
pub fn mount(
    repo: &Arc<Repo>,
    filter: &Filter,
    folder: &Path,
    access: Access,
    ready: &dyn Fn() -> Result<(), Failure>,
    ctx: &Context,
) -> Result<(), Failure> {
    if !folder.is_dir() {
        return Err(MountError::NoFolder { folder: folder.to_owned() }.into());
    }
    let mounted = Mounted::new(Arc::clone(repo), filter.clone(), access, ctx.clone())?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::FSName("coeval".to_owned()),
        MountOption::Subtype("coeval".to_owned()),
    ];
    if access == Access::Everyone {
        config.mount_options.push(MountOption::DefaultPermissions);
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(ctx.jobs.clamp(2, MOST_THREADS));
    config.clone_fd = true;
    let refused = |source| MountError::Refused { folder: folder.to_owned(), source };
    let mut session = Session::new(mounted, folder, &config).map_err(refused)?;
    let mut unmounter = session.unmount_callable();
    std::thread::scope(|scope| {
        let (sender, ended) = mpsc::sync_channel(1);
        let running = scope.spawn(move || {
            let result = session.run();
            // Nobody listens any more where the wish to stop came first.
            let _nobody = sender.send(()).is_err();
            result
        });
        let told = ready();
        while told.is_ok() && !ctx.cancel.is_cancelled() {
            if ended.recv_timeout(LOOK_EVERY) != Err(mpsc::RecvTimeoutError::Timeout) {
                break;
            }
        }
        if unmounter.unmount().is_err() {
            let note = format!("{} is in use; waiting until it is not", folder.display());
            ctx.report(Event::Note(note));
            nix::mount::umount2(folder, nix::mount::MntFlags::MNT_DETACH)
                .map_err(|error| refused(error.into()))?;
        }
        told?;
        let broken = |source| MountError::Broken { folder: folder.to_owned(), source };
        let result = running.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        Ok(result.map_err(broken)?)
    })
}
