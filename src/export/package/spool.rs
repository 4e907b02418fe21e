//! One temporary file without a name that holds everything a package is made of, or was read
//! from: nothing hostile ever becomes a path, and the disk space is given back when the last
//! reader is dropped, whatever happens to the process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::tree::Reading;

/// How many bytes are copied at once.
pub const BLOCK: usize = 64 * 1024;

/// A SHA-256, as the package's lists of checksums have it.
pub type Sha = [u8; 32];

/// An unlinked temporary file that is only ever appended to.
#[derive(Debug, Clone)]
pub struct Spool {
    file: Arc<File>,
    length: u64,
}

/// A run of bytes of a [`Spool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The SHA-256 of its bytes.
    pub sha: Sha,
}

impl Spool {
    /// An empty spool in the folder.
    pub fn new(scratch: &Path) -> io::Result<Self> {
        Ok(Self { file: Arc::new(tempfile::tempfile_in(scratch)?), length: 0 })
    }

    /// Begins a run of bytes at the end. Only one may be written at a time.
    pub fn writer(&mut self) -> SpoolWriter<'_> {
        let start = self.length;
        SpoolWriter { spool: self, start, sha: Sha256::new(), buffer: Vec::with_capacity(BLOCK) }
    }

    /// Appends these bytes.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<Span> {
        let mut writer = self.writer();
        writer.write_all(bytes)?;
        writer.finish()
    }

    /// Appends all that the reader has.
    pub fn copy(&mut self, from: &mut dyn Read) -> io::Result<Span> {
        let mut writer = self.writer();
        io::copy(from, &mut writer)?;
        writer.finish()
    }

    /// Reads a run of bytes.
    pub fn open(&self, span: &Span) -> SpoolReader {
        SpoolReader { file: Arc::clone(&self.file), at: span.offset, left: span.length }
    }

    /// A run of bytes at once; it must be known to be short.
    pub fn read(&self, span: &Span) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(span).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Appends to a [`Spool`], hashing on the way.
#[derive(Debug)]
pub struct SpoolWriter<'a> {
    spool: &'a mut Spool,
    start: u64,
    sha: Sha256,
    buffer: Vec<u8>,
}

impl SpoolWriter<'_> {
    /// Ends the run.
    pub fn finish(mut self) -> io::Result<Span> {
        self.flush()?;
        Ok(Span {
            offset: self.start,
            length: self.spool.length - self.start,
            sha: self.sha.finalize().into(),
        })
    }
}

impl Write for SpoolWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BLOCK {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sha.update(&self.buffer);
        self.spool.file.write_all_at(&self.buffer, self.spool.length)?;
        self.spool.length += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads a run of bytes of a [`Spool`], independently of every other reader.
#[derive(Debug)]
pub struct SpoolReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Reading for SpoolReader {
    fn expected(&self) -> u64 {
        self.left
    }
}

impl Read for SpoolReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut into[..wanted], self.at)?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The SHA-256 and length of all that the reader has.
pub fn digest(from: &mut dyn Read) -> io::Result<(Sha, u64)> {
    let (mut sha, mut length, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        match from.read(&mut block)? {
            0 => return Ok((sha.finalize().into(), length)),
            read => {
                sha.update(&block[..read]);
                length += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bytes_come_back_with_their_checksums() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path()).unwrap();
        let long: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        let first = spool.append(b"abc").unwrap();
        let second = spool.copy(&mut &long[..]).unwrap();
        let third = spool.append(b"").unwrap();
        assert_eq!(spool.read(&first).unwrap(), b"abc");
        assert_eq!(spool.read(&second).unwrap(), long);
        assert_eq!(third.length, 0);
        assert_eq!(digest(&mut &long[..]).unwrap(), (second.sha, 200_000));
        assert_eq!(
            crate::id::hex(&first.sha),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
