//! Verification of everything: the repository's objects, and that each snapshot reaches all its
//! entries.

use std::collections::HashSet;
use std::sync::Arc;

use super::opened::Snapshot;
use super::timeline::{Filter, Timeline};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::id::ChunkId;
use crate::repo::{ChunkReader as _, Finding, ReadData, Repo, RepoError, SeenChunks};
use crate::report::Event;
use crate::source::display_key;
use crate::time::Timestamp;
use crate::tree::{self, Tree, Visit};

/// What a check found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct CheckReport {
    /// What is damaged; empty when all is well.
    pub findings: Vec<Finding>,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Bytes of packs that were read and decoded.
    pub bytes: u64,
    /// Packs of which every byte was read and found good.
    pub whole: u64,
    /// When the pack was read in full, by this host, that has waited longest since; none if there
    /// is one that never was, or nothing was read.
    pub all_since: Option<Timestamp>,
    /// Packs that no index segment describes: left by an interrupted session, harmless.
    pub orphans: u64,
}

/// Checks the repository: every object and, from every snapshot, every tree down to its chunks.
/// With [`ReadData::Everything`] every byte is decoded and hashed.
pub fn check(repo: &Arc<Repo>, read: ReadData, ctx: &Context) -> Result<CheckReport, Failure> {
    let objects = repo.check_objects(read, ctx)?;
    let mut report = CheckReport {
        findings: objects.findings,
        packs: objects.packs,
        bytes: objects.bytes,
        whole: objects.whole.len() as u64,
        all_since: objects.all_since,
        orphans: objects.orphans,
        ..CheckReport::default()
    };
    // No snapshot needs the log, and what it lost cannot be made good: `audit verify` fails for it.
    for Finding { object, problem } in repo.audit_log(ctx)?.findings {
        ctx.report(Event::Warning(format!("{object}: {problem}")));
    }
    // A damaged index segment or snapshot is found above; what else can be reached is still
    // looked at.
    if let Err(error) = repo.refresh() {
        report.find("index", &error);
        return Ok(report);
    }
    let timeline = match Timeline::load(repo) {
        Ok(timeline) => timeline,
        Err(error) => {
            report.find("snapshots", &error);
            return Ok(report);
        }
    };
    for finding in timeline.findings() {
        // A snapshot that cannot be read was found above.
        if !report.findings.iter().any(|found| found.object == finding.object) {
            report.findings.push(finding.clone());
        }
    }
    check_parents(repo, &timeline, &mut report)?;
    let mut seen = SeenChunks::default();
    for (id, manifest) in timeline.iter(&Filter::default()) {
        ctx.check_cancelled()?;
        ctx.phase(format!("checking snapshot {}", id.short()), None);
        let snapshot = Snapshot { repo: Arc::clone(repo), id: *id, manifest: manifest.clone() };
        report.snapshots += 1;
        walk_snapshot(&snapshot, &objects.damaged, &mut seen, &mut report)?;
    }
    Ok(report)
}

/// Snapshots name the one before them: where that is gone and nothing removed it, history went
/// missing, also for a host that never saw it.
fn check_parents(
    repo: &Repo,
    timeline: &Timeline,
    report: &mut CheckReport,
) -> Result<(), Failure> {
    let all = Filter::default();
    let parents = timeline.iter(&all).filter_map(|(_, manifest)| manifest.parent);
    let lost = match repo.unaccounted(&parents.collect()) {
        // What is wrong with the collections was found above.
        Err(RepoError::Open(_) | RepoError::Format(_)) => return Ok(()),
        lost => lost?,
    };
    for (id, manifest) in timeline.iter(&all) {
        if let Some(parent) = manifest.parent.filter(|parent| lost.contains(parent)) {
            let problem = format!(
                "snapshot {} was taken before it, and is gone, though no collection removed it",
                parent.short()
            );
            report.find(&format!("snapshot {}", id.short()), &problem);
        }
    }
    Ok(())
}

/// Whether a snapshot seems to be there: its catalogues can be read, and the index knows the root of
/// every tree. Quick, and enough to tell a snapshot that lost a pack of nodes; only [`check`] proves.
pub fn is_sound(snapshot: &Snapshot) -> Result<bool, Failure> {
    for source in &snapshot.manifest.sources {
        let roots = match snapshot.all_trees(source) {
            Ok(trees) => trees.into_iter().map(|record| record.tree.root).collect::<Vec<_>>(),
            Err(failure) if failure.kind() == ErrorKind::Damage => return Ok(false),
            Err(failure) => return Err(failure),
        };
        if snapshot.repo.contains_many(&roots)?.contains(&false) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn walk_snapshot(
    snapshot: &Snapshot,
    damaged: &HashSet<ChunkId>,
    seen: &mut SeenChunks,
    report: &mut CheckReport,
) -> Result<(), RepoError> {
    for source in &snapshot.manifest.sources {
        let place =
            format!("snapshot {}:/{}/{}", snapshot.id.short(), source.kind.as_str(), source.name);
        for catalogue in [source.catalogue, source.help] {
            walk_tree(snapshot, catalogue, &place, damaged, seen, report)?;
        }
        match snapshot.all_trees(source) {
            Ok(trees) => {
                for record in trees {
                    let place = format!("{place}/{}", record.info.name);
                    walk_tree(snapshot, record.tree, &place, damaged, seen, report)?;
                }
            }
            Err(error) => report.find(&place, &error),
        }
    }
    Ok(())
}

/// Walks one tree, passing over subtrees that were walked before. What is wrong with the tree is
/// found; only when nobody can say any more what was walked is there an error.
fn walk_tree(
    snapshot: &Snapshot,
    tree: Tree,
    place: &str,
    damaged: &HashSet<ChunkId>,
    seen: &mut SeenChunks,
    report: &mut CheckReport,
) -> Result<(), RepoError> {
    let mut failure = None;
    let repo = &*snapshot.repo;
    let mut visit = |visit: Visit<'_>| {
        let (id, key) = match visit {
            Visit::Node(id) => {
                return failure.is_none()
                    && seen.insert(id).unwrap_or_else(|error| {
                        failure = Some(error);
                        false
                    });
            }
            Visit::Chunk { id, key } => (id, key),
            Visit::Broken { key, error } => {
                report.find(&named(place, key), &error);
                return false;
            }
        };
        let sound = match repo.contains(&id) {
            // Another copy of the chunk may be good: only reading it tells.
            Ok(true) if damaged.contains(&id) => repo.read_chunk(&id).map(drop),
            Ok(true) => Ok(()),
            Ok(false) => Err(RepoError::ChunkMissing { id }),
            Err(error) => Err(error),
        };
        if let Err(error) = sound {
            report.find(&named(place, key), &error);
        }
        true
    };
    tree::walk(repo, tree, &mut visit);
    failure.map_or(Ok(()), Err)
}

fn named(place: &str, key: &[u8]) -> String {
    format!("{place}/{}", display_key(key))
}

impl CheckReport {
    fn find(&mut self, object: &str, problem: &dyn std::fmt::Display) {
        self.findings.push(Finding { object: object.to_owned(), problem: problem.to_string() });
    }
}
