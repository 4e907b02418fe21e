//! Sorting what does not fit in memory: databases order rows by collation and type, trees by the
//! bytes of the key, and where the two differ the rows are sorted here.
//!
//! An external merge sort (Knuth, *The Art of Computer Programming*, vol. 3, §5.4): entries are
//! gathered up to a budget, sorted, and written as a run to a file that has no name, so that a
//! killed process leaves nothing behind; at the end the runs are merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use super::key;
use crate::hint::Hint;

/// How many bytes of entries are kept in memory where nothing else is said.
pub const BUDGET: usize = 32 << 20;

/// How many runs are merged at once: 32 buffers of 64 KiB.
const FAN_IN: usize = 32;
const BUFFER: usize = 64 << 10;
/// What an entry costs besides its bytes.
const OVERHEAD: usize = size_of::<Slot>();

/// What to do with equal keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// They are an error: keys of a table are unique.
    Refuse,
    /// Each key gets a big-endian `u32` appended that counts equal ones from 0, in order of their
    /// values: for tables without a key, whose rows may be equal.
    Number,
    /// One of them stays: the one with the least value.
    Merge,
}

/// Why sorting failed.
#[derive(Debug, thiserror::Error)]
pub enum SortError {
    /// A temporary file could not be written or read.
    #[error("a temporary file for sorting cannot be used")]
    Io(#[from] io::Error),
    /// Two entries have the same key.
    #[error("two records have the same key")]
    Duplicate {
        /// The key.
        key: Vec<u8>,
    },
    /// More equal rows than can be counted.
    #[error("more than 2³² rows are equal")]
    TooManyEqual,
    /// A key or value that cannot be written down.
    #[error("a record of {bytes} bytes is too large")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl Hint for SortError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io(_) => Some("see that the directory TMPDIR names has free space".to_owned()),
            Self::Duplicate { .. } => Some(
                "rebuild the index of the primary key (`REINDEX`): it lets duplicates in".into(),
            ),
            Self::TooManyEqual | Self::TooLarge { .. } => None,
        }
    }
}

/// Takes entries in any order.
#[derive(Debug)]
pub struct Sorter {
    budget: usize,
    duplicates: Duplicates,
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    /// Runs by level: a run of level n + 1 is made of [`FAN_IN`] runs of level n, so that each
    /// entry is rewritten a logarithmic number of times.
    levels: Vec<Vec<File>>,
}

/// Where an entry lies within the bytes: the key, then the value up to the end.
#[derive(Debug, Clone, Copy)]
struct Slot {
    start: usize,
    key_end: usize,
    end: usize,
}

type Entry = (Vec<u8>, Vec<u8>);

impl Sorter {
    /// Keeps about `budget` bytes in memory.
    pub const fn new(budget: usize, duplicates: Duplicates) -> Self {
        Self { budget, duplicates, bytes: Vec::new(), slots: Vec::new(), levels: Vec::new() }
    }

    /// Adds an entry.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), SortError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.slots.push(Slot { start, key_end, end: self.bytes.len() });
        if self.bytes.len() + self.slots.len() * OVERHEAD >= self.budget {
            self.spill()
        } else {
            Ok(())
        }
    }

    /// All entries in ascending order of (key, value).
    pub fn finish(mut self) -> Result<Sorted, SortError> {
        self.sort();
        let mut inputs = Vec::new();
        for file in self.levels.into_iter().flatten() {
            inputs.push(Input::Run(BufReader::with_capacity(BUFFER, file)));
        }
        let slots = self.slots.into_iter();
        inputs.push(Input::Memory { bytes: self.bytes, slots });
        Ok(Sorted { merge: Merge::new(inputs)?, duplicates: self.duplicates, last: None })
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let order =
            |slot: &Slot| (&bytes[slot.start..slot.key_end], &bytes[slot.key_end..slot.end]);
        self.slots.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
    }

    fn spill(&mut self) -> Result<(), SortError> {
        self.sort();
        let mut run = RunWriter::new()?;
        for slot in self.slots.drain(..) {
            run.write(&self.bytes[slot.start..slot.key_end], &self.bytes[slot.key_end..slot.end])?;
        }
        self.bytes.clear();
        let mut file = run.finish()?;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(file);
            if self.levels[level].len() < FAN_IN {
                break;
            }
            let runs = self.levels[level].drain(..);
            let runs = runs.map(|file| Input::Run(BufReader::with_capacity(BUFFER, file)));
            let mut merge = Merge::new(runs.collect())?;
            let mut merged = RunWriter::new()?;
            while let Some((key, value)) = merge.next()? {
                merged.write(&key, &value)?;
            }
            file = merged.finish()?;
        }
        Ok(())
    }
}

