//! The names in a directory, sorted: a few bytes for each in one piece of memory, so that a
//! million of them are no burden, and on disk where they are more than that.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir};

use crate::source::sort::{BUDGET, Duplicates, SortError, Sorted, Sorter};

/// The names that are still to come.
#[derive(Debug)]
pub(super) struct Listing(Names);

#[derive(Debug)]
enum Names {
    Memory { bytes: Vec<u8>, slots: std::vec::IntoIter<Slot> },
    Disk(Box<Sorted>),
}

/// Where a name lies within the bytes.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Its first eight bytes, which tell most names apart.
    prefix: u64,
    start: u32,
    length: u16,
    kind: FileType,
}

impl Listing {
    /// No names at all.
    pub(super) fn empty() -> Self {
        Self(Names::Memory { bytes: Vec::new(), slots: Vec::new().into_iter() })
    }

    /// One name.
    pub(super) fn only(name: &[u8]) -> Self {
        let slot = Slot::new(&[], name, FileType::Unknown);
        Self(Names::Memory { bytes: name.to_vec(), slots: vec![slot].into_iter() })
    }

    /// Reads the names of an open directory, keeping about `budget` bytes in memory; `buffer` is
    /// what the kernel fills.
    pub(super) fn read(
        directory: BorrowedFd<'_>,
        budget: usize,
        buffer: &mut [MaybeUninit<u8>],
    ) -> io::Result<Self> {
        let (mut bytes, mut slots) = (Vec::new(), Vec::new());
        let mut sorter: Option<Sorter> = None;
        let mut entries = RawDir::new(directory, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if let Some(sorter) = &mut sorter {
                sorter.push(name, &[]).map_err(unsortable)?;
                continue;
            }
            slots.push(Slot::new(&bytes, name, entry.file_type()));
            bytes.extend_from_slice(name);
            if bytes.len() + slots.len() * size_of::<Slot>() > budget.min(u32::MAX as usize / 2) {
                let mut spilled = Sorter::new(BUDGET.min(budget), Duplicates::Refuse);
                for slot in slots.drain(..) {
                    spilled.push(slot.name(&bytes), &[]).map_err(unsortable)?;
                }
                bytes = Vec::new();
                sorter = Some(spilled);
            }
        }
        if let Some(sorter) = sorter {
            return Ok(Self(Names::Disk(Box::new(sorter.finish().map_err(unsortable)?))));
        }
        slots.sort_unstable_by(|a, b| {
            a.prefix.cmp(&b.prefix).then_with(|| a.name(&bytes).cmp(b.name(&bytes)))
        });
        Ok(Self(Names::Memory { bytes, slots: slots.into_iter() }))
    }

    /// Appends the next name to `key`, and says what the directory told of its type, which may be
    /// nothing; `None` after the last.
    pub(super) fn next(&mut self, key: &mut Vec<u8>) -> io::Result<Option<FileType>> {
        match &mut self.0 {
            Names::Memory { bytes, slots } => Ok(slots.next().map(|slot| {
                key.extend_from_slice(slot.name(bytes));
                slot.kind
            })),
            Names::Disk(sorted) => {
                let Some((name, _)) = sorted.next().transpose().map_err(unsortable)? else {
                    return Ok(None);
                };
                key.extend_from_slice(&name);
                Ok(Some(FileType::Unknown))
            }
        }
    }

    /// How many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        match &self.0 {
            Names::Memory { bytes, slots } => bytes.len() + size_of_val(slots.as_slice()),
            Names::Disk(_) => 0,
        }
    }
}

impl Slot {
    fn new(bytes: &[u8], name: &[u8], kind: FileType) -> Self {
        let mut prefix = [0; 8];
        let length = name.len().min(prefix.len());
        prefix[..length].copy_from_slice(&name[..length]);
        #[expect(clippy::cast_possible_truncation, reason = "the budget is below 2 GiB")]
        let start = bytes.len() as u32;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the kernel's records are below 64 KiB"
        )]
        let length = name.len() as u16;
        Self { prefix: u64::from_be_bytes(prefix), start, length, kind }
    }

    fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        &bytes[start..start + usize::from(self.length)]
    }
}

fn unsortable(error: SortError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn names_come_in_the_order_of_their_bytes_from_memory_and_from_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut names: Vec<String> = (0..300).map(|i| format!("{:x}", i * 7919 % 1000)).collect();
        names.extend((0..50).map(|i| format!("a long common prefix {i}")));
        names.extend(["a", "aaaaaaaa", "aaaaaaaaa", "n\n", "é"].map(str::to_owned));
        for name in &names {
            File::create(folder.path().join(name)).unwrap();
        }
        names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for budget in [1 << 20, 100] {
            let directory = File::open(folder.path()).unwrap();
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut listing = Listing::read(directory.as_fd(), budget, &mut buffer).unwrap();
            assert_eq!(listing.memory() > 0, budget > 100);
            let mut listed = Vec::new();
            loop {
                let mut key = b"d\0".to_vec();
                if listing.next(&mut key).unwrap().is_none() {
                    break;
                }
                listed.push(String::from_utf8(key[2..].to_vec()).unwrap());
            }
            assert_eq!(listed, names);
        }
    }
}
