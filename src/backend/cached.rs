//! A copy on this host of what is small and read again and again: tree nodes, snapshots, the
//! records of collections. Objects never change and their names are never used again, so a copy
//! cannot be stale; it is only ever asked for what was found in a listing or the index.
//!
//! Copies are kept as the store has them, sealed, and each with a checksum: one that is damaged is
//! read again from the store, so damage here is never taken for damage there. Any number of
//! processes share the folder: a copy gets its name when it is complete, and losing one costs a
//! request.

use std::cmp::Reverse;
use std::fs;
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Backend, BackendError, Created, Deleted, Entry, create_private_dir};

/// Ranges of packs up to this length are kept: blocks of tree nodes, of which every snapshot needs
/// most, and hardly any of file content.
const RANGE_MAX: u64 = 128 << 10;
/// Folders that copies are spread over; each has its share of the limit.
const SHARDS: u64 = 256;
/// What is kept whole.
const KEPT: [&str; 2] = ["snapshots/", "gc/"];
const PACKS: &str = "packs/";

/// Another backend, of which a part is kept in a folder.
#[derive(Debug)]
pub struct Cached<B> {
    inner: B,
    folder: PathBuf,
    share: u64,
}

impl<B: Backend> Cached<B> {
    /// The backend with copies in `folder`, which belongs to this repository alone, of about
    /// `limit` bytes together.
    pub fn new(inner: B, folder: impl Into<PathBuf>, limit: u64) -> Self {
        Self { inner, folder: folder.into(), share: limit / SHARDS }
    }

    /// The copy, or what `read` brings from the store, which is kept.
    fn kept(
        &self,
        what: &str,
        read: impl FnOnce() -> Result<Bytes, BackendError>,
    ) -> Result<Bytes, BackendError> {
        let name = blake3::hash(what.as_bytes()).to_hex();
        let folder = self.folder.join(&name[..2]);
        let path = folder.join(&name[2..]);
        if let Some(bytes) = read_copy(&path, what) {
            return Ok(bytes);
        }
        let bytes = read()?;
        if !bytes.is_empty() && bytes.len() as u64 <= self.share {
            // A cache that cannot be written to, on a full disk, say, costs time and nothing else.
            let _ = write_copy(&folder, &path, what, &bytes)
                .and_then(|()| remove_oldest(&folder, self.share));
        }
        Ok(bytes)
    }
}

impl<B: Backend> Backend for Cached<B> {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.inner.create(name, data)
    }

    fn create_cold(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.inner.create_cold(name, data)
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        if KEPT.iter().any(|folder| name.starts_with(folder)) {
            self.kept(name, || self.inner.get(name))
        } else {
            self.inner.get(name)
        }
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        let len = range.end.saturating_sub(range.start);
        if name.starts_with(PACKS) && len <= RANGE_MAX {
            let what = format!("{name} {}-{}", range.start, range.end);
            self.kept(&what, || self.inner.get_range(name, range))
        } else {
            self.inner.get_range(name, range)
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        self.inner.list(folder)
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        self.inner.delete(name)
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

/// Of what a copy is, and its bytes.
fn checksum(what: &str, bytes: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(what.len() as u64).to_le_bytes()).update(what.as_bytes()).update(bytes);
    hasher.finalize()
}

/// The copy, if there is one and it is whole.
fn read_copy(path: &Path, what: &str) -> Option<Bytes> {
    let file = Bytes::from(fs::read(path).ok()?);
    let (sum, bytes) = file.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    (checksum(what, bytes) == *sum).then(|| file.slice(blake3::OUT_LEN..))
}

fn write_copy(folder: &Path, path: &Path, what: &str, bytes: &[u8]) -> io::Result<()> {
    create_private_dir(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(checksum(what, bytes).as_bytes())?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Removes the oldest copies beyond this many bytes, and with them what killed processes left.
fn remove_oldest(folder: &Path, share: u64) -> io::Result<()> {
    let mut copies = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Others remove copies, too.
        if let Ok(metadata) = entry.metadata() {
            copies.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    copies.sort_unstable_by_key(|(modified, ..)| Reverse(*modified));
    let mut used = 0;
    for (_, len, path) in copies {
        used += len;
        if used > share
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Faults, Faulty, Memory, Verb, conformance};
    use super::*;

    fn store(folder: &Path, limit: u64) -> Cached<Faulty<Memory>> {
        Cached::new(Faulty::new(Memory::default(), Faults::none()), folder, limit)
    }

    fn reads(store: &Cached<Faulty<Memory>>) -> usize {
        let calls = store.inner.calls();
        calls.iter().filter(|call| matches!(call.verb, Verb::Get | Verb::GetRange)).count()
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let shards = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let copies = shards.flat_map(|shard| fs::read_dir(shard).unwrap());
        copies.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn an_empty_cache_conforms() {
        let home = tempfile::tempdir().unwrap();
        let number = std::cell::Cell::new(0);
        conformance::run(&|| {
            number.set(number.get() + 1);
            Cached::new(Memory::default(), home.path().join(number.get().to_string()), 0)
        });
    }

    #[test]
    fn what_is_small_is_fetched_once_and_what_is_large_or_may_vanish_each_time() {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path(), 1 << 30);
        let pack = vec![7; 1 << 20];
        for name in ["snapshots/a", "gc/1", "packs/aa/p", "sessions/a", "config"] {
            store.create(name, &pack).unwrap();
        }
        for round in 1..=3 {
            store.get("snapshots/a").unwrap();
            store.get("gc/1").unwrap();
            assert_eq!(store.get_range("packs/aa/p", 5..70_000).unwrap(), pack[5..70_000]);
            assert_eq!(reads(&store), 3 + 4 * (round - 1));
            store.get("sessions/a").unwrap();
            store.get("config").unwrap();
            store.get("packs/aa/p").unwrap();
            store.get_range("packs/aa/p", 0..1 << 19).unwrap();
            assert_eq!(reads(&store), 3 + 4 * round);
        }
    }

    #[test]
    fn a_damaged_copy_is_fetched_again_and_one_of_another_object_is_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path(), 1 << 30);
        store.create("gc/1", b"first").unwrap();
        store.create("gc/2", b"second").unwrap();
        store.get("gc/1").unwrap();
        let copy = files(home.path()).pop().unwrap();
        for spoiled in [&b""[..], b"short", &[0; 40]] {
            fs::remove_file(&copy).unwrap();
            let mut file = fs::File::create(&copy).unwrap();
            file.write_all(spoiled).unwrap();
            assert_eq!(store.get("gc/1").unwrap(), b"first"[..]);
        }
        store.get("gc/2").unwrap();
        let other = files(home.path()).into_iter().find(|path| *path != copy).unwrap();
        fs::copy(other, &copy).unwrap();
        assert_eq!(store.get("gc/1").unwrap(), b"first"[..]);
    }

    #[test]
    fn copies_take_no_more_than_the_limit() {
        const LIMIT: u64 = 256 * 4096;
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path(), LIMIT);
        for number in 0..2000 {
            let name = format!("snapshots/{number}");
            store.create(&name, &[1; 1000]).unwrap();
            store.get(&name).unwrap();
        }
        let used: u64 = files(home.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!((LIMIT / 2..=LIMIT).contains(&used), "{used}");
    }
}
