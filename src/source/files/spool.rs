//! A sorted list of keys and heads that may be longer than memory: kept in memory while it is
//! short, in an unnamed temporary file when it grows.

use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use tempfile::SpooledTempFile;

use crate::tree::Key;

const IN_MEMORY: usize = 4 << 20;
const DELETED: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Spool(BufWriter<SpooledTempFile>);

impl Spool {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(SpooledTempFile::new(IN_MEMORY)))
    }

    /// Appends one change: a put of the head, or a delete.
    pub(super) fn push(&mut self, key: &[u8], head: Option<&[u8]>) -> io::Result<()> {
        self.0.write_all(&length(key)?.to_le_bytes())?;
        self.0.write_all(key)?;
        match head {
            None => self.0.write_all(&DELETED.to_le_bytes()),
            Some(head) => {
                self.0.write_all(&length(head)?.to_le_bytes())?;
                self.0.write_all(head)
            }
        }
    }

    /// All changes, from the first.
    pub(super) fn changes(&mut self) -> io::Result<SpoolIter<'_>> {
        self.0.flush()?;
        let file = self.0.get_mut();
        file.rewind()?;
        Ok(SpoolIter(BufReader::new(file)))
    }
}

#[derive(Debug)]
pub(super) struct SpoolIter<'a>(BufReader<&'a mut SpooledTempFile>);

impl SpoolIter<'_> {
    fn read_next(&mut self) -> io::Result<Option<(Key, Option<Vec<u8>>)>> {
        let mut length = [0; 4];
        if self.0.read(&mut length[..1])? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut length[1..])?;
        let key = self.bytes(u32::from_le_bytes(length))?;
        self.0.read_exact(&mut length)?;
        let head = match u32::from_le_bytes(length) {
            DELETED => None,
            length => Some(self.bytes(length)?),
        };
        Ok(Some((key, head)))
    }

    fn bytes(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Iterator for SpoolIter<'_> {
    type Item = io::Result<(Key, Option<Vec<u8>>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len())
        .ok()
        .filter(|&length| length != DELETED)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_it_was_given_from_memory_and_from_disk() {
        for count in [0u32, 3, 200_000] {
            let mut spool = Spool::new();
            let item = |i: u32| {
                (format!("key {i}").into_bytes(), (!i.is_multiple_of(3)).then(|| vec![7; 20]))
            };
            for (key, head) in (0..count).map(item) {
                spool.push(&key, head.as_deref()).unwrap();
            }
            for _twice in 0..2 {
                assert!(spool.changes().unwrap().map(Result::unwrap).eq((0..count).map(item)));
            }
        }
    }
}
