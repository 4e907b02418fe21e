//! Directories and configuration files: one tree of entries keyed by path, and beside it what
//! `stat` said of each, so that the next capture reads only what has changed.
//!
//! The two are apart because they promise different things. The tree named "" holds what a
//! restore brings back; its root hash is the proof. The aid named `stat` holds what no restore
//! can bring back (inode, change time) and would make equal directories look different.

mod attributes;
mod batch;
mod capture;
mod commit;
mod directory;
mod entry;
mod links;
mod listing;
mod losses;
mod metadata;
mod owners;
mod path;
mod reading;
mod select;
mod sparse;
mod stage;
mod staging;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::hash::Hasher as _;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

pub use directory::Directory;
pub use entry::{Attribute, Device, Entry, EntryError, EntryKind};
pub use owners::{Owners, group_number, user_number};
pub use path::{display_key, escape, key_of, parse_key};
pub use select::{PathFilter, PathList, ResolvedList, patterns_in};

use self::capture::Capture;
use self::entry::Fingerprint;
use self::owners::Numbers;
use self::reading::Unread;
use self::select::{LeftOutKeys, List, Selection};
use self::walk::Walk;
use super::spool::Spool;
use super::{Delta, Description, Glance, Kind, Parent, Source, TreeInfo};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint};
use crate::id::{hex, unhex};
use crate::report::Silent;
use crate::time::Timestamp;
use crate::tree::{Change, Changes, Content, Value};

/// The tree of all entries.
const TREE: &str = "";
/// The aid: the fingerprint of each entry, under the same key.
const STAT: &str = "stat";
/// The aid: the names of owners and groups; see [`Owners`].
pub(crate) const OWNERS: &str = "owners";
/// The aid of a source that leaves something out for what it finds: the keys of that.
pub(crate) const LEFT_OUT: &str = "left-out";
/// The aid of a source that is a list: the keys that were listed.
pub(crate) const LIST: &str = "list";

/// What of a directory is captured; all of it unless said otherwise. The names of the fields are
/// those of the options of `backup`; those in a snapshot are in `docs/FORMAT.md`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct FilesOptions {
    /// What the first version left out. Snapshots keep it, nobody writes it any more.
    #[serde(rename = "exclude")]
    pub globs: Vec<String>,
    /// Whether other file systems mounted below the root are left out. Their mount points stay.
    pub one_file_system: bool,
    /// What to leave out, as lines of a `.gitignore` in the root.
    #[serde(rename = "ignore", skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The same for upper and lower case alike; these stand after the others.
    #[serde(rename = "ignore-any-case", skip_serializing_if = "Vec::is_empty")]
    pub iexclude: Vec<String>,
    /// Folders with a file of this name, `NAME` or `NAME:HEADER` with the beginning that the file
    /// must have: only folder and file are captured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_if_present: Vec<String>,
    /// Whether the same is done for `CACHEDIR.TAG`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exclude_caches: bool,
    /// The size in bytes that a regular file may have at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_larger_than: Option<u64>,
}

/// Files below a directory as a [`Source`].
#[derive(Debug)]
pub struct Files {
    kind: Kind,
    name: String,
    root: PathBuf,
    header: Header,
    selection: Selection,
    /// What a capture under way has seen, for the aids.
    seen: Option<Seen>,
    /// The files of a capture under way that turned out unreadable after their fingerprint was
    /// kept.
    unread: Unread,
    /// Whether this is what a restore finds: then a file that is not there is about to be.
    is_target: bool,
}

/// What a capture of the entries leaves for the aids.
#[derive(Debug)]
struct Seen {
    /// The changed fingerprints.
    spool: Spool,
    /// Whether they are all there are.
    complete: bool,
    /// All owners.
    numbers: Numbers,
    /// What `stat` said of everything.
    state: State,
}

/// What the description says of the source, so that it can be read in the same way elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Header {
    /// A whole directory.
    Storage {
        path: String,
        /// The bytes of the path in hexadecimal, where they are not UTF-8.
        #[serde(default, rename = "path-hex", skip_serializing_if = "Option::is_none")]
        exact: Option<String>,
        options: FilesOptions,
    },
    /// What was named one by one below a directory; the aid `list` says what.
    Listed {
        path: String,
        #[serde(default, rename = "path-hex", skip_serializing_if = "Option::is_none")]
        exact: Option<String>,
        options: FilesOptions,
    },
    /// The files below `base` that match a pattern.
    Configuration { base: String, patterns: Vec<String> },
}

impl Header {
    /// The directory that keys are relative to.
    fn root(&self) -> PathBuf {
        let (Self::Storage { path, .. }
        | Self::Listed { path, .. }
        | Self::Configuration { base: path, .. }) = self;
        match self {
            Self::Storage { exact: Some(exact), .. } | Self::Listed { exact: Some(exact), .. } => {
                unhex(exact)
                    .map_or_else(|| PathBuf::from(path), |bytes| OsString::from_vec(bytes).into())
            }
            _ => PathBuf::from(path),
        }
    }

