//! Whether a file is as it was when it was captured before, found out without reading its rows.
//!
//! Between two captures of one process the connection that stays open knows: `PRAGMA data_version`
//! changes when another connection has committed. Across processes the files tell: every commit
//! changes the header of the database, or, in WAL mode, the head of the index of the log.
//! Formats: <https://sqlite.org/fileformat2.html> §1.3 and §4, <https://sqlite.org/walformat.html>
//! §2.1. Both count only while the file itself is the same one with the same stamps: a file that
//! was put in its place may have come as far.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SqliteError;
use crate::id::hex;
use crate::time::Timestamp;

/// Rises when a reading of the same file would give other trees.
const VERSION: u32 = 1;
/// Bytes of the header of a database, of the header of a log, and of the two copies of the head of
/// its index.
const HEADER: usize = 100;
const LOG_HEADER: usize = 32;
const INDEX_HEAD: usize = 48;
/// Stamps that are younger say nothing: the next change may get the same. The coarsest file
/// systems count in steps of two seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// The note that a capture leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    version: u32,
    /// Names this state of the file to the process that captured it.
    pub token: String,
    /// What decides, besides the rows, what is captured.
    pub options: String,
    /// What the files said; `None` where they were changed too lately, or during the look.
    pub state: Option<State>,
}

impl Position {
    pub(super) fn new(options: String, state: Option<State>) -> Result<Self, SqliteError> {
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|error| SqliteError::Random { error })?;
        Ok(Self { version: VERSION, token: hex(&token), options, state })
    }

    /// Reads the note of an earlier snapshot; `None` where there is none that this version knows.
    pub(super) fn of_note(note: &[u8]) -> Option<Self> {
        serde_json::from_slice(note).ok().filter(|position: &Self| position.version == VERSION)
    }

    pub(super) fn to_note(&self) -> Vec<u8> {
        crate::source::record::json(self)
    }
}

/// What the files of a database say of the state that a new transaction would see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub file: Stamps,
    /// The header of the database, hexadecimal.
    header: String,
    /// What was committed and not yet put into the database.
    log: Option<Log>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Log {
    file: Stamps,
    /// Hexadecimal.
    header: String,
    /// The head of the index, which says how far the log is valid; hexadecimal.
    index: String,
}

/// Which file it is, and what changes when it is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamps {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// None of the log: SQLite sets its owner each time that root opens it.
    changed: Option<(i64, i64)>,
}

impl Stamps {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: Some((metadata.ctime(), metadata.ctime_nsec())),
        }
    }

    fn is_settled(&self, now: Timestamp) -> bool {
        std::iter::once(self.modified).chain(self.changed).all(|(seconds, nanoseconds)| {
            let nanoseconds = u32::try_from(nanoseconds).unwrap_or_default();
            now.since(Timestamp::new(seconds, nanoseconds)) >= SETTLED
        })
    }
}

impl State {
    /// Whether the next change cannot leave everything as it is here.
    pub(super) fn is_settled(&self, now: Timestamp) -> bool {
        let log = self.log.as_ref().map(|log| &log.file);
        std::iter::once(&self.file).chain(log).all(|file| file.is_settled(now))
    }
}

/// The files of one database that SQLite locks, as this process has them open.
///
/// Whoever closes a file gives up all locks that the process has on it, whichever descriptor they
/// were taken with (`fcntl(2)`, "Record locking"), and without them other processes would take the
/// log away from under the connection. So every [`Connection`](super::connection::Connection) holds
/// these, and they are closed after the last one.
#[derive(Debug)]
pub(super) struct Files {
    database: File,
    /// Of the log, the newest last.
    indexes: Mutex<Vec<File>>,
}

type Inode = (u64, u64);

/// All that are open, by device and inode.
static OPEN: Mutex<BTreeMap<Inode, Weak<Files>>> = Mutex::new(BTreeMap::new());

impl Files {
    /// Those of the file at a path, if there is one.
    pub(super) fn open(path: &Path) -> Result<Option<Arc<Self>>, SqliteError> {
        let error = |source| SqliteError::Look { path: path.to_owned(), source };
        let Some(metadata) = present(fs::metadata(path)).map_err(error)? else { return Ok(None) };
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = open.get(&inode(&metadata)).and_then(Weak::upgrade) {
            return Ok(Some(files));
        }
        let Some(database) = present(File::open(path)).map_err(error)? else { return Ok(None) };
        let key = inode(&database.metadata().map_err(error)?);
        open.retain(|_, files| files.strong_count() > 0);
        let files = Arc::new(Self { database, indexes: Mutex::default() });
        open.insert(key, Arc::downgrade(&files));
        Ok(Some(files))
    }

    /// Whether a path still names these.
    pub(super) fn are_at(&self, path: &Path) -> bool {
        let opened = self.database.metadata();
        let opened_at = |at: Metadata| opened.is_ok_and(|opened| inode(&opened) == inode(&at));
        fs::metadata(path).is_ok_and(opened_at)
    }

    /// Looks. `None` where the files cannot tell: another was put at the path, or a commit is
    /// under way.
    pub(super) fn state(&self, path: &Path) -> Result<Option<State>, SqliteError> {
        self.look(path).map_err(|source| SqliteError::Look { path: path.to_owned(), source })
    }

    fn look(&self, path: &Path) -> io::Result<Option<State>> {
        if !self.are_at(path) {
            return Ok(None);
        }
        let file = Stamps::of(&fs::metadata(path)?);
        let Some(header) = head::<HEADER>(&self.database)? else { return Ok(None) };
        let header = hex(&header);
        // The log is not locked. Each first connection makes an empty one.
        let log = match present(File::open(beside(path, "-wal")))? {
            Some(log) if log.metadata()?.len() > 0 => log,
            _ => return Ok(Some(State { file, header, log: None })),
        };
        let Some(log_header) = head::<LOG_HEADER>(&log)? else { return Ok(None) };
        let Some(index) = self.index(path)? else { return Ok(None) };
        let (first, second) = index.split_at(INDEX_HEAD);
        if first != second {
            return Ok(None);
        }
        let (header_of_log, index) = (hex(&log_header), hex(first));
        let stamps = Stamps { changed: None, ..Stamps::of(&log.metadata()?) };
        let log = Log { file: stamps, header: header_of_log, index };
        Ok(Some(State { file, header, log: Some(log) }))
    }

    /// Both copies of the head of the log's index.
    fn index(&self, path: &Path) -> io::Result<Option<[u8; 2 * INDEX_HEAD]>> {
        let path = beside(path, "-shm");
        let Some(there) = present(fs::metadata(&path))? else { return Ok(None) };
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = indexes.last().map(File::metadata).transpose()?;
        if newest.is_none_or(|newest| inode(&newest) != inode(&there)) {
            indexes.extend(present(File::open(&path))?);
        }
        indexes.last().map_or(Ok(None), head)
    }
}

fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a file begins with, if it is as long.
fn head<const N: usize>(file: &File) -> io::Result<Option<[u8; N]>> {
    let mut head = [0; N];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) => Ok(Some(head)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push(suffix);
    file.into()
}
