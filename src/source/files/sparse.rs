//! Reading a file that is mostly holes without reading the holes.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::Errno;

use super::entry::size;

/// Reads an open file from its beginning; where the file system keeps nothing it gives zeros
/// without asking for them.
#[derive(Debug)]
pub(super) struct SparseReader {
    file: File,
    /// `None` for a file without holes, which is read as it is.
    holes: Option<Holes>,
}

#[derive(Debug)]
struct Holes {
    position: u64,
    /// Where the next data is, at or behind the position; before it is a hole.
    data: Range<u64>,
    /// The size of the file when it was opened.
    end: u64,
}

impl SparseReader {
    /// The file at its beginning, with what `fstat` says of it.
    pub(super) fn new(file: File, stat: &Stat) -> Self {
        Self { file, holes: Holes::expected(stat) }
    }

    /// Goes back to the beginning of the file, of which `fstat` now says `stat`.
    pub(super) fn rewind(&mut self, stat: &Stat) -> io::Result<()> {
        seek(&self.file, SeekFrom::Start(0))?;
        self.holes = Holes::expected(stat);
        Ok(())
    }
}

impl Holes {
    /// What to look for where a file takes less room than it is long.
    fn expected(stat: &Stat) -> Option<Self> {
        let kept = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        (kept < size(stat)).then(|| Self { position: 0, data: 0..0, end: size(stat) })
    }

    /// Finds the data at or behind the position; says `false` where the file system cannot tell.
    fn look(&mut self, file: &File) -> io::Result<bool> {
        let start = match seek(file, SeekFrom::Data(self.position)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => {
                self.data = self.end..self.end;
                return Ok(true);
            }
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end,
            // It has become shorter.
            Err(Errno::NXIO) => start,
            Err(error) => return Err(error.into()),
        };
        self.data = start..end;
        Ok(true)
    }
}

impl Read for SparseReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(holes) = &mut self.holes else { return self.file.read(buffer) };
        if holes.position >= holes.data.end && holes.position < holes.end {
            let before = holes.position;
            if !holes.look(&self.file)? {
                self.holes = None;
                seek(&self.file, SeekFrom::Start(before))?;
                return self.file.read(buffer);
            }
        }
        let within = |limit: u64| {
            let left = limit.saturating_sub(holes.position);
            usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()))
        };
        let count = if holes.position < holes.data.start {
            let count = within(holes.data.start.min(holes.end));
            buffer[..count].fill(0);
            count
        } else {
            let count = within(holes.data.end);
            self.file.read_at(&mut buffer[..count], holes.position)?
        };
        holes.position += count as u64;
        Ok(count)
    }
}

impl AsFd for SparseReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_file_with_holes_reads_as_it_is(
            writes in prop::collection::vec((0u64..2_000_000, 1usize..20_000), 0..6),
            length in 0u64..2_500_000,
            step in 1usize..300_000,
        ) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(length).unwrap();
            for (start, count) in writes {
                file.write_all_at(&vec![7; count], start).unwrap();
            }
            let stat = rustix::fs::fstat(&file).unwrap();
            let mut plain = vec![0; usize::try_from(size(&stat)).unwrap()];
            file.read_exact_at(&mut plain, 0).unwrap();
            let mut reader = SparseReader::new(file, &stat);
            let (mut all, mut buffer) = (Vec::new(), vec![1; step]);
            loop {
                let count = reader.read(&mut buffer).unwrap();
                if count == 0 { break }
                all.extend_from_slice(&buffer[..count]);
            }
            prop_assert!(all == plain);
        }
    }

    #[test]
    fn a_hole_of_a_tebibyte_is_passed_over() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"end", 1 << 40).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let mut holes = SparseReader::new(file, &stat);
        let mut buffer = vec![1; 1 << 20];
        assert!(holes.read(&mut buffer).unwrap() >= 5);
        assert_eq!(&buffer[..6], b"begin\0");
        assert_eq!(holes.read(&mut buffer).unwrap(), buffer.len());
        assert!(buffer.iter().all(|&byte| byte == 0));
        let inner = holes.holes.as_mut().unwrap();
        inner.position = inner.data.start;
        let mut end = Vec::new();
        holes.read_to_end(&mut end).unwrap();
        assert!(end.ends_with(b"end"));
    }
}
