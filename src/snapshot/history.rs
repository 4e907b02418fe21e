//! The history of what a path leads to: each snapshot beside the one before it.

use std::collections::HashMap;
use std::sync::Arc;

use super::manifest::Manifest;
use super::opened::Snapshot;
use super::scope::Scope;
use crate::hint::{ErrorKind, Failure};
use crate::id::SnapshotId;
use crate::repo::Repo;

/// A snapshot and the one before it: of the same application and machine, and with the same source.
#[derive(Debug)]
pub struct Step {
    /// The one before; `None` at the beginning.
    pub old: Option<Snapshot>,
    /// The snapshot.
    pub new: Snapshot,
    /// What the path leads to in one of them.
    pub scope: Scope,
}

/// The steps in the history of a path, newest first, of `snapshots`, which are given oldest first.
/// Snapshots that captured nothing of what the path names tell nothing of it and are passed over.
/// [`diff`](super::diff) says what a step changed; where that is nothing, it hardly costs anything.
pub fn history<'a>(
    repo: &'a Arc<Repo>,
    snapshots: impl Iterator<Item = &'a (SnapshotId, Manifest)>,
    path: &'a str,
) -> impl Iterator<Item = Result<Step, Failure>> + 'a {
    let mut latest = HashMap::new();
    let mut steps: Vec<(Option<usize>, &(SnapshotId, Manifest))> = Vec::new();
    for snapshot in snapshots.filter(|(_, manifest)| captured(manifest, path)) {
        let line = (&snapshot.1.application, &snapshot.1.host);
        steps.push((latest.insert(line, steps.len()), snapshot));
    }
    let open = |(id, manifest): &(SnapshotId, Manifest)| Snapshot {
        repo: Arc::clone(repo),
        id: *id,
        manifest: manifest.clone(),
    };
    (0..steps.len()).rev().filter_map(move |at| {
        let (before, new) = steps.get(at)?;
        let old = before.and_then(|before| steps.get(before)).map(|(_, old)| open(old));
        let new = open(new);
        let scope = scope(&new, path).or_else(|| scope(old.as_ref()?, path))?;
        Some(scope.map(|scope| Step { old, new, scope }))
    })
}

/// What the path leads to, if it leads somewhere.
fn scope(snapshot: &Snapshot, path: &str) -> Option<Result<Scope, Failure>> {
    match Scope::of(snapshot, path) {
        Err(error) if error.kind() == ErrorKind::Usage => None,
        scope => Some(scope),
    }
}

/// Whether a snapshot has a source that the path is in, or that is in the path.
fn captured(manifest: &Manifest, path: &str) -> bool {
    let wanted = path.split('/').filter(|part| !part.is_empty());
    manifest.sources.iter().any(|source| {
        let place = [source.kind.as_str(), source.name.as_str()];
        let place = place.into_iter().filter(|part| !part.is_empty());
        place.zip(wanted.clone()).all(|(place, wanted)| place == wanted)
    })
}
