//! Snapshots as the repository sees them: committed objects whose meaning it does not know.

use std::collections::HashSet;

use super::error::RepoError;
use super::format::{FormatError, name};
use super::open::Repo;
use crate::crypto::ObjectKind;
use crate::id::SnapshotId;

/// A committed snapshot.
#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    /// Its name.
    pub id: SnapshotId,
    /// What was given to [`Session::commit`](super::Session::commit).
    pub manifest: Vec<u8>,
}

impl Repo {
    /// All valid snapshots that were not forgotten, in no particular order. A snapshot is valid
    /// when its object is there and, looked at *after* that, the session that wrote it.
    pub fn snapshots(&self) -> Result<Vec<StoredSnapshot>, RepoError> {
        let committed = self.backend.list(name::SNAPSHOTS)?;
        let sessions: HashSet<String> =
            self.backend.list(name::SESSIONS)?.into_iter().map(|entry| entry.name).collect();
        let forgotten: HashSet<String> =
            self.backend.list(name::TOMBSTONES)?.into_iter().map(|entry| entry.name).collect();
        let mut snapshots = Vec::with_capacity(committed.len());
        for entry in committed.iter().filter(|entry| entry.size > 0) {
            let id = snapshot_id(&entry.name)?;
            let is_valid = sessions.contains(&name::session(id));
            if !is_valid || forgotten.contains(&name::tombstone(id)) {
                continue;
            }
            match self.backend.get(&entry.name) {
                Ok(object) => snapshots.push(self.open_snapshot(id, &object)?),
                // Forgotten and collected between the listing and now.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(snapshots)
    }

    /// Hides a snapshot: nobody finds it any more, and a later collection may remove what only it
    /// needs. To forget one twice is to forget it.
    pub fn forget(&self, id: SnapshotId) -> Result<(), RepoError> {
        self.backend.create(&name::tombstone(id), &[])?;
        Ok(())
    }

    fn open_snapshot(&self, id: SnapshotId, object: &[u8]) -> Result<StoredSnapshot, RepoError> {
        let content = self.sealer.open_object(ObjectKind::Snapshot, &name::snapshot(id), object)?;
        // The first 16 bytes are the writer's nonce.
        let manifest = content.get(16..).ok_or_else(|| FormatError {
            what: "snapshot",
            reason: "it ends too early".to_owned(),
        })?;
        Ok(StoredSnapshot { id, manifest: manifest.to_vec() })
    }
}

fn snapshot_id(object: &str) -> Result<SnapshotId, FormatError> {
    let text = object.strip_prefix(name::SNAPSHOTS).unwrap_or(object);
    text.parse().map_err(|_| FormatError {
        what: "snapshot name",
        reason: format!("`{object}` is no name that coeval gives"),
    })
}
