//! Whether history went missing. Whoever can write to the store cannot forge a snapshot, but can
//! delete one, or put back an older state of the whole; so this host remembers what it has seen.
//! What a collection removed is named in `gc/`, whose numbers have no gaps: all else that is gone
//! was taken away.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::check::Finding;
use super::error::RepoError;
use super::format::name;
use super::open::Repo;
use super::snapshots::{Listed, StoredSnapshot};
use crate::id::SnapshotId;

/// The list in the cache.
const LIST: &str = "history";

/// The snapshots that are there, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct History {
    /// All that can be read and were not forgotten, in no particular order.
    pub snapshots: Vec<StoredSnapshot>,
    /// Those that cannot be read, with why.
    pub unreadable: BTreeMap<SnapshotId, String>,
    /// What this host has seen and is gone.
    pub findings: Vec<Finding>,
}

/// What this host has seen: one line for each.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Seen {
    snapshots: BTreeSet<SnapshotId>,
    forgotten: BTreeSet<SnapshotId>,
    collections: u64,
}

impl Repo {
    /// All valid snapshots that were not forgotten. One that is damaged does not hide the others,
    /// and one that went missing is told.
    pub fn history(&self) -> Result<History, RepoError> {
        self.learn_collections_if_sound()?;
        let listed = self.list_snapshots()?;
        let findings = self.missing(&listed)?;
        let shown = listed.valid.iter().filter(|id| !listed.forgotten.contains(id));
        Ok(History { findings, ..self.read_what_can_be(shown)? })
    }

    /// The same of the snapshots that were forgotten and can still come back.
    pub fn forgotten(&self) -> Result<History, RepoError> {
        self.learn_collections()?;
        let listed = self.list_snapshots()?;
        self.read_what_can_be(listed.valid.iter().filter(|id| listed.forgotten.contains(id)))
    }

    fn read_what_can_be<'a>(
        &self,
        ids: impl Iterator<Item = &'a SnapshotId>,
    ) -> Result<History, RepoError> {
        let ids: Vec<&SnapshotId> = ids.collect();
        let read: Vec<_> = ids.par_iter().map(|id| self.read_snapshots(&[**id])).collect();
        let mut history = History::default();
        for (id, read) in ids.into_iter().zip(read) {
            match read {
                Ok(read) => history.snapshots.extend(read),
                Err(error @ (RepoError::Open(_) | RepoError::Format(_))) => {
                    history.unreadable.insert(*id, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(history)
    }

    /// Those of some snapshots that are not there, though no collection removed them.
    pub fn unaccounted(
        &self,
        ids: &BTreeSet<SnapshotId>,
    ) -> Result<BTreeSet<SnapshotId>, RepoError> {
        let there: HashSet<SnapshotId> = self.list_snapshots()?.valid.into_iter().collect();
        // After the listing: what was removed meanwhile is known to be.
        self.learn_collections()?;
        let collections = self.collections();
        let is_lost = |id: &&SnapshotId| !there.contains(id) && !collections.removes(**id);
        Ok(ids.iter().filter(is_lost).copied().collect())
    }

    /// What this host has seen that is gone, though no collection removed it; and remembers what
    /// is there now.
    fn missing(&self, listed: &Listed) -> Result<Vec<Finding>, RepoError> {
        let there: HashSet<&SnapshotId> = listed.valid.iter().collect();
        match self.learn_collections() {
            // `check` says what is damaged. Until that is repaired nobody knows what was removed.
            Err(RepoError::Open(_) | RepoError::Format(_)) => return Ok(Vec::new()),
            result => result?,
        }
        let mut seen = Seen::parse(&self.memory.recall(LIST).map_err(RepoError::Scratch)?);
        let before = seen.clone();
        let collections = self.collections();
        let mut findings = Vec::new();
        let path = self.memory.path(LIST);
        let mut find = |object: String, what: &str| {
            let path = path.display();
            let problem = format!("{what}; if that is as it should be, delete {path}");
            findings.push(Finding { object, problem });
        };
        seen.snapshots.retain(|id| !collections.removes(*id));
        seen.forgotten.retain(|id| !collections.removes(*id));
        for id in seen.snapshots.iter().filter(|id| !there.contains(id)) {
            let what = "this host has seen it, and it is gone, though no collection removed it";
            find(name::snapshot(*id), what);
        }
        for id in seen.forgotten.iter().filter(|id| !listed.forgotten.contains(id)) {
            find(name::tombstone(*id), "this host has seen it: its snapshot was forgotten");
        }
        let finished = collections.finished();
        if finished < seen.collections {
            let known = seen.collections;
            let what = format!("this host has seen {known} finished, and now {finished} are");
            find(name::COLLECTIONS.to_owned(), &what);
        }
        drop(collections);
        seen.collections = seen.collections.max(finished);
        seen.snapshots.extend(&listed.valid);
        seen.forgotten.extend(listed.forgotten.iter().filter(|id| there.contains(id)));
        if seen != before {
            kept(self.memory.remember(LIST, seen.lines()))?;
        }
        Ok(findings)
    }

    /// All that this host remembers to have seen.
    pub(super) fn remembered(&self) -> Result<BTreeSet<SnapshotId>, RepoError> {
        let seen = Seen::parse(&self.memory.recall(LIST).map_err(RepoError::Scratch)?);
        Ok(seen.snapshots.union(&seen.forgotten).copied().collect())
    }

    /// Remembers a snapshot that was just committed.
    pub(super) fn remember_commit(&self, id: SnapshotId) -> Result<(), RepoError> {
        kept(self.memory.add(LIST, &format!("snapshot {id}")))
    }
}

/// Where no cache can be kept, nothing can be remembered, which is no failure.
pub(super) fn kept(result: std::io::Result<()>) -> Result<(), RepoError> {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    match result {
        Err(error)
            if !matches!(
                error.kind(),
                NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem
            ) =>
        {
            Err(RepoError::Scratch(error))
        }
        _ => Ok(()),
    }
}

impl Seen {
    fn parse(lines: &[String]) -> Self {
        let mut seen = Self::default();
        for line in lines {
            match line.split_once(' ') {
                Some(("snapshot", id)) => seen.snapshots.extend(id.parse::<SnapshotId>().ok()),
                Some(("forgotten", id)) => seen.forgotten.extend(id.parse::<SnapshotId>().ok()),
                Some(("collections", count)) => seen.collections = count.parse().unwrap_or(0),
                _ => {}
            }
        }
        seen
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let snapshots = self.snapshots.iter().map(|id| format!("snapshot {id}"));
        let forgotten = self.forgotten.iter().map(|id| format!("forgotten {id}"));
        let collections = std::iter::once(format!("collections {}", self.collections));
        snapshots.chain(forgotten).chain(collections)
    }
}
