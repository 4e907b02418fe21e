//! Directories and configuration files: one tree of entries keyed by path, and beside it what
//! `stat` said of each, so that the next capture reads only what has changed.
//!
//! The two are apart because they promise different things. The tree named "" holds what a
//! restore brings back; its root hash is the proof. The aid named `stat` holds what no restore
//! can bring back (inode, change time) and would make equal directories look different.

mod capture;
mod commit;
mod directory;
mod entry;
mod path;
mod reading;
mod select;
mod spool;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use directory::Directory;
pub use entry::{Attribute, Device, Entry, EntryError, EntryKind};
pub use path::{display_key, key_of};

use self::capture::Capture;
use self::reading::Unread;
use self::select::Selection;
use self::spool::Spool;
use self::walk::Walk;
use super::{Delta, Description, Kind, Parent, Source, TreeInfo};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint};
use crate::tree::{Change, Changes, Content, Value};

/// The tree of all entries.
const TREE: &str = "";
/// The aid: the fingerprint of each entry, under the same key.
const STAT: &str = "stat";

/// What of a directory is captured; all of it unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct FilesOptions {
    /// Globs of what to leave out. One without a slash is for names anywhere; one with a slash
    /// is for paths below the root. A directory that matches is left out with all below it.
    pub exclude: Vec<String>,
    /// Whether other file systems mounted below the root are left out. Their mount points stay.
    pub one_file_system: bool,
}

/// Files below a directory as a [`Source`].
#[derive(Debug)]
pub struct Files {
    kind: Kind,
    name: String,
    root: PathBuf,
    header: Header,
    selection: Selection,
    /// The changed fingerprints of a capture under way, and whether they are all there are.
    spool: Option<(Spool, bool)>,
    /// The files of a capture under way that turned out unreadable after their fingerprint was
    /// kept.
    unread: Unread,
    /// Whether this is what a restore finds: then a file that is not there is about to be.
    is_target: bool,
}

/// What the description says of the source, so that it can be read in the same way elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Header {
    /// A whole directory.
    Storage { path: String, options: FilesOptions },
    /// The files below `base` that match a pattern.
    Configuration { base: String, patterns: Vec<String> },
}

impl Files {
    /// All files of a directory.
    pub fn new(
        kind: Kind,
        name: impl Into<String>,
        root: impl Into<PathBuf>,
        options: FilesOptions,
    ) -> Result<Self, FilesError> {
        let root = root.into();
        let path = root.to_string_lossy().into_owned();
        Self::with_header(kind, name.into(), root, Header::Storage { path, options })
    }

    /// Configuration files: absolute paths and globs. Their keys are relative to the deepest
    /// directory above all of them. Only the files themselves are entries: a restore creates
    /// directories that are missing, and leaves alone those that are there.
    pub fn configuration(name: impl Into<String>, patterns: &[String]) -> Result<Self, FilesError> {
        let (base, patterns) = select::common_base(patterns)?;
        let root = PathBuf::from(&base);
        let header = Header::Configuration { base, patterns };
        Self::with_header(Kind::Configuration, name.into(), root, header)
    }

    /// The same choice of files as that of the source with this description, below `root`, or
    /// where it was captured if that is `None`: for a restore.
    pub fn described(
        kind: Kind,
        name: impl Into<String>,
        description: &Description,
        root: Option<&Path>,
    ) -> Result<Self, FilesError> {
        let mut header: Header = serde_json::from_slice(&description.header)
            .map_err(|source| FilesError::Header { source })?;
        let (Header::Storage { path, .. } | Header::Configuration { base: path, .. }) = &mut header;
        if let Some(root) = root {
            // What is captured there, before a restore, was there and not where it came from.
            *path = root.to_string_lossy().into_owned();
        }
        let root = PathBuf::from(&*path);
        Self::with_header(kind, name.into(), root, header)
    }

    /// The directory that keys are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn with_header(
        kind: Kind,
        name: String,
        root: PathBuf,
        header: Header,
    ) -> Result<Self, FilesError> {
        let selection = match &header {
            Header::Storage { options, .. } => Selection::except(options)?,
            Header::Configuration { patterns, .. } => Selection::only(patterns)?,
        };
        Ok(Self {
            kind,
            name,
            root,
            header,
            selection,
            spool: None,
            unread: Unread::default(),
            is_target: false,
        })
    }

    fn entries<'a>(
        &'a mut self,
        before: Option<Changes<'a>>,
        ctx: &'a Context,
    ) -> Result<Changes<'a>, Failure> {
        // The time must be older than anything that is looked at: see `Fingerprint::encode`.
        let start = ctx.clock.now();
        ctx.phase(format!("reading {}", self.root.display()), None);
        let root = walk::open_root(&self.root)?;
        let mut walk = Walk::new(root, &self.selection, ctx)
            .map_err(|source| FilesError::Root { path: self.root.clone(), source })?;
        if self.is_target {
            walk.expect_nothing();
        }
        let (spool, _) = self.spool.insert((Spool::new(), before.is_none()));
        let unread = self.unread.clone();
        Ok(Box::new(Capture::new(walk, before, spool, unread, start, ctx)))
    }

    fn fingerprints(&mut self) -> Result<Delta<'_>, Failure> {
        let Some((spool, complete)) = &mut self.spool else {
            return Err(FilesError::StatBeforeFiles.into());
        };
        let error = |source| Failure::from(FilesError::Spool { source });
        let unread = self.unread.take();
        let changes = spool.changes().map_err(error)?.map(move |item| {
            let (key, head) = item.map_err(error)?;
            let head = head.filter(|_| !unread.contains(&key));
            Ok(Change { key, value: head.map(|head| Value { head, content: Content::empty() }) })
        });
        let changes: Changes<'_> = Box::new(changes);
        Ok(if *complete { Delta::Everything(changes) } else { Delta::SinceParent(changes) })
    }
}

