//! A directory as a target: every new content is first written, whole and durable, into a staging
//! folder inside the directory; only then are live files replaced, by renames.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::path::{display_key, path_bytes};
use super::select::Selection;
use super::spool::Spool;
use super::walk::{STAGING_PREFIX, open_root};
use super::write::{FileWriter, modified, mtime_of};
use super::{Entry, Files, FilesError, TREE, commit};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::hex;
use crate::report::Event;
use crate::source::{Applied, Description, Fit, Plan, Source, Target};
use crate::tree::{Change, Content};

/// A directory, or the configuration files in it, as a [`Target`].
#[derive(Debug)]
pub struct Directory {
    files: Files,
    staging: Option<Staging>,
}

/// A restore under way.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) ctx: Context,
    pub(super) path: PathBuf,
    pub(super) root: OwnedFd,
    /// The root as it was before the staging folder was made.
    pub(super) before: Stat,
    made_root: bool,
    pub(super) name: String,
    pub(super) folder: OwnedFd,
    /// What to do, in the order of keys. The `n`th put that is not of a directory is staged under
    /// the name `n`.
    pub(super) journal: Spool,
    staged: u64,
    pub(super) writer: FileWriter,
}

impl Directory {
    /// The directory of `files` as a target. It shows, and so changes, only what belongs to that
    /// source: what it excludes stays as it is.
    pub const fn new(mut files: Files) -> Self {
        files.is_target = true;
        Self { files, staging: None }
    }

    fn staging(&mut self) -> Result<&mut Staging, FilesError> {
        self.staging.as_mut().ok_or_else(|| not_begun(&self.files))
    }
}

fn not_begun(files: &Files) -> FilesError {
    FilesError::Contract { path: files.root.display().to_string(), reason: "it was not begun" }
}

impl Target for Directory {
    fn begin(&mut self, ctx: &Context) -> Result<(), Failure> {
        self.staging = Some(Staging::new(&self.files.root, ctx)?);
        Ok(())
    }

    fn as_source(&mut self) -> &mut dyn Source {
        &mut self.files
    }

    fn fit(&mut self, _wanted: &Description, _ctx: &Context) -> Result<Fit, Failure> {
        Ok(Fit::Kept)
    }

    fn apply(&mut self, plan: &dyn Plan, ctx: &Context) -> Result<Applied, Failure> {
        let Self { files, staging } = self;
        let staging = staging.as_mut().ok_or_else(|| not_begun(files))?;
        let mut applied = Applied::default();
        for tree in plan.trees().iter().filter(|tree| tree.name == TREE) {
            for change in plan.changes(tree)? {
                ctx.check_cancelled()?;
                let change = change?;
                staging.refuse_unsaved(&files.selection, &change)?;
                match (&change.value, staging.is_present(&change.key)) {
                    (None, _) => applied.deleted += 1,
                    (Some(_), false) => applied.inserted += 1,
                    (Some(_), true) => applied.updated += 1,
                }
                staging.stage(change)?;
                ctx.report(Event::Progress { items: 1, bytes: 0 });
            }
        }
        staging.sync()?;
        Ok(applied)
    }

