//! Reading a live file: in one piece, or not without a word.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::Stat;

use super::entry::{Entry, EntryKind, Fingerprint, size};
use super::path::display_key;
use super::sparse::SparseReader;
use crate::context::Context;
use crate::report::Event;
use crate::time::Timestamp;
use crate::tree::{Key, Reading, Settled};

/// Bytes between two progress reports.
const PROGRESS_BYTES: u64 = 1 << 20;
/// How often a file that is written to meanwhile is read.
const READINGS: u32 = 3;
/// The coarsest clock by which kernels stamp files: two writes within this may leave one time.
const TICK: Duration = Duration::from_millis(10);

/// The keys of files that could be opened, but not read: they are in no tree, and so must not
/// pass for unchanged the next time.
#[derive(Debug, Clone, Default)]
pub(super) struct Unread(Arc<Mutex<HashSet<Key>>>);

impl Unread {
    fn add(&self, key: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_vec());
    }

    /// All of them, when the last has been read.
    pub(super) fn take(&self) -> HashSet<Key> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads an open file, no further than its size when the reading began: a log that grows faster
/// than it is read has an end. Reads again what was changed meanwhile.
#[derive(Debug)]
pub(super) struct FileReader {
    file: SparseReader,
    key: Key,
    /// What `stat` said when this reading began, and when that was.
    fingerprint: Fingerprint,
    began: Timestamp,
    left: u64,
    readings: u32,
    /// Bytes of this reading, and those of the longest one that are reported as progress.
    read: u64,
    reported: u64,
    unread: Unread,
    ctx: Context,
}

impl FileReader {
    /// The file at its beginning, with what `fstat` says of it.
    pub(super) fn new(file: File, stat: &Stat, key: Key, unread: Unread, ctx: Context) -> Self {
        let (fingerprint, left) = (Fingerprint::of(stat), size(stat));
        let began = ctx.clock.now();
        let file = SparseReader::new(file, stat);
        Self { file, key, fingerprint, began, left, readings: 1, read: 0, reported: 0, unread, ctx }
    }

    /// Whether the file is as it was when the reading began; if not, goes back to the beginning of
    /// what it is now, a few times.
    fn look_again(&mut self, head: &mut Vec<u8>) -> io::Result<Settled> {
        let mut stat = rustix::fs::fstat(&self.file)?;
        let is_same = |stat: &Stat| Fingerprint::of(stat) == self.fingerprint;
        if is_same(&stat) {
            // A change just before the reading may have left the time that one during it would.
            if !self.is_young(self.began) {
                return Ok(Settled::Stands);
            }
            if self.is_young(self.ctx.clock.now()) {
                std::thread::sleep(TICK);
            }
            stat = rustix::fs::fstat(&self.file)?;
        }
        let is_same = is_same(&stat);
        if self.readings == READINGS {
            self.skip("changed while it was read, three times; stored as last read");
            return Ok(Settled::Stands);
        }
        self.file.rewind(&stat)?;
        (self.fingerprint, self.left) = (Fingerprint::of(&stat), size(&stat));
        (self.began, self.read, self.readings) = (self.ctx.clock.now(), 0, self.readings + 1);
        if !is_same {
            let before = Entry::decode(head).map_err(io::Error::other)?;
            // No name of another file any more: of that one an earlier state may be stored.
            let now = Entry { link: None, ..Entry::from_stat(EntryKind::File, &stat) };
            *head = Entry { attributes: before.attributes, flags: before.flags, ..now }.encode();
        }
        Ok(Settled::Again)
    }

    /// Whether the file was changed at about this time.
    fn is_young(&self, time: Timestamp) -> bool {
        let changed = self.fingerprint.changed();
        time.since(changed) < TICK && changed.since(time) < TICK
    }

    fn report_bytes(&mut self) {
        let bytes = self.read.saturating_sub(self.reported);
        self.reported += bytes;
        self.ctx.report(Event::Progress { items: 0, bytes });
    }

    fn skip(&self, reason: &str) {
        let (item, reason) = (display_key(&self.key), reason.to_owned());
        self.ctx.report(Event::Skipped { item, reason });
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let count = self.file.read(&mut buffer[..length])?;
        // The file is shorter than it was: that is all there is.
        self.left = if count == 0 { 0 } else { self.left.saturating_sub(count as u64) };
        self.read += count as u64;
        if self.read >= self.reported + PROGRESS_BYTES {
            self.report_bytes();
        }
        Ok(count)
    }
}

impl Reading for FileReader {
    fn expected(&self) -> u64 {
        self.left
    }

