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
use crate::source::files::path::{child, key_of, path_bytes};
use crate::source::sort::{BUDGET, Duplicates, SortError, Sorted, Sorter};
use crate::source::spool::{Spool, SpoolIter};
use crate::tree::{Change, Changes, Content, Key};

/// Collects the paths of a list, in any order.
#[derive(Debug)]
pub struct PathList {
    /// The names on the way to each, joined like those of a key; some may be `..`.
    sorter: Sorter,
    count: u64,
}

impl PathList {
    /// A list without paths.
    pub fn new() -> Self {
        Self { sorter: Sorter::new(BUDGET, Duplicates::Number), count: 0 }
    }

    /// Adds an absolute path, which need not be there.
    pub fn push(&mut self, path: &Path) -> Result<(), Failure> {
        if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
            return Err(FilesError::PatternPath { pattern: path.display().to_string() }.into());
        }
        let names: Vec<&[u8]> = path.iter().skip(1).map(OsStr::as_bytes).collect();
        self.count += 1;
        Ok(self.sorter.push(&names.join(&0), &[])?)
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

    /// Whether no path was added.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Resolves links and `..` on the way to each path; what the path itself names may be a link.
    pub fn resolve(self) -> Result<ResolvedList, Failure> {
        let mut folders = Folders::default();
        let mut real = Sorter::new(BUDGET, Duplicates::Number);
        let mut base: Option<Key> = None;
        for named in without_numbers(self.sorter.finish()?) {
            let key = folders.resolve(&named?);
            let shared = base.as_deref().map_or(parent(&key), |base| common(base, parent(&key)));
            if base.as_deref() != Some(shared) {
                base = Some(shared.to_vec());
            }
            real.push(&key, &[])?;
        }
        let base = base.unwrap_or_default();
        let prefix = if base.is_empty() { 0 } else { base.len() + 1 };
        let mut keys = List::default();
        let mut last: Option<Key> = None;
        for key in without_numbers(real.finish()?) {
            let key = key?;
            if !last.as_deref().is_some_and(|last| is_within(&key, last)) {
                keys.push(&key[prefix.min(key.len())..])?;
                last = Some(key);
            }
        }
        Ok(ResolvedList { base: absolute(&base), keys })
    }
}

/// The keys of a sorter that numbers equal ones.
fn without_numbers(sorted: Sorted) -> impl Iterator<Item = Result<Key, SortError>> {
    sorted.map(|entry| {
        let (mut key, _) = entry?;
        key.truncate(key.len() - size_of::<u32>());
        Ok(key)
    })
}

/// The folders on the way to the path at hand. Paths come in order, so each folder is looked at
/// once, however many paths go through it.
#[derive(Debug, Default)]
struct Folders {
    /// The deepest of them, as it was named.
    named: Key,
    /// Where the name of each ends, and what its key really is.
    levels: Vec<(usize, Key)>,
}

impl Folders {
    /// How many of them are remembered: those below are looked at for each path.
    const LEVELS: usize = 256;

    /// The key of a path by its real folders.
    fn resolve(&mut self, named: &[u8]) -> Key {
        let (folder, name) = match parent(named) {
            _ if named.is_empty() || last_name(named) == b".." => (named, None),
            folder => (folder, Some(last_name(named))),
        };
        while self.levels.pop_if(|(end, _)| !is_within(folder, &self.named[..*end])).is_some() {}
        let known = self.levels.last().map_or(0, |(end, _)| *end);
        self.named.truncate(known);
        let mut real = self.levels.last().map_or_else(Key::new, |(_, real)| real.clone());
        for name in folder[known..].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            real = step(&real, name);
            if self.levels.len() < Self::LEVELS {
                self.named = child(&self.named, name);
                self.levels.push((self.named.len(), real.clone()));
            }
        }
        match name {
            Some(name) => child(&real, name),
            None => real,
        }
    }
}

/// The real key of what a name in a real folder leads to. What is not there, or cannot be looked
/// at, stays as it was named: the walk will miss it.
fn step(folder: &[u8], name: &[u8]) -> Key {
    if name == b".." {
        return parent(folder).to_vec();
    }
    let named = child(folder, name);
    let path = absolute(&named);
    let real = fs::read_link(&path).and_then(|_| fs::canonicalize(&path));
    real.ok().and_then(|real| key_of(real.strip_prefix("/").ok()?)).unwrap_or(named)
}

fn absolute(key: &[u8]) -> PathBuf {
    OsString::from_vec([b"/", path_bytes(key).as_slice()].concat()).into()
}

fn last_name(key: &[u8]) -> &[u8] {
    key.rsplit(|&byte| byte == 0).next().unwrap_or_default()
}

impl Default for PathList {
    fn default() -> Self {
        Self::new()
    }
}

/// The paths of a list, as they really are and sorted, without those below another.
#[derive(Debug)]
pub struct ResolvedList {
    base: PathBuf,
    pub(in crate::source::files) keys: List,
}

impl ResolvedList {
    /// The deepest folder that is above all of them: keys are relative to it.
    pub fn base(&self) -> &Path {
        &self.base
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
        let keys = self.keys.read().map_err(|source| FilesError::Spool { source })?;
        Ok(Box::new(keys.map(|entry| {
            let (key, _) = entry.map_err(|source| FilesError::Spool { source })?;
            Ok(Change::put(key, [], Content::empty()))
        })))
    }

    pub(super) fn cursor(&mut self) -> Result<Cursor<'_>, FilesError> {
        let keys = self.keys.read().map_err(|source| FilesError::Spool { source })?;
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
