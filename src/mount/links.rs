//! How many names files have that are hard links: for `st_nlink`, without which `tar`, `rsync` and
//! `cp -a` make copies of them.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;

use crate::hint::Failure;
use crate::repo::Repo;
use crate::source::Entry;
use crate::source::sort::{Duplicates, Sorter};
use crate::tree::{self, Tree};

/// Bytes of memory for sorting.
const BUDGET: usize = 4 << 20;
/// A number and how many more names it has, both as u64.
const RECORD: usize = 16;

/// The numbers of the files of a tree that have more than one name, with how many more, sorted: in
/// a file, since there may be any number of them.
#[derive(Debug)]
pub(super) struct Links {
    file: File,
    records: u64,
}

impl Links {
    /// Reads a tree and counts.
    pub(super) fn count(repo: &Repo, tree: Tree) -> Result<Self, Failure> {
        let mut sorter = Sorter::new(BUDGET, Duplicates::Number);
        for entry in tree::entries(repo, tree, &[], &[]) {
            let (_, value) = entry?;
            if let Some(first) = Entry::decode(&value.head)?.link
                && let Some((number, _)) = tree::place(repo, tree, &first)?
            {
                sorter.push(&number.to_be_bytes(), &[])?;
            }
        }
        let failed = crate::source::sort::SortError::Io;
        let mut out = BufWriter::new(tempfile::tempfile().map_err(failed)?);
        let (mut records, mut last) = (0, None::<(u64, u64)>);
        let mut write = |record: Option<(u64, u64)>| -> Result<(), Failure> {
            let Some((number, more)) = record else { return Ok(()) };
            records += 1;
            let record = [number.to_le_bytes(), more.to_le_bytes()].concat();
            Ok(out.write_all(&record).map_err(failed)?)
        };
        for entry in sorter.finish()? {
            let (key, _) = entry?;
            let Some((number, _)) = key.split_first_chunk() else { continue };
            let number = u64::from_be_bytes(*number);
            match &mut last {
                Some((same, more)) if *same == number => *more += 1,
                _ => write(last.replace((number, 1)))?,
            }
        }
        write(last)?;
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(Self { file, records })
    }

    /// How many names the file with this number has.
    pub(super) fn names(&self, number: u64) -> std::io::Result<u64> {
        let (mut low, mut high) = (0, self.records);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut record = [0; RECORD];
            self.file.read_exact_at(&mut record, middle * RECORD as u64)?;
            let (found, more) = record.split_at(RECORD / 2);
            let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
            match word(found).cmp(&number) {
                std::cmp::Ordering::Equal => return Ok(1 + word(more)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(1)
    }
}
