//! The files of one tree by number: the place of an entry in the order of the keys. Nothing has to
//! be remembered to come from a number to a name, or back.

use std::sync::{Arc, Mutex, PoisonError};

use super::links::Links;
use crate::hint::Failure;
use crate::repo::Repo;
use crate::source::{Entry, EntryKind};
use crate::tree::{self, Content, Key, Tree, Value};

/// What stands for a file within its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    /// The place of an entry.
    pub(super) entry: u64,
    /// 0 for the entry itself; else the folder that its first `depth` names lead to, where that
    /// is no entry of its own, as with configuration files.
    pub(super) depth: u8,
}

/// A file, folder or other thing.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) number: Number,
    pub(super) key: Key,
    /// Metadata and content; `None` for a folder that is no entry.
    pub(super) file: Option<(Entry, Content)>,
}

/// The files of one tree.
#[derive(Debug)]
pub(super) struct Files {
    repo: Arc<Repo>,
    tree: Tree,
    links: Mutex<Option<Arc<Links>>>,
}

impl Files {
    pub(super) fn new(repo: Arc<Repo>, tree: Tree) -> Self {
        Self { repo, tree, links: Mutex::new(None) }
    }

    /// What has this number.
    pub(super) fn item(&self, number: Number) -> Result<Option<Item>, Failure> {
        let Some((key, value)) = tree::nth(&*self.repo, self.tree, number.entry)? else {
            return Ok(None);
        };
        if number.depth == 0 {
            return Ok(Some(self.entry(number.entry, key, value)?));
        }
        let names = key.split(|&byte| byte == 0).take(usize::from(number.depth));
        Ok(Some(Item { number, key: names.collect::<Vec<_>>().join(&0), file: None }))
    }

    /// The root folder's own entry, if it has one.
    pub(super) fn root(&self) -> Result<Option<Item>, Failure> {
        let found = tree::place(&*self.repo, self.tree, &[])?;
        found.map(|(number, value)| self.entry(number, Key::new(), value)).transpose()
    }

    /// What has this name in a folder.
    pub(super) fn find(&self, folder: &[u8], name: &[u8]) -> Result<Option<Item>, Failure> {
        let key = child(folder, name);
        if let Some((number, value)) = tree::place(&*self.repo, self.tree, &key)? {
            return Ok(Some(self.entry(number, key, value)?));
        }
        let below = [&key[..], &[0]].concat();
        match tree::entries(&*self.repo, self.tree, &[], &below).next() {
            None => Ok(None),
            Some(first) => self.implicit(&first?.0, key).map(Some),
        }
    }

    /// Calls `each` for what is in a folder, in order, after what has the number `after`, until it
    /// says that it has enough. It is given a number from which to go on after this one.
    pub(super) fn list(
        &self,
        folder: &[u8],
        after: Option<u64>,
        each: &mut dyn FnMut(u64, Item) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let prefix = if folder.is_empty() { Vec::new() } else { [folder, &[0]].concat() };
        let from = match after {
            None => prefix.clone(),
            Some(number) => match tree::nth(&*self.repo, self.tree, number)? {
                None => return Ok(()),
                Some((key, _)) => past(&prefix, &key),
            },
        };
        let mut number = tree::rank(&*self.repo, self.tree, &from)?;
        let mut entries = tree::entries(&*self.repo, self.tree, &from, &prefix);
        let mut last: Option<Key> = None;
        while let Some(entry) = entries.next() {
            let (key, value) = entry?;
            let here = number;
            number += 1;
            // The root is no child of itself.
            let Some(below) = key.get(prefix.len()..).filter(|below| !below.is_empty()) else {
                continue;
            };
            let name = below.split(|&byte| byte == 0).next().unwrap_or_default();
            let path = [&prefix[..], name].concat();
            if last.as_ref() == Some(&path) {
                // All that is below a folder is passed over unread.
                let from = past(&prefix, &key);
                number = tree::rank(&*self.repo, self.tree, &from)?;
                entries = tree::entries(&*self.repo, self.tree, &from, &prefix);
                continue;
            }
            let item = if path.len() == key.len() {
                self.entry(here, key, value)?
            } else {
                self.implicit(&key, path.clone())?
            };
            last = Some(path);
            if !each(here, item)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// How many names a file has.
    pub(super) fn names(&self, number: u64) -> Result<u64, Failure> {
        let links = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            match &*links {
                Some(links) => Arc::clone(links),
                None => Arc::clone(links.insert(Arc::new(Links::count(&self.repo, self.tree)?))),
            }
        };
        Ok(links.names(number).map_err(crate::source::sort::SortError::Io)?)
    }

    /// The entry with its number, or the number of the file that it is a hard link to.
    fn entry(&self, number: u64, key: Key, value: Value) -> Result<Item, Failure> {
        let entry = Entry::decode(&value.head)?;
        let first = match &entry.link {
            Some(first) => tree::place(&*self.repo, self.tree, first)?,
            None => None,
        };
        let entry_number = first.map_or(number, |(number, _)| number);
        let number = Number { entry: entry_number, depth: 0 };
        Ok(Item { number, key, file: Some((entry, value.content)) })
    }

    /// A folder that is no entry, of which this is the first below.
    fn implicit(&self, first: &[u8], key: Key) -> Result<Item, Failure> {
        let entry = tree::rank(&*self.repo, self.tree, first)?;
        let depth = key.split(|&byte| byte == 0).count();
        let depth = u8::try_from(depth).unwrap_or(u8::MAX);
        Ok(Item { number: Number { entry, depth }, key, file: None })
    }
}

impl Item {
    /// Whether it is a folder.
    pub(super) fn is_folder(&self) -> bool {
        self.file.as_ref().is_none_or(|(entry, _)| entry.is_directory())
    }

    /// Its name.
    pub(super) fn name(&self) -> &[u8] {
        self.key.rsplit(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// What `stat` says of its size.
    pub(super) fn size(&self) -> u64 {
        match &self.file {
            Some((Entry { kind: EntryKind::Symlink { target }, .. }, _)) => target.len() as u64,
            Some((Entry { kind: EntryKind::File, .. }, content)) => content.length(),
            _ => 0,
        }
    }
}

fn child(folder: &[u8], name: &[u8]) -> Key {
    if folder.is_empty() { name.to_vec() } else { [folder, &[0], name].concat() }
}

/// What comes after the child of a folder that `key` is, or is below.
fn past(prefix: &[u8], key: &[u8]) -> Key {
    let below = key.get(prefix.len()..).unwrap_or_default();
    let name = below.split(|&byte| byte == 0).next().unwrap_or_default();
    [prefix, name, &[1]].concat()
}