impl Source for Files {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&mut self, _ctx: &Context) -> Result<Description, Failure> {
        walk::open_root(&self.root)?;
        let tree =
            |name: &str| TreeInfo { name: name.to_owned(), header: Vec::new(), estimate: None };
        let header =
            serde_json::to_vec(&self.header).map_err(|source| FilesError::Header { source })?;
        Ok(Description {
            header,
            trees: vec![tree(TREE)],
            aids: vec![tree(STAT)],
            ..Description::default()
        })
    }

    /// The entries since the parent are told by the parent's fingerprints; a parent without them
    /// (from a package) is no help, and everything is read.
    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        parent: Option<&'a dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        if tree.name == STAT {
            return self.fingerprints();
        }
        let before = parent.map(|parent| parent.entries(STAT)).transpose()?.flatten();
        let since_parent = before.is_some();
        let changes = self.entries(before, ctx)?;
        Ok(if since_parent { Delta::SinceParent(changes) } else { Delta::Everything(changes) })
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.spool = None;
        Ok(())
    }
}

/// Why files could not be captured or restored.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The directory itself cannot be read.
    #[error("cannot read the directory {}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pattern is no glob.
    #[error("`{pattern}` is not a pattern")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: globset::Error,
    },
    /// A pattern is not an absolute path.
    #[error("`{pattern}` is not an absolute path of a file, or has `..` in it")]
    PatternPath {
        /// The pattern.
        pattern: String,
    },
    /// The temporary list of fingerprints or changes cannot be written or read.
    #[error("cannot use a temporary file")]
    Spool {
        /// Why.
        source: io::Error,
    },
    /// The fingerprints were asked for before the entries.
    #[error("the fingerprints of the files are known only after the files were read")]
    StatBeforeFiles,
    /// A description is not one of files.
    #[error("not the description of a directory or of configuration files")]
    Header {
        /// Why.
        source: serde_json::Error,
    },
    /// A value is not one of a file.
    #[error("the snapshot's entry for {path} is damaged")]
    Entry {
        /// Which file.
        path: String,
        /// What is wrong with it.
        source: EntryError,
    },
    /// A path that leads elsewhere.
    #[error("refused: `{path}` is not a path below the target")]
    HostilePath {
        /// The path.
        path: String,
    },
    /// A parent of a file to be written is not a directory.
    #[error("refused: {} is not a directory but a link or a file", path.display())]
    NotADirectory {
        /// The parent.
        path: PathBuf,
    },
    /// Something could not be changed in the target.
    #[error("cannot {doing} {}", path.display())]
    Target {
        /// The verb: "write", "remove".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content of a file could not be fetched.
    #[error("cannot fetch the content of {path}")]
    Content {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The engine handed over something that this target cannot use.
    #[error("the restore of {path} went wrong: {reason}")]
    Contract {
        /// The file.
        path: String,
        /// What was not as agreed.
        reason: &'static str,
    },
    /// Another restore is at work.
    #[error("another restore is writing to {}", path.display())]
    Busy {
        /// The target.
        path: PathBuf,
    },
}

impl Hint for FilesError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Pattern { .. } | Self::PatternPath { .. } => ErrorKind::Usage,
            Self::Entry { .. } | Self::Header { .. } | Self::HostilePath { .. } => {
                ErrorKind::Damage
            }
            Self::Busy { .. } => ErrorKind::Busy,
            _ => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Root { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("create it, or correct `path` in coeval.toml".to_owned())
            }
            Self::Root { .. } => Some("run as a user who may read it".to_owned()),
            Self::PatternPath { .. } => {
                Some("write the whole path, as /app/.env or /app/settings/*.py".to_owned())
            }
            Self::NotADirectory { .. } => {
                Some("restore into another directory with `--target DIR`".to_owned())
            }
            Self::Target { .. } => Some(
                "put the cause right and restore again: what is in place already is kept"
                    .to_owned(),
            ),
            Self::Busy { .. } => Some("wait until it is done".to_owned()),
            Self::Entry { .. } => {
                Some("see what else is affected with `coeval check --read-data`".to_owned())
            }
            _ => None,
        }
    }
}
