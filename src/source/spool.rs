//! A list of keys and values that may be longer than memory: kept in memory while it is short, in
//! an unnamed temporary file when it grows.

use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use tempfile::SpooledTempFile;

use crate::tree::Key;

const IN_MEMORY: usize = 1 << 20;
const DELETED: u32 = u32::MAX;

/// The list, in the order in which it is pushed.
#[derive(Debug)]
pub(super) struct Spool(BufWriter<SpooledTempFile>);

impl Spool {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(SpooledTempFile::new(IN_MEMORY)))
    }

    /// Appends a key with a value or, where it is gone, without one.
    pub(super) fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        self.0.write_all(&length(key)?.to_le_bytes())?;
        self.0.write_all(key)?;
        match value {
            None => self.0.write_all(&DELETED.to_le_bytes()),
            Some(value) => {
                self.0.write_all(&length(value)?.to_le_bytes())?;
                self.0.write_all(value)
            }
        }
    }

    /// All of it, from the first.
    pub(super) fn read(&mut self) -> io::Result<SpoolIter<'_>> {
        self.0.flush()?;
        let file = self.0.get_mut();
        file.rewind()?;
        Ok(Entries(BufReader::new(file)))
    }

    /// All of it, from the first, for once.
    pub(super) fn into_read(self) -> io::Result<Entries<SpooledTempFile>> {
        let mut file = self.0.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Entries(BufReader::new(file)))
    }
}

/// What was pushed; the list is kept.
pub(super) type SpoolIter<'a> = Entries<&'a mut SpooledTempFile>;

/// What was pushed.
#[derive(Debug)]
pub(super) struct Entries<R>(BufReader<R>);

impl<R: Read> Entries<R> {
    fn read_next(&mut self) -> io::Result<Option<(Key, Option<Vec<u8>>)>> {
        let mut length = [0; 4];
        if self.0.read(&mut length[..1])? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut length[1..])?;
        let key = self.bytes(u32::from_le_bytes(length))?;
        self.0.read_exact(&mut length)?;
        let value = match u32::from_le_bytes(length) {
            DELETED => None,
            length => Some(self.bytes(length)?),
        };
        Ok(Some((key, value)))
    }

    fn bytes(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read> Iterator for Entries<R> {
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
                assert!(spool.read().unwrap().map(Result::unwrap).eq((0..count).map(item)));
            }
            assert!(spool.into_read().unwrap().map(Result::unwrap).eq((0..count).map(item)));
        }
    }
}