struct RunWriter(BufWriter<File>);

impl RunWriter {
    fn new() -> Result<Self, SortError> {
        Ok(Self(BufWriter::with_capacity(BUFFER, tempfile::tempfile()?)))
    }

    fn write(&mut self, key: &[u8], value: &[u8]) -> Result<(), SortError> {
        for part in [key, value] {
            let Ok(length) = u32::try_from(part.len()) else {
                return Err(SortError::TooLarge { bytes: part.len() });
            };
            self.0.write_all(&length.to_le_bytes())?;
        }
        self.0.write_all(key)?;
        Ok(self.0.write_all(value)?)
    }

    fn finish(self) -> Result<File, SortError> {
        let mut file = self.0.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }
}

#[derive(Debug)]
enum Input {
    Run(BufReader<File>),
    Memory { bytes: Vec<u8>, slots: std::vec::IntoIter<Slot> },
}

impl Input {
    fn next(&mut self) -> Result<Option<Entry>, SortError> {
        match self {
            Self::Memory { bytes, slots } => Ok(slots.next().map(|slot| {
                (bytes[slot.start..slot.key_end].to_vec(), bytes[slot.key_end..slot.end].to_vec())
            })),
            Self::Run(run) => {
                let mut lengths = [0; 8];
                // Between two entries the file may end; within one it may not.
                if io::BufRead::fill_buf(run)?.is_empty() {
                    return Ok(None);
                }
                run.read_exact(&mut lengths)?;
                let (key, value) = lengths.split_at(4);
                let length = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes) as usize;
                let mut entry = (vec![0; length(key)], vec![0; length(value)]);
                run.read_exact(&mut entry.0)?;
                run.read_exact(&mut entry.1)?;
                Ok(Some(entry))
            }
        }
    }
}

#[derive(Debug)]
struct Merge {
    inputs: Vec<Input>,
    /// The least entry of each input that is not exhausted.
    heads: BinaryHeap<Reverse<(Entry, usize)>>,
}

impl Merge {
    fn new(inputs: Vec<Input>) -> Result<Self, SortError> {
        let mut merge = Self { heads: BinaryHeap::with_capacity(inputs.len()), inputs };
        for index in 0..merge.inputs.len() {
            merge.refill(index)?;
        }
        Ok(merge)
    }

