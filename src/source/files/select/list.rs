//! Files and folders that were named one by one: as many as there may be, so neither the list nor
//! the walk over it is in memory. The sorted list and the walk are in the same order, and are gone
//! through side by side.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::iter::Peekable;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use globset::Candidate;

use super::{Wanted, compile, is_glob};
use crate::hint::Failure;
use crate::source::files::FilesError;
use crate::source::files::path::{key_of, path_bytes};
use crate::source::files::spool::{Spool, SpoolIter};
use crate::source::sort::{BUDGET, Duplicates, Sorter};
use crate::tree::{Change, Changes, Content, Key};

/// Collects the paths of a list, in any order.
#[derive(Debug)]
pub struct PathList {
    /// The keys of whole paths.
    sorter: Sorter,
    /// The deepest folder above all of them.
    base: Option<Key>,
    count: u64,
    /// The folder of the last path, as it was named and as it really is.
    folder: (PathBuf, PathBuf),
}

impl PathList {
    /// A list without paths.
    pub fn new() -> Self {
        let sorter = Sorter::new(BUDGET, Duplicates::Number);
        Self { sorter, base: None, count: 0, folder: Default::default() }
    }

    /// Adds an absolute path. Links and `..` on the way to it are resolved; what it names itself
    /// may be a link, and need not be there.
    pub fn push(&mut self, path: &Path) -> Result<(), Failure> {
        let key = key_of(self.real(path).strip_prefix("/").unwrap_or(path));
        let key =
            key.ok_or_else(|| FilesError::PatternPath { pattern: path.display().to_string() })?;
        let folder = parent(&key);
        let shared = self.base.as_deref().map_or(folder, |base| common(base, folder));
        self.base = Some(shared.to_vec());
        self.count += 1;
        Ok(self.sorter.push(&key, &[])?)
    }

    /// Adds what an absolute pattern matches: `*`, `?`, `[…]` and `{…}`, each within one name. One
    /// that matches nothing is added as it is, and so will be missed.
    pub fn push_pattern(&mut self, pattern: &Path) -> Result<(), Failure> {
        let names: Vec<&OsStr> = pattern.iter().skip(1).collect();
        let before = self.count;
        if names.iter().any(|name| name.to_str().is_some_and(is_glob)) {
            self.expand(PathBuf::from("/"), &names, pattern)?;
        }
        if self.count == before { self.push(pattern) } else { Ok(()) }
    }

    fn expand(&mut self, path: PathBuf, names: &[&OsStr], all: &Path) -> Result<(), Failure> {
        let Some((name, rest)) = names.split_first() else {
            return if fs::symlink_metadata(&path).is_ok() { self.push(&path) } else { Ok(()) };
        };
        let Some(glob) = name.to_str().filter(|name| is_glob(name)) else {
            return self.expand(path.join(name), rest, all);
        };
        let glob = compile(glob, &all.to_string_lossy())?;
        // A folder that cannot be listed holds nothing that anybody could read.
        let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
        for entry in entries.filter_map(Result::ok) {
            if glob.is_match_candidate(&Candidate::from_bytes(entry.file_name().as_bytes())) {
                self.expand(entry.path(), rest, all)?;
            }
        }
        Ok(())
    }

    /// The deepest folder that is above all paths.
    pub fn base(&self) -> PathBuf {
        let base = path_bytes(self.base.as_deref().unwrap_or_default());
        OsString::from_vec([b"/", base.as_slice()].concat()).into()
    }

    /// Whether no path was added.
    pub const fn is_empty(&self) -> bool {
        self.base.is_none()
    }

    fn real(&mut self, path: &Path) -> PathBuf {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        };
        if self.folder.0 != folder {
            let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
            self.folder = (folder.to_owned(), real);
        }
        self.folder.1.join(name)
    }

    /// The folder that keys are relative to, and the list of keys without what is below another.
    pub(in crate::source::files) fn finish(self) -> Result<(PathBuf, List), Failure> {
        let root = self.base();
        let base = self.base.map_or(0, |base| base.len());
        let prefix = if base == 0 { 0 } else { base + 1 };
        let mut list = List::default();
        let mut last: Option<Key> = None;
        for entry in self.sorter.finish()? {
            let (mut key, _) = entry?;
            // Equal ones were numbered by the sorter.
            key.truncate(key.len() - size_of::<u32>());
            if !last.as_deref().is_some_and(|last| is_within(&key, last)) {
                list.push(&key[prefix.min(key.len())..])?;
                last = Some(key);
            }
        }
        Ok((root, list))
    }
}

