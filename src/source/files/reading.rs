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
use crate::tree::{Key, Outcome, Reading, Settled};

/// Bytes between two progress reports.
const PROGRESS_BYTES: u64 = 1 << 20;
/// How often a file that is written to meanwhile is read.
const READINGS: u32 = 3;
/// The coarsest clock by which kernels stamp files: two writes within this may leave one time.
const TICK: Duration = Duration::from_millis(10);
/// How long a call that writes may go on: the kernel stamps the file when it begins, copies up to
/// 2 GiB, and may wait for a disk in between. Also the tick of file systems with a coarser clock.
const WRITING: Duration = Duration::from_secs(2);

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
///
/// A reading stands when `fstat` says the same after it as before, and the last change
/// - lies more than [`WRITING`] before the reading began, or
/// - lies more than [`TICK`] before it, and the reading before gave the same bytes: these were the
///   content at the moment between the two.
///
/// Writes that began during the reading have then left another time, and those that were under
/// way have ended or made no progress. What is read of a file that is replaced or deleted
/// meanwhile is what it was until then, and whole. Writes to a mapped file may leave no time for
/// half a minute, until the kernel writes the pages back: only the reading after finds these.
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

    /// Whether the reading stands; if not, goes back to the beginning of what the file is now, a
    /// few times.
    fn look_again(&mut self, outcome: Outcome, head: &mut Vec<u8>) -> io::Result<Settled> {
        let mut stat = rustix::fs::fstat(&self.file)?;
        let before = self.fingerprint;
        let enough = if outcome == Outcome::Same { TICK } else { WRITING };
        if Fingerprint::of(&stat) == before && !before.changed_within(enough, self.began) {
            return Ok(Settled::Stands);
        }
        if self.readings == READINGS {
            self.skip("changed while it was read, three times; stored as last read");
            return Ok(Settled::Stands);
        }
        if Fingerprint::of(&stat).changed_within(TICK, self.ctx.clock.now()) {
            std::thread::sleep(TICK);
            stat = rustix::fs::fstat(&self.file)?;
        }
        self.file.rewind(&stat)?;
        (self.fingerprint, self.left) = (Fingerprint::of(&stat), size(&stat));
        (self.began, self.read, self.readings) = (self.ctx.clock.now(), 0, self.readings + 1);
        if self.fingerprint != before {
            let before = Entry::decode(head).map_err(io::Error::other)?;
            // No name of another file any more: of that one an earlier state may be stored.
            let now = Entry { link: None, ..Entry::from_stat(EntryKind::File, &stat) };
            *head = Entry { attributes: before.attributes, flags: before.flags, ..now }.encode();
        }
        Ok(Settled::Again)
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

    fn settle(&mut self, read: io::Result<Outcome>, head: &mut Vec<u8>) -> io::Result<Settled> {
        let settled = read.and_then(|outcome| self.look_again(outcome, head));
        let settled = settled.unwrap_or_else(|error| {
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

    use super::super::entry::change_time;
    use super::*;
    use crate::report::Recorder;

    /// A reader of a file, and the head of its entry.
    fn open(path: &Path, ctx: &Context, unread: &Unread) -> (FileReader, Vec<u8>) {
        let file = File::open(path).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let head = Entry::from_stat(EntryKind::File, &stat).encode();
        (FileReader::new(file, &stat, b"log".to_vec(), unread.clone(), ctx.clone()), head)
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

    /// What stands in the end, stored as a tree does it.
    fn stored(reader: &mut FileReader, head: &mut Vec<u8>) -> Vec<u8> {
        let mut before = None;
        loop {
            let bytes = read(reader);
            let is_same = before.as_ref() == Some(&bytes);
            let outcome = if is_same { Outcome::Same } else { Outcome::New };
            match reader.settle(Ok(outcome), head).unwrap() {
                Settled::Stands => return bytes,
                Settled::Again => before = Some(bytes),
                Settled::LeftOut => panic!("it can be read"),
            }
        }
    }

    /// Has the reading begin long after the last change.
    fn age(reader: &mut FileReader, path: &Path) {
        let changed = change_time(&rustix::fs::stat(path).unwrap());
        reader.began = Timestamp::new(changed.seconds + 2, changed.nanoseconds);
    }

    #[test]
    fn an_old_file_is_read_once_and_a_young_one_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one").unwrap();
        for readings in [1, 2] {
            let (ctx, recorder) = recorded();
            let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
            let before = head.clone();
            if readings == 1 {
                age(&mut reader, &path);
            }
            assert_eq!(stored(&mut reader, &mut head), b"one");
            assert_eq!((reader.readings, head), (readings, before));
            assert!(recorder.skipped().is_empty());
        }
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
            let (ctx, recorder) = recorded();
            let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
            age(&mut reader, &path);
            assert_eq!(read(&mut reader), b"one line");
            std::thread::sleep(2 * TICK);
            change(&File::options().write(true).open(&path).unwrap());
            assert_eq!(reader.settle(Ok(Outcome::New), &mut head).unwrap(), Settled::Again);
            assert_eq!(stored(&mut reader, &mut head), after.as_bytes());
            let stat = rustix::fs::stat(&path).unwrap();
            assert_eq!(head, Entry::from_stat(EntryKind::File, &stat).encode());
            assert!(recorder.skipped().is_empty());
        }
    }

    /// The kernel stamps a file when a call that writes begins, so that one under way leaves the
    /// same time before and after a reading.
    #[test]
    fn a_write_under_way_is_seen_by_the_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let contents = ["abcdef", "ABcdef", "ABCDef", "ABCDEF"];
        for (steps, listed) in [(1, false), (2, true)] {
            std::fs::write(&path, contents[0]).unwrap();
            let (ctx, recorder) = recorded();
            let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
            let mut settled = Settled::Again;
            for content in &contents[1..=steps] {
                read(&mut reader);
                std::fs::write(&path, content).unwrap();
                reader.fingerprint = Fingerprint::of(&rustix::fs::stat(&path).unwrap());
                settled = reader.settle(Ok(Outcome::New), &mut head).unwrap();
            }
            assert_eq!(settled, Settled::Again);
            assert_eq!(read(&mut reader), contents[steps].as_bytes());
            settled = reader.settle(Ok(Outcome::New), &mut head).unwrap();
            assert_eq!(settled, if listed { Settled::Stands } else { Settled::Again });
            assert_eq!(!recorder.skipped().is_empty(), listed);
        }
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
        stored(&mut reader, &mut head);
        assert_eq!((reader.readings, head), (2, before));
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
            assert_eq!(reader.settle(Ok(Outcome::New), &mut head).unwrap(), expected);
        }
        assert_eq!(recorder.skipped(), ["log"]);
    }

    #[test]
    fn a_file_that_is_replaced_or_deleted_while_it_is_read_is_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for replacement in [Some("another line"), None] {
            std::fs::write(&path, "one line").unwrap();
            let (ctx, recorder) = recorded();
            let (mut reader, mut head) = open(&path, &ctx, &Unread::default());
            age(&mut reader, &path);
            let before = head.clone();
            assert_eq!(reader.read(&mut [0; 3]).unwrap(), 3);
            match replacement {
                Some(content) => {
                    let new = folder.path().join("new");
                    std::fs::write(&new, content).unwrap();
                    std::fs::rename(&new, &path).unwrap();
                }
                None => std::fs::remove_file(&path).unwrap(),
            }
            read(&mut reader);
            assert_eq!(reader.settle(Ok(Outcome::New), &mut head).unwrap(), Settled::Again);
            assert_eq!(stored(&mut reader, &mut head), b"one line");
            assert_eq!(head, before);
            assert!(recorder.skipped().is_empty());
        }
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
                let bytes = stored(&mut reader, &mut head);
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
