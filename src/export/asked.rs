//! Whether a Django application would answer as it did: to ask it takes as long as to start it,
//! which a snapshot every minute cannot afford.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The name of the note in which a database's snapshot keeps what was looked at.
pub(super) const NOTE: &str = "django-asked";

/// A file that was changed this many nanoseconds before it was looked at may change again without
/// a trace: its time may be as coarse.
const RACY: i64 = 2_000_000_000;

/// What an answer depends on: the modules of the application, the folders that they are in, the
/// folders of its packages, its settings files, and the environment.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    manage: PathBuf,
    python: PathBuf,
    environment: String,
    /// By path; none for what is not there.
    files: BTreeMap<PathBuf, Option<Stamp>>,
}

/// Tells a version of a file from another: inode, size, and the nanoseconds of both times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp(u64, u64, i64, i64);

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = path.metadata().ok()?;
        let nanoseconds =
            |seconds: i64, part: i64| seconds.saturating_mul(1_000_000_000).saturating_add(part);
        let modified = nanoseconds(found.mtime(), found.mtime_nsec());
        let changed = nanoseconds(found.ctime(), found.ctime_nsec());
        Some(Self(found.ino(), found.size(), modified, changed))
    }
}

impl Asked {
    /// Looks at the files that the answer of an application, asked at `time`, comes from. `None` if
    /// one was changed too shortly before.
    pub(super) fn of(
        files: Vec<PathBuf>,
        (manage, python, environment): (&Path, &Path, &str),
        time: Timestamp,
    ) -> Option<Self> {
        let files: BTreeMap<_, _> =
            files.into_iter().map(|path| (path.clone(), Stamp::of(&path))).collect();
        let latest = time.seconds.saturating_mul(1_000_000_000).saturating_sub(RACY);
        let settled = files.values().flatten().all(|stamp| stamp.2.max(stamp.3) < latest);
        settled.then(|| Self {
            manage: manage.to_owned(),
            python: python.to_owned(),
            environment: environment.to_owned(),
            files,
        })
    }

    /// Whether all is as it was.
    pub(super) fn still_holds(&self, manage: &Path, python: &Path, environment: &str) -> bool {
        self.manage == manage
            && self.python == python
            && self.environment == environment
            && self.files.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}