impl Default for PathList {
    fn default() -> Self {
        Self::new()
    }
}

/// Sorted keys, none of them below another.
#[derive(Debug)]
pub(in crate::source::files) struct List {
    keys: Spool,
    pub(super) has_root: bool,
}

impl Default for List {
    fn default() -> Self {
        Self { keys: Spool::new(), has_root: false }
    }
}

impl List {
    /// Appends a key.
    pub(in crate::source::files) fn push(&mut self, key: &[u8]) -> Result<(), FilesError> {
        self.has_root |= key.is_empty();
        self.keys.push(key, Some(&[])).map_err(|source| FilesError::Spool { source })
    }

    /// The keys as the entries of a tree.
    pub(in crate::source::files) fn entries(&mut self) -> Result<Changes<'_>, FilesError> {
        let keys = self.keys.changes().map_err(|source| FilesError::Spool { source })?;
        Ok(Box::new(keys.map(|entry| {
            let (key, _) = entry.map_err(|source| FilesError::Spool { source })?;
            Ok(Change::put(key, [], Content::empty()))
        })))
    }

    pub(super) fn cursor(&mut self) -> Result<Cursor<'_>, FilesError> {
        let keys = self.keys.changes().map_err(|source| FilesError::Spool { source })?;
        Ok(Cursor { keys: keys.peekable(), found: false, missing: Vec::new() })
    }
}

/// Goes through a list beside a walk.
pub(super) struct Cursor<'a> {
    keys: Peekable<SpoolIter<'a>>,
    /// Whether the walk came to the key that the cursor is at.
    found: bool,
    /// Keys that the walk has passed and did not come to; the caller takes them.
    pub(super) missing: Vec<Key>,
}

impl Cursor<'_> {
    /// What becomes of a key. Keys have to be asked for in their order.
    pub(super) fn wanted(&mut self, key: &[u8]) -> Wanted {
        while let Some(Ok((listed, _))) = self.keys.peek() {
            if is_within(key, listed) {
                self.found = true;
                return Wanted { itself: true, below: true };
            }
            if is_within(listed, key) {
                return Wanted { itself: false, below: true };
            }
            if listed.as_slice() > key {
                break;
            }
            self.next();
        }
        Wanted { itself: false, below: false }
    }

    /// Passes over everything listed below a folder that was left out.
    pub(super) fn leave_out(&mut self, folder: &[u8]) {
        while let Some(Ok((listed, _))) = self.keys.peek()
            && is_within(listed, folder)
        {
            self.found = true;
            self.next();
        }
    }

    fn next(&mut self) {
        if let Some(Ok((key, _))) = self.keys.next()
            && !std::mem::take(&mut self.found)
        {
            self.missing.push(key);
        }
    }

    /// Passes over one key that is left at the end; `false` if there was none.
    pub(super) fn finish(&mut self) -> Result<bool, FilesError> {
        match self.keys.peek() {
            None => return Ok(false),
            Some(Ok(_)) => self.next(),
            Some(Err(_)) => {
                self.keys.next().transpose().map_err(|source| FilesError::Spool { source })?;
            }
        }
        Ok(true)
    }
}

impl std::fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("found", &self.found).finish_non_exhaustive()
    }
}

/// Whether a key is another one or below it.
fn is_within(key: &[u8], top: &[u8]) -> bool {
    top.is_empty()
        || key.strip_prefix(top).is_some_and(|rest| rest.first().is_none_or(|&byte| byte == 0))
}

fn parent(key: &[u8]) -> &[u8] {
    key.iter().rposition(|&byte| byte == 0).map_or(&[], |end| &key[..end])
}

/// The key of the deepest folder that is above both or one of them.
fn common<'k>(a: &'k [u8], b: &[u8]) -> &'k [u8] {
    let mut shared = a;
    while !is_within(b, shared) {
        shared = parent(shared);
    }
    shared
}