    fn refill(&mut self, index: usize) -> Result<(), SortError> {
        if let Some(entry) = self.inputs[index].next()? {
            self.heads.push(Reverse((entry, index)));
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Entry>, SortError> {
        let Some(Reverse((entry, index))) = self.heads.pop() else { return Ok(None) };
        self.refill(index)?;
        Ok(Some(entry))
    }
}

/// The entries in strictly ascending order of their keys. After an error it is over.
#[derive(Debug)]
pub struct Sorted {
    merge: Merge,
    duplicates: Duplicates,
    /// The last key as it was pushed, and how many like it there were before it.
    last: Option<(Vec<u8>, u32)>,
}

impl Sorted {
    fn step(&mut self) -> Result<Option<Entry>, SortError> {
        let Some((mut key, value)) = self.merge.next()? else { return Ok(None) };
        match self.duplicates {
            Duplicates::Merge => {
                if self.last.as_ref().is_some_and(|(last, _)| *last == key) {
                    return self.step();
                }
                self.last = Some((key.clone(), 0));
            }
            Duplicates::Refuse => {
                if self.last.as_ref().is_some_and(|(last, _)| *last == key) {
                    return Err(SortError::Duplicate { key });
                }
                self.last = Some((key.clone(), 0));
            }
            Duplicates::Number => {
                let number = match &self.last {
                    Some((last, number)) if *last == key => {
                        number.checked_add(1).ok_or(SortError::TooManyEqual)?
                    }
                    _ => 0,
                };
                self.last = Some((key.clone(), number));
                key.extend_from_slice(&number.to_be_bytes());
            }
        }
        Ok(Some((key, value)))
    }
}

impl Iterator for Sorted {
    type Item = Result<Entry, SortError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.merge.heads.clear();
        }
        step.transpose()
    }
}

/// Sorts the rows of a table without a key: each under its hash.
pub fn push_keyless(sorter: &mut Sorter, row: &[u8]) -> Result<(), SortError> {
    sorter.push(&key::row_hash(row), row)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_budget_gives_the_same_order(
            entries: BTreeMap<Vec<u8>, Vec<u8>>,
            budget in prop_oneof![1..200_usize, Just(1 << 20)],
            seed: u64,
        ) {
            let mut shuffled: Vec<_> = entries.iter().collect();
            shuffled.sort_by_key(|(key, _)| {
                *blake3::hash(&[&seed.to_le_bytes(), key.as_slice()].concat()).as_bytes()
            });
            let mut sorter = Sorter::new(budget, Duplicates::Refuse);
            for (key, value) in shuffled {
                sorter.push(key, value).unwrap();
            }
            let sorted: Vec<_> = sorter.finish().unwrap().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(sorted, entries.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn equal_rows_are_numbered_across_runs(
            rows in prop::collection::vec(0..5_u16, 0..60),
            budget in 1..300_usize,
        ) {
            let mut sorter = Sorter::new(budget, Duplicates::Number);
            for row in &rows {
                push_keyless(&mut sorter, &row.to_le_bytes()).unwrap();
            }
            let sorted: Vec<_> = sorter.finish().unwrap().collect::<Result<_, _>>().unwrap();
            let mut expected = BTreeMap::new();
            for value in 0..5_u16 {
                let count = u32::try_from(rows.iter().filter(|row| **row == value).count()).unwrap();
                for number in 0..count {
                    let mut key = key::row_hash(&value.to_le_bytes()).to_vec();
                    key.extend_from_slice(&number.to_be_bytes());
                    expected.insert(key, value.to_le_bytes().to_vec());
                }
            }
            prop_assert_eq!(sorted, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn many_runs_are_merged_in_levels() {
        let mut sorter = Sorter::new(1, Duplicates::Refuse);
        let count = u32::try_from(FAN_IN * FAN_IN + 5).unwrap();
        for number in 0..count {
            sorter.push(&number.reverse_bits().to_be_bytes(), b"").unwrap();
        }
        assert_eq!(sorter.levels.iter().map(Vec::len).collect::<Vec<_>>(), [5, 0, 1]);
        let sorted: Vec<_> = sorter.finish().unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(sorted.len(), count as usize);
        assert!(sorted.is_sorted());
    }

    #[test]
    fn the_same_key_twice_is_an_error() {
        for budget in [1, 1 << 20] {
            let mut sorter = Sorter::new(budget, Duplicates::Refuse);
            for key in [b"b", b"a", b"b"] {
                sorter.push(key, b"").unwrap();
            }
            let results: Vec<_> = sorter.finish().unwrap().collect();
            assert!(
                matches!(&results[..], [Ok(_), Ok(_), Err(SortError::Duplicate { key })] if key == b"b")
            );
        }
    }
}