    fn settle(&mut self, read: io::Result<()>, head: &mut Vec<u8>) -> io::Result<Settled> {
        let settled = read.and_then(|()| self.look_again(head)).unwrap_or_else(|error| {
            self.skip(&format!("cannot be read: {error}"));
            self.unread.add(&self.key);
            Settled::LeftOut
        });
        if settled != Settled::Again {
            self.report_bytes();
        }
        Ok(settled)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a file for a test needs not be durable")]
#[expect(clippy::type_complexity, reason = "a table of changes and what follows from them")]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::report::Recorder;

    /// A reader of a file, and the head of its entry.
    fn open(path: &Path, ctx: &Context, unread: &Unread) -> (FileReader, Vec<u8>) {
        let file = File::open(path).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let head = Entry::from_stat(EntryKind::File, &stat).encode();
        (FileReader::new(file, &stat, b"log".to_vec(), unread.clone(), ctx.clone()), head)
    }

    /// Long enough for what was written to be old.
    fn rest() {
        std::thread::sleep(2 * TICK);
    }

    fn recorded() -> (Context, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let reporter = Arc::clone(&recorder) as Arc<dyn crate::report::Reporter>;
        (Context { reporter, ..Context::new() }, recorder)
    }

    fn read(reader: &mut FileReader) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_file_that_changed_while_it_was_read_is_read_again_with_new_metadata() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let changes: [(&str, &dyn Fn(&File)); 3] = [
            ("one line, and more", &|file| file.write_all_at(b", and more", 8).unwrap()),
            ("one", &|file| file.set_len(3).unwrap()),
            ("", &|file| file.set_len(0).unwrap()),
        ];
        for (after, change) in changes {
            std::fs::write(&path, "one line").unwrap();
            rest();
            let (ctx, recorder) = recorded();
            let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
            assert_eq!(read(&mut reader), b"one line");
            change(&File::options().write(true).open(&path).unwrap());
            rest();
            assert_eq!(reader.settle(Ok(()), &mut head).unwrap(), Settled::Again);
            assert_eq!(read(&mut reader), after.as_bytes());
            assert_eq!(reader.settle(Ok(()), &mut head).unwrap(), Settled::Stands);
            let stat = rustix::fs::stat(&path).unwrap();
            assert_eq!(head, Entry::from_stat(EntryKind::File, &stat).encode());
            assert!(recorder.skipped().is_empty());
        }
    }

    #[test]
    fn a_file_written_to_just_before_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one").unwrap();
        let (ctx, recorder) = recorded();
        let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
        reader.began = reader.fingerprint.changed();
        assert_eq!(read(&mut reader), b"one");
        assert_eq!(reader.settle(Ok(()), &mut head).unwrap(), Settled::Again);
        assert_eq!(read(&mut reader), b"one");
        assert_eq!(reader.settle(Ok(()), &mut head).unwrap(), Settled::Stands);
        assert!(recorder.skipped().is_empty());
    }

    #[test]
    fn a_further_name_stays_one_when_it_is_read_again_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one").unwrap();
        let (ctx, _) = recorded();
        let (mut reader, head) = open(&path, &ctx, &Unread::default());
        let link = Some(b"first".to_vec());
        let mut head = Entry { link, ..Entry::decode(&head).unwrap() }.encode();
        let before = head.clone();
        reader.began = reader.fingerprint.changed();
        read(&mut reader);
        assert_eq!(reader.settle(Ok(()), &mut head).unwrap(), Settled::Again);
        assert_eq!(head, before);
    }

    #[test]
    fn a_file_that_never_settles_is_stored_as_last_read_and_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "").unwrap();
        let mut writer = File::options().append(true).open(&path).unwrap();
        let (ctx, recorder) = recorded();
        let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
        for expected in [Settled::Again, Settled::Again, Settled::Stands] {
            read(&mut reader);
            writer.write_all(b"x").unwrap();
            assert_eq!(reader.settle(Ok(()), &mut head).unwrap(), expected);
        }
        assert_eq!(recorder.skipped(), ["log"]);
    }

    #[test]
    fn a_file_that_vanishes_while_it_is_read_is_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one line").unwrap();
        rest();
        let (ctx, recorder) = recorded();
        let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
        std::fs::remove_file(&path).unwrap();
        loop {
            assert_eq!(read(&mut reader), b"one line");
            if reader.settle(Ok(()), &mut head).unwrap() == Settled::Stands {
                break;
            }
        }
        assert!(recorder.skipped().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_out_and_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one line").unwrap();
        let ((ctx, recorder), unread) = (recorded(), Unread::default());
        let (mut reader, mut head) = open(&path, &ctx, &unread);
        // Not open for reading: every read fails.
        let file = File::options().write(true).open(&path).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        reader.file = SparseReader::new(file, &stat);
        let error = reader.read(&mut [0; 9]).unwrap_err();
        assert_eq!(reader.settle(Err(error), &mut head).unwrap(), Settled::LeftOut);
        assert_eq!(recorder.skipped(), ["log"]);
        assert!(unread.take().contains(&b"log"[..]));
    }

    /// A program that rewrites a file all the time, each time with one byte everywhere. What is
    /// stored is of one piece, or listed.
    #[test]
    fn a_mutator_is_either_told_of_or_never_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let content = |byte: u8| vec![byte; 300_000 + 1000 * usize::from(byte)];
        std::fs::write(&path, content(0)).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::options().write(true).open(&path).unwrap();
                for byte in (0..=255).cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let bytes = content(byte);
                    file.set_len(bytes.len() as u64).unwrap();
                    file.write_all_at(&bytes, 0).unwrap();
                    std::thread::sleep(Duration::from_micros(u64::from(byte) * 97));
                }
            });
            let (mut whole, mut listed) = (0, 0);
            for _ in 0..200 {
                let (ctx, recorder) = recorded();
                let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
                let bytes = loop {
                    let bytes = read(&mut reader);
                    match reader.settle(Ok(()), &mut head).unwrap() {
                        Settled::Stands => break bytes,
                        Settled::Again => {}
                        Settled::LeftOut => panic!("it can be read"),
                    }
                };
                if recorder.skipped().is_empty() {
                    assert!(bytes == content(bytes[0]), "a mix, without a word");
                    whole += 1;
                } else {
                    listed += 1;
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert!(whole > 0, "{listed} readings never settled");
        });
    }
}