    /// Moves everything into place. After a failure or a crash in the middle some files are as
    /// before and some as asked, each of them whole; the same restore again completes the work.
    fn commit(&mut self) -> Result<(), Failure> {
        let staging = self.staging()?;
        commit::run(staging)?;
        staging.sync()?;
        self.staging = None;
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        let Some(staging) = self.staging.take() else { return Ok(()) };
        staging.remove()?;
        if staging.made_root {
            fs::remove_dir(&staging.path).map_err(|source| FilesError::Target {
                doing: "remove",
                path: staging.path.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

impl Staging {
    fn new(root: &Path, ctx: &Context) -> Result<Self, FilesError> {
        let error = |doing| {
            let path = root.to_owned();
            move |source| FilesError::Target { doing, path, source }
        };
        let made_root = fs::symlink_metadata(root).is_err();
        fs::create_dir_all(root).map_err(error("create"))?;
        let fd = open_root(root)?;
        let before = rustix::fs::fstat(&fd).map_err(|e| error("look at")(e.into()))?;
        remove_debris(root, &fd)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|source| error("stage in")(io::Error::other(source)))?;
        let name = format!("{STAGING_PREFIX}{}", hex(&random));
        let folder = rustix::fs::mkdirat(&fd, name.as_str(), Mode::RWXU)
            .and_then(|()| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&fd, name.as_str(), flags, Mode::empty())
            })
            .and_then(|folder| {
                rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
                // The folder must not show in what `as_source` says of the root.
                rustix::fs::futimens(&fd, &modified(mtime_of(&before)))?;
                Ok(folder)
            })
            .map_err(|e| error("stage in")(e.into()))?;
        Ok(Self {
            ctx: ctx.clone(),
            path: root.to_owned(),
            root: fd,
            before,
            made_root,
            name,
            folder,
            journal: Spool::new(),
            staged: 0,
            writer: FileWriter::new(),
        })
    }

    /// Whether something is in the target at this key. Only to count: a wrong answer does no harm.
    fn is_present(&self, key: &[u8]) -> bool {
        let path = if key.is_empty() { b".".to_vec() } else { path_bytes(key) };
        rustix::fs::statat(&self.root, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Refuses to replace what the snapshot before the restore does not hold.
    fn refuse_unsaved(&self, selection: &Selection, change: &Change) -> Result<(), FilesError> {
        let at =
            |source| FilesError::Target { doing: "look at", path: self.at(&change.key), source };
        let is_put = change.value.is_some() && !change.key.is_empty();
        if is_put && selection.has_lost(&self.root, &change.key).map_err(at)? {
            return Err(FilesError::Unsaved { path: self.at(&change.key) });
        }
        Ok(())
    }

    /// Writes down what to do and fetches what it takes.
    fn stage(&mut self, change: Change) -> Result<(), FilesError> {
        super::path::names(&change.key)?;
        let head = match change.value {
            None => None,
            Some(value) => {
                let entry = decode(&change.key, &value.head)?;
                if !entry.is_directory() {
                    let name = self.staged.to_string();
                    self.staged += 1;
                    let bytes = reader(&change.key, value.content)?;
                    self.writer
                        .write(self.folder.as_fd(), &name, &entry, bytes)
                        .map_err(|error| error.at(&change.key, self.at(&change.key)))?;
                }
                Some(value.head)
            }
        };
        self.journal
            .push(&change.key, head.as_deref())
            .map_err(|source| FilesError::Spool { source })
    }

    /// The path of a key in the target.
    pub(super) fn at(&self, key: &[u8]) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(&path_bytes(key)))
    }

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), FilesError> {
        rustix::fs::syncfs(&self.root).map_err(|error| FilesError::Target {
            doing: "sync",
            path: self.path.clone(),
            source: error.into(),
        })
    }

    /// Removes the staging folder and gives the root its time back.
    pub(super) fn remove(&self) -> Result<(), FilesError> {
        remove_flat(&self.root, &self.name, &self.folder)
            .and_then(|()| rustix::fs::futimens(&self.root, &modified(mtime_of(&self.before))))
            .map_err(|error| FilesError::Target {
                doing: "remove the staging folder in",
                path: self.path.clone(),
                source: error.into(),
            })
    }
}

pub(super) fn decode(key: &[u8], head: &[u8]) -> Result<Entry, FilesError> {
    Entry::decode(head).map_err(|source| FilesError::Entry { path: display_key(key), source })
}

fn reader(key: &[u8], content: Content) -> Result<Box<dyn Read + Send>, FilesError> {
    match content {
        Content::Inline(bytes) => Ok(Box::new(io::Cursor::new(bytes))),
        Content::Reader(reader) => Ok(reader),
        Content::Stored(_) => Err(FilesError::Contract {
            path: display_key(key),
            reason: "its content was not fetched",
        }),
    }
}

/// Removes the staging folders of restores that were cut short; fails if one is alive.
fn remove_debris(path: &Path, root: &OwnedFd) -> Result<(), FilesError> {
    let error = |source| FilesError::Target {
        doing: "remove an old staging folder in",
        path: path.to_owned(),
        source,
    };
    for entry in rustix::fs::Dir::read_from(root).map_err(|e| error(e.into()))? {
        let entry = entry.map_err(|e| error(e.into()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(STAGING_PREFIX) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(root, name.as_str(), flags, Mode::empty())
            .map_err(|e| error(e.into()))?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => remove_flat(root, &name, &folder).map_err(|e| error(e.into()))?,
            Err(Errno::WOULDBLOCK) => return Err(FilesError::Busy { path: path.to_owned() }),
            Err(e) => return Err(error(e.into())),
        }
    }
    Ok(())
}

/// Removes a folder that holds no folders.
fn remove_flat(parent: &OwnedFd, name: &str, folder: &OwnedFd) -> rustix::io::Result<()> {
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            rustix::fs::unlinkat(folder, entry.file_name(), AtFlags::empty())?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
