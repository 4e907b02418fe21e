//! Snapshots as the repository sees them: committed objects whose meaning it does not know.

use std::collections::HashSet;

use super::error::RepoError;
use super::format::{FormatError, codec, name};
use super::open::Repo;
use super::session::SessionRecord;
use crate::crypto::ObjectKind;
use crate::id::SnapshotId;
use crate::time::Timestamp;

/// A committed snapshot.
#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    /// Its name.
    pub id: SnapshotId,
    /// What was given to [`Session::commit`](super::Session::commit).
    pub manifest: Vec<u8>,
}

/// What the folders say of all snapshots, looked at in the order that makes it true.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Committed, and the session was seen after that; forgotten or not.
    pub(super) valid: Vec<SnapshotId>,
    /// There is an object, but none that is valid: given up, or committed too late.
    pub(super) void: Vec<SnapshotId>,
    /// Those with a tombstone.
    pub(super) forgotten: HashSet<SnapshotId>,
}

impl Repo {
    /// All valid snapshots that were not forgotten, in no particular order. A snapshot is valid
    /// when its object is there and, looked at *after* that, the session that wrote it.
    pub fn snapshots(&self) -> Result<Vec<StoredSnapshot>, RepoError> {
        let Listed { valid, forgotten, .. } = self.list_snapshots()?;
        let shown: Vec<_> = valid.into_iter().filter(|id| !forgotten.contains(id)).collect();
        self.read_snapshots(&shown)
    }

    /// Those that a collection has taken up are none any more.
    pub(super) fn list_snapshots(&self) -> Result<Listed, RepoError> {
        let committed = self.backend.list(name::SNAPSHOTS)?;
        let sessions: HashSet<String> =
            self.backend.list(name::SESSIONS)?.into_iter().map(|entry| entry.name).collect();
        let mut listed = Listed::default();
        for entry in self.backend.list(name::TOMBSTONES)? {
            let id = entry.name.strip_prefix(name::TOMBSTONES);
            let id: Option<SnapshotId> = id.and_then(|id| id.parse().ok());
            listed.forgotten.extend(id);
        }
        let collections = self.collections();
        for entry in committed {
            let id = snapshot_id(&entry.name)?;
            if entry.size == 0 || !sessions.contains(&name::session(id)) {
                listed.void.push(id);
            } else if !collections.removes(id) {
                listed.valid.push(id);
            }
        }
        Ok(listed)
    }

    pub(super) fn read_snapshots(
        &self,
        ids: &[SnapshotId],
    ) -> Result<Vec<StoredSnapshot>, RepoError> {
        let mut snapshots = Vec::with_capacity(ids.len());
        for id in ids {
            match self.backend.get(&name::snapshot(*id)) {
                Ok(object) => snapshots.push(self.open_snapshot(*id, &object)?),
                // Forgotten and collected between the listing and now.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(snapshots)
    }

    /// When a session began, by the clock of who wrote it; none where nobody knows any more.
    pub fn session_started(&self, id: SnapshotId) -> Result<Option<Timestamp>, RepoError> {
        let name = name::session(id);
        let object = match self.backend.get(&name) {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let record = self.sealer.open_object(ObjectKind::Session, &name, &object);
        let record = record.ok().and_then(|b| codec::decode::<SessionRecord>("session", &b).ok());
        Ok(record.map(|record| record.started))
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