    fn move_to(&mut self, root: &Path) {
        match self {
            Self::Storage { path, exact, .. } | Self::Listed { path, exact, .. } => {
                *path = root.to_string_lossy().into_owned();
                *exact = root.to_str().is_none().then(|| hex(root.as_os_str().as_bytes()));
            }
            Self::Configuration { base, .. } => *base = root.to_string_lossy().into_owned(),
        }
    }
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
        let mut header = Header::Storage { path: String::new(), exact: None, options };
        header.move_to(&root);
        Self::with_header(kind, name.into(), root, header)
    }

    /// Files and folders that were named one by one, the folders with all that is below them.
    /// Keys are relative to their deepest common folder; what is on the way from there to what was
    /// named is no entry.
    pub fn listed(
        name: impl Into<String>,
        list: ResolvedList,
        options: FilesOptions,
    ) -> Result<Self, Failure> {
        let root = list.base().to_owned();
        let selection = Selection::listed(list.keys, &options)?;
        let mut header = Header::Listed { path: String::new(), exact: None, options };
        header.move_to(&root);
        let files = Self::with_header(Kind::Storage, name.into(), root, header)?;
        Ok(Self { selection, ..files })
    }

    /// Gives a [described](Self::described) source the list that was captured with it: without,
    /// a source of that kind is empty.
    pub(crate) fn with_list(mut self, entries: Changes<'_>) -> Result<Self, Failure> {
        if let Some(list) = self.selection.list() {
            for entry in entries {
                list.push(&entry?.key)?;
            }
        }
        Ok(self)
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
    /// where it was captured if that is `None`: for a restore. What was left out for what was
    /// found then is [given](Self::with_left_out); sizes and tags of today leave out nothing.
    pub fn described(
        kind: Kind,
        name: impl Into<String>,
        description: &Description,
        root: Option<&Path>,
    ) -> Result<Self, FilesError> {
        let mut header: Header = serde_json::from_slice(&description.header)
            .map_err(|source| FilesError::Header { source })?;
        if let Some(root) = root {
            // What is captured there, before a restore, was there and not where it came from.
            header.move_to(root);
        }
        let root = root.map_or_else(|| header.root(), Path::to_owned);
        if root.as_os_str().is_empty() {
            return Err(FilesError::NoPlace);
        }
        let mut files = Self::with_header(kind, name.into(), root, header)?;
        files.selection.ignore_what_is_found();
        Ok(files)
    }

    /// Leaves out what was left out when the [described](Self::described) source was captured,
    /// since it was too large then or in a tagged folder.
    pub(crate) fn with_left_out(mut self, entries: Changes<'_>) -> Result<Self, Failure> {
        self.selection.give_left_out(entries)?;
        Ok(self)
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
            Header::Listed { options, .. } => Selection::listed(List::default(), options)?,
            Header::Configuration { patterns, .. } => Selection::only(patterns)?,
        };
        let unread = Unread::default();
        Ok(Self { kind, name, root, header, selection, seen: None, unread, is_target: false })
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
        let mut walk = Walk::new(root, &mut self.selection, ctx)
            .map_err(|source| FilesError::Root { path: self.root.clone(), source })?;
        if self.is_target {
            walk.expect_nothing();
        }
        let complete = before.is_none();
        let state = State::new(start);
        let seen = Seen { spool: Spool::new(), complete, numbers: Numbers::default(), state };
        let seen = self.seen.insert(seen);
        let unread = self.unread.clone();
        Ok(Box::new(Capture::new(walk, before, seen, unread, start, ctx)))
    }

    fn fingerprints(&mut self) -> Result<Delta<'_>, Failure> {
        let Some(Seen { spool, complete, .. }) = &mut self.seen else {
            return Err(FilesError::AidBeforeFiles.into());
        };
        let error = |source| Failure::from(FilesError::Spool { source });
        let unread = self.unread.take();
        let changes = spool.read().map_err(error)?.map(move |item| {
            let (key, head) = item.map_err(error)?;
            let head = head.filter(|_| !unread.contains(&key));
            Ok(Change { key, value: head.map(|head| Value { head, content: Content::empty() }) })
        });
        let changes: Changes<'_> = Box::new(changes);
        Ok(if *complete { Delta::Everything(changes) } else { Delta::SinceParent(changes) })
    }

    fn owners<'a>(&'a self, ctx: &'a Context) -> Result<Delta<'a>, Failure> {
        let Some(Seen { numbers, .. }) = &self.seen else {
            return Err(FilesError::AidBeforeFiles.into());
        };
        Ok(Delta::Everything(Box::new(numbers.changes(ctx).map(Ok))))
    }
}

