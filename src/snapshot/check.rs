//! Verification of everything: the repository's objects, and that each snapshot reaches all its
//! entries.

use std::collections::HashSet;
use std::sync::Arc;

use super::opened::Snapshot;
use super::timeline::{Filter, Timeline};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::repo::{ChunkReader as _, Finding, ReadData, Repo, RepoError};
use crate::source;
use crate::tree::{self, Descent, Part, Tree, TreeError, Visitor};

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
        orphans: objects.orphans,
        ..CheckReport::default()
    };
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
    let mut seen = HashSet::new();
    for (id, manifest) in timeline.iter(&Filter::default()) {
        ctx.check_cancelled()?;
        ctx.phase(format!("checking snapshot {}", id.short()), None);
        let snapshot = Snapshot { repo: Arc::clone(repo), id: *id, manifest: manifest.clone() };
        report.snapshots += 1;
        walk_snapshot(&snapshot, &objects.damaged, &mut seen, &mut report);
    }
    Ok(report)
}

fn walk_snapshot(
    snapshot: &Snapshot,
    damaged: &HashSet<ChunkId>,
    seen: &mut HashSet<ChunkId>,
    report: &mut CheckReport,
) {
    for source in &snapshot.manifest.sources {
        let place =
            format!("snapshot {}:/{}/{}", snapshot.id.short(), source.kind.as_str(), source.name);
        let mut walk = |tree, place: &str| {
            let mut walker =
                Walker { repo: &snapshot.repo, damaged, seen: &mut *seen, problems: vec![] };
            let walked = tree::walk(&*snapshot.repo, tree, &mut walker);
            let problems = walker.problems;
            if let Err(error) = walked {
                report.find(place, &error);
            }
            if !problems.is_empty() {
                name_entries(snapshot, tree, place, problems, report);
            }
        };
        walk(source.catalogue, &place);
        match snapshot.all_trees(source) {
            Ok(trees) => {
                for record in trees {
                    walk(record.tree, &format!("{place}/{}", record.info.name));
                }
            }
            Err(error) => report.find(&place, &error),
        }
    }
}

/// Walks a tree, passing over subtrees that were visited before.
struct Walker<'a> {
    repo: &'a Repo,
    damaged: &'a HashSet<ChunkId>,
    seen: &'a mut HashSet<ChunkId>,
    problems: Vec<String>,
}

impl Visitor for Walker<'_> {
    fn visit(&mut self, id: &ChunkId, part: Part) -> Descent {
        if part == Part::Node {
            return if self.seen.insert(*id) { Descent::Into } else { Descent::Over };
        }
        let sound = match self.repo.contains(id) {
            // Another copy of the chunk may be good: only reading it tells.
            Ok(true) if self.damaged.contains(id) => self.repo.read_chunk(id).map(drop),
            Ok(true) => Ok(()),
            Ok(false) => Err(RepoError::ChunkMissing { id: *id }),
            Err(error) => Err(error),
        };
        self.problems.extend(sound.err().map(|error| error.to_string()));
        Descent::Into
    }

    fn damaged(&mut self, error: TreeError) -> Result<(), TreeError> {
        self.problems.push(error.to_string());
        Ok(())
    }
}

/// Says which entries of a damaged tree are lost, as far as they can still be listed.
fn name_entries(
    snapshot: &Snapshot,
    tree: Tree,
    place: &str,
    problems: Vec<String>,
    report: &mut CheckReport,
) {
    let before = report.findings.len();
    for entry in tree::range(&*snapshot.repo, tree, &[], &[]) {
        let Ok((key, value)) = entry else { break };
        let mut content = value.content.open(&*snapshot.repo);
        if let Err(error) = std::io::copy(&mut content, &mut std::io::sink()) {
            report.find(&format!("{place}/{}", source::display_key(&key)), &error);
        }
    }
    if report.findings.len() == before {
        // The damage is in the tree itself.
        for problem in problems {
            report.find(place, &problem);
        }
    }
}

impl CheckReport {
    fn find(&mut self, object: &str, problem: &dyn std::fmt::Display) {
        self.findings.push(Finding { object: object.to_owned(), problem: problem.to_string() });
    }
}
