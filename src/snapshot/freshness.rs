//! How old the newest good snapshot of each application is: the question of who is on call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::check::is_sound;
use super::manifest::{Manifest, Reason};
use super::opened::Snapshot;
use super::timeline::{Filter, Timeline};
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::repo::Repo;
use crate::time::Timestamp;

/// How far the clock of another machine may be ahead. What is dated later proves nothing: it
/// would stay the newest until then, whatever happens.
const CLOCKS: Duration = Duration::from_mins(10);

/// The state of one application on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// The application; empty where none was named.
    pub application: String,
    /// The machine.
    pub host: String,
    /// All its snapshots.
    pub snapshots: u64,
    /// The newest backup that is complete, whose trees are all there, and that is not dated in the
    /// future.
    pub newest: Option<(SnapshotId, Timestamp)>,
    /// How old it is.
    pub age: Option<Duration>,
    /// Backups after it that are not good.
    pub bad: u64,
}

/// Looks at all applications and machines that a filter admits. What restores took of what they
/// were about to change counts for nothing.
pub fn freshness(
    repo: &Arc<Repo>,
    timeline: &Timeline,
    filter: &Filter,
    now: Timestamp,
) -> Result<Vec<Freshness>, Failure> {
    let mut groups: BTreeMap<(&str, &str), Vec<&(SnapshotId, Manifest)>> = BTreeMap::new();
    for snapshot in timeline.iter(filter) {
        let (_, manifest) = snapshot;
        let group = (manifest.application.as_str(), manifest.host.as_str());
        groups.entry(group).or_default().push(snapshot);
    }
    let mut found = Vec::with_capacity(groups.len());
    for ((application, host), snapshots) in groups {
        let mut state = Freshness {
            application: application.to_owned(),
            host: host.to_owned(),
            snapshots: snapshots.len() as u64,
            newest: None,
            age: None,
            bad: 0,
        };
        let backups = snapshots.into_iter().rev().filter(|(_, m)| m.reason == Reason::Backup);
        for (id, manifest) in backups {
            let ahead = manifest.time.since(now);
            let snapshot = Snapshot { repo: Arc::clone(repo), id: *id, manifest: manifest.clone() };
            if manifest.is_complete() && ahead <= CLOCKS && is_sound(&snapshot)? {
                state.newest = Some((*id, manifest.time));
                state.age = Some(now.since(manifest.time));
                break;
            }
            state.bad += 1;
        }
        found.push(state);
    }
    Ok(found)
}