/// The header of a directory that was nowhere, as that of a package from elsewhere.
pub(crate) fn directory_without_place() -> Result<Vec<u8>, FilesError> {
    let options = FilesOptions::default();
    encoded(&Header::Storage { path: String::new(), exact: None, options })
}

/// The header of a list of files that were nowhere.
pub(super) fn header_without_place() -> Result<Vec<u8>, FilesError> {
    let options = FilesOptions::default();
    encoded(&Header::Listed { path: String::new(), exact: None, options })
}

fn encoded(header: &Header) -> Result<Vec<u8>, FilesError> {
    serde_json::to_vec(header).map_err(|source| FilesError::Header { source })
}

impl Source for Files {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn begin(
        &mut self,
        _parent: Option<&dyn Parent>,
        _ctx: &Context,
    ) -> Result<Description, Failure> {
        walk::open_root(&self.root)?;
        let tree =
            |name: &str| TreeInfo { name: name.to_owned(), header: Vec::new(), estimate: None };
        let header = encoded(&self.header)?;
        Ok(Description {
            header,
            trees: vec![tree(TREE)],
            aids: [
                self.selection.left_out().map(|_| LEFT_OUT),
                self.selection.list().map(|_| LIST),
                Some(OWNERS),
                Some(STAT),
            ]
            .into_iter()
            .flatten()
            .map(tree)
            .collect(),
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
        match tree.name.as_str() {
            STAT => return self.fingerprints(),
            OWNERS => return self.owners(ctx),
            LEFT_OUT | LIST => {
                let entries = if tree.name == LIST {
                    self.selection.list().map(List::entries)
                } else {
                    self.selection.left_out().map(LeftOutKeys::entries)
                };
                let entries = entries.transpose()?;
                return Ok(Delta::Everything(
                    entries.unwrap_or_else(|| Box::new(std::iter::empty())),
                ));
            }
            _ => {}
        }
        let before = parent.map(|parent| parent.entries(STAT)).transpose()?.flatten();
        let since_parent = before.is_some();
        let changes = self.entries(before, ctx)?;
        Ok(if since_parent { Delta::SinceParent(changes) } else { Delta::Everything(changes) })
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.seen = None;
        Ok(())
    }

    fn glance(&mut self, ctx: &Context) -> Result<Glance, Failure> {
        // What is passed over is reported when it is captured.
        let quiet = Context { reporter: Arc::new(Silent), ..ctx.clone() };
        let mut state = State::new(ctx.clock.now());
        let root = walk::open_root(&self.root)?;
        let mut walk = Walk::new(root, &mut self.selection, &quiet)
            .map_err(|source| FilesError::Root { path: self.root.clone(), source })?;
        while walk.peek().is_some() {
            ctx.check_cancelled()?;
            let Some(found) = walk.take() else { break };
            state.note(walk.key(), &found.stat);
            walk.pass(&found);
        }
        walk.finish()?;
        Ok(state.glance())
    }

    fn glance_of_read(&self) -> Glance {
        self.seen.as_ref().map_or(Glance::Unable, |seen| seen.state.glance())
    }
}

/// What `stat` says of everything, in a digest.
#[derive(Debug)]
struct State {
    digest: SipHasher13,
    start: Timestamp,
    /// Whether something changed so shortly before that a further change may leave the same time.
    unsettled: bool,
    fingerprint: Vec<u8>,
}

impl State {
    fn new(start: Timestamp) -> Self {
        Self { digest: SipHasher13::new(), start, unsettled: false, fingerprint: Vec::new() }
    }

    fn note(&mut self, key: &[u8], stat: &Stat) {
        let fingerprint = Fingerprint::of(stat);
        self.unsettled |= fingerprint.is_young(self.start);
        fingerprint.write_to(&mut self.fingerprint);
        self.digest.write_usize(key.len());
        self.digest.write(key);
        self.digest.write(&self.fingerprint);
    }

    fn glance(&self) -> Glance {
        if self.unsettled {
            return Glance::Unsettled;
        }
        Glance::State(self.digest.finish128().as_u128())
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
    /// A pattern means nothing.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
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
    /// An aid was asked for before the entries.
    #[error("fingerprints and owners of the files are known only after the files were read")]
    AidBeforeFiles,
    /// What came through a pipe has no place to go back to.
    #[error("it came through a pipe, and was in no directory")]
    NoPlace,
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
    /// The list of what could not be restored cannot be kept.
    #[error("cannot keep the list of what could not be restored")]
    Losses(#[from] crate::source::sort::SortError),
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
            Self::Pattern { .. } | Self::PatternPath { .. } | Self::NoPlace => ErrorKind::Usage,
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
            Self::NoPlace => Some(
                "write it into a directory with `--target DIR`, or print it with `coeval cat`"
                    .to_owned(),
            ),
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
