//! Which names are the same file. A capture meets the names of a file one by one, in the order of
//! keys; the first is the file, and the others say so ([ADR 11](../../../docs/adr/0011-hard-links.md)).

use std::collections::HashMap;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use rustix::fs::Stat;
use tempfile::SpooledTempFile;

use super::entry::{change_time, file_type};
use crate::time::Timestamp;
use crate::tree::Key;

/// Bytes of keys that are kept in memory, before they go to a file without a name.
const IN_MEMORY: usize = 1 << 20;

/// The files of which other names may still come: some 60 bytes for each, and its first key in a
/// temporary file. A file whose names have all been met is forgotten.
#[derive(Debug)]
pub(super) struct Links {
    groups: HashMap<(u64, u64), Group>,
    keys: SpooledTempFile,
    end: u64,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    /// Where its first key begins, and how long it is.
    start: u64,
    length: u32,
    /// How many of its names have been met.
    met: u32,
    changed: Timestamp,
}

/// The name of a file that was met before.
#[derive(Debug)]
pub(super) struct First {
    pub(super) key: Key,
    /// Whether the file has been changed since: its two names do not show the same state.
    pub(super) is_outdated: bool,
}

impl Links {
    pub(super) fn new() -> Self {
        Self { groups: HashMap::new(), keys: SpooledTempFile::new(IN_MEMORY), end: 0 }
    }

    /// The first name of the file, where this is not it.
    pub(super) fn first(&mut self, stat: &Stat) -> io::Result<Option<First>> {
        if !can_have_names(stat) {
            return Ok(None);
        }
        let Some(group) = self.groups.get(&identity(stat)) else { return Ok(None) };
        let mut key = vec![0; group.length as usize];
        self.keys.seek(SeekFrom::Start(group.start))?;
        self.keys.read_exact(&mut key)?;
        Ok(Some(First { key, is_outdated: group.changed != change_time(stat) }))
    }

    /// Remembers that an entry with this key is the file.
    pub(super) fn note(&mut self, stat: &Stat, key: &[u8]) -> io::Result<()> {
        if !can_have_names(stat) {
            return Ok(());
        }
        let identity = identity(stat);
        if let Some(group) = self.groups.get_mut(&identity) {
            group.met += 1;
            if u64::from(group.met) >= stat.st_nlink {
                self.groups.remove(&identity);
            }
            return Ok(());
        }
        let length = u32::try_from(key.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.keys.seek(SeekFrom::Start(self.end))?;
        self.keys.write_all(key)?;
        let group = Group { start: self.end, length, met: 1, changed: change_time(stat) };
        self.end += u64::from(length);
        self.groups.insert(identity, group);
        Ok(())
    }
}

/// Directories count what is below them as links.
fn can_have_names(stat: &Stat) -> bool {
    stat.st_nlink > 1 && !file_type(stat).is_dir()
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_file_is_remembered_until_its_last_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        File::create(at("a")).unwrap();
        File::create(at("alone")).unwrap();
        fs::hard_link(at("a"), at("b")).unwrap();
        fs::hard_link(at("a"), at("c")).unwrap();
        let stat = |name: &str| rustix::fs::stat(at(name).as_path()).unwrap();
        let mut links = Links::new();
        for name in ["a", "alone", "b", "c"] {
            let first = links.first(&stat(name)).unwrap();
            let shared = matches!(name, "b" | "c").then(|| b"a".to_vec());
            assert_eq!(first.map(|first| first.key), shared, "{name}");
            links.note(&stat(name), name.as_bytes()).unwrap();
        }
        assert!(links.groups.is_empty());
    }

    #[test]
    fn a_file_that_changed_between_two_of_its_names_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        File::create(at("a")).unwrap();
        fs::hard_link(at("a"), at("b")).unwrap();
        let stat = || rustix::fs::stat(at("a").as_path()).unwrap();
        let mut links = Links::new();
        links.note(&stat(), b"a").unwrap();
        assert!(!links.first(&stat()).unwrap().unwrap().is_outdated);
        let mut later = stat();
        later.st_ctime += 1;
        assert!(links.first(&later).unwrap().unwrap().is_outdated);
    }
}
