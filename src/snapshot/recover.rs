//! Snapshots from orphaned trees: what a snapshot held whose own object is lost, or a backup that
//! was interrupted, is still there until the next collection, and only nobody knows where.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manifest::{Instant, Later, Manifest, Reason, SourceRecord};
use super::opened::{self, Snapshot};
use super::path::source_path;
use super::repair::Doing;
use super::timeline::{Filter, Timeline};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint as _};
use crate::id::{ChunkId, SnapshotId};
use crate::repo::format::codec;
use crate::repo::{Compression, Repo, SeenChunks};
use crate::source::{Kind, described};
use crate::time::Timestamp;
use crate::tree::{self, Tree, Visit};

/// The tag of snapshots that were recovered.
const TAG: &str = "recovered";

/// Sources that one session wrote and no snapshot names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The session: the id that the snapshot had, where it was one and was never repacked.
    pub session: SnapshotId,
    /// The snapshot that names them now; none in a dry run.
    pub new: Option<SnapshotId>,
    /// When the session began; now, where that is not known any more.
    pub time: Timestamp,
    /// Their paths, with the number of their entries.
    pub sources: Vec<(String, u64)>,
}

/// Looks through all nodes of trees for descriptions of sources that no snapshot refers to,
/// forgotten ones included, and makes a snapshot of those that were written in one session. What
/// their trees have lost is left to [`repair_snapshots`](super::repair_snapshots).
///
/// The host, application, tags and names of sources stood in the snapshot that is lost: sources
/// are named after what they describe, the rest is as given, with the tag `recovered`.
pub fn recover(
    repo: &Arc<Repo>,
    host: &str,
    application: &str,
    doing: Doing,
    ctx: &Context,
) -> Result<Vec<Recovered>, Failure> {
    repo.refresh_telling(ctx)?;
    let mut known = referenced(repo, ctx)?;
    ctx.phase("looking at what no snapshot refers to", None);
    // What is below another node that nobody refers to is not the beginning of anything.
    repo.node_chunks(&mut |_, id| {
        ctx.check_cancelled()?;
        if known.nodes.contains(&id)? {
            return Ok(());
        }
        let Some((tree, children)) = looked_at(repo, id)? else { return Ok(()) };
        for child in children {
            known.below.insert(child)?;
        }
        for root in named_roots(repo, tree)? {
            known.below.insert(root)?;
        }
        Ok(())
    })?;
    let mut found: BTreeMap<SnapshotId, Vec<Found>> = BTreeMap::new();
    repo.node_chunks(&mut |session, id| {
        ctx.check_cancelled()?;
        if known.nodes.contains(&id)? || known.below.contains(&id)? {
            return Ok(());
        }
        let Some((catalogue, _)) = looked_at(repo, id)? else { return Ok(()) };
        if let Some(source) = source(repo, catalogue)? {
            // A chunk may be stored twice.
            known.nodes.insert(id)?;
            found.entry(session).or_default().push(source);
        }
        Ok(())
    })?;
    let mut recovered = Vec::new();
    for (session, sources) in found {
        let time = repo.session_started(session)?.unwrap_or_else(|| ctx.clock.now());
        let sources = named(sources);
        let shown = |found: &Found| (source_path(found.kind, &found.name), found.entries);
        let shown = sources.iter().map(shown).collect();
        let new = match doing {
            Doing::DryRun => None,
            Doing::Apply => Some(commit(repo, sources, time, host, application, ctx)?),
        };
        recovered.push(Recovered { session, new, time, sources: shown });
    }
    Ok(recovered)
}

/// A source that no snapshot refers to.
struct Found {
    kind: Kind,
    name: String,
    catalogue: Tree,
    entries: u64,
    bytes: u64,
}

#[derive(Default)]
struct Known {
    /// Nodes that snapshots refer to.
    nodes: SeenChunks,
    /// Nodes that others refer to.
    below: SeenChunks,
}

/// All nodes that snapshots refer to, as far as that can be read.
fn referenced(repo: &Arc<Repo>, ctx: &Context) -> Result<Known, Failure> {
    let mut known = Known::default();
    for timeline in [Timeline::load(repo)?, Timeline::forgotten(repo)?] {
        for (id, manifest) in timeline.iter(&Filter::default()) {
            ctx.check_cancelled()?;
            ctx.phase(format!("looking through snapshot {}", id.short()), None);
            let snapshot = Snapshot { repo: Arc::clone(repo), id: *id, manifest: manifest.clone() };
            for source in &snapshot.manifest.sources {
                let mut trees = vec![source.catalogue, source.help];
                match snapshot.all_trees(source) {
                    Ok(all) => trees.extend(all.into_iter().map(|record| record.tree)),
                    Err(failure) if failure.kind() == ErrorKind::Damage => {}
                    Err(failure) => return Err(failure),
                }
                for tree in trees {
                    mark(repo, tree, &mut known.nodes)?;
                }
            }
        }
    }
    Ok(known)
}

fn mark(repo: &Repo, tree: Tree, nodes: &mut SeenChunks) -> Result<(), Failure> {
    let mut failure: Option<Failure> = None;
    tree::walk(repo, tree, &mut |visit| match visit {
        Visit::Node(id) if failure.is_none() => nodes.insert(id).unwrap_or_else(|error| {
            failure = Some(error.into());
            false
        }),
        Visit::Broken { error, .. } if error.kind() != ErrorKind::Damage => {
            failure.get_or_insert(error.into());
            false
        }
        _ => false,
    });
    failure.map_or(Ok(()), Err)
}

/// A chunk as a node, with those below it; none if it is no node, or cannot be read any more.
fn looked_at(repo: &Repo, id: ChunkId) -> Result<Option<(Tree, Vec<ChunkId>)>, Failure> {
    match tree::node_at(repo, id) {
        Ok(node) => Ok(Some(node)),
        Err(error) if error.kind() == ErrorKind::Damage => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The trees that a node names, where it is one of a catalogue.
fn named_roots(repo: &Repo, node: Tree) -> Result<Vec<ChunkId>, Failure> {
    let mut roots = Vec::new();
    for entry in tree::entries(repo, node, &[], &[opened::TREE]) {
        match entry {
            // In other trees, what stands there is no reference.
            Ok((_, value)) => {
                let tree = codec::decode::<Tree>("tree reference", &value.head).ok();
                roots.extend(tree.map(|tree| tree.root));
            }
            Err(error) if error.kind() == ErrorKind::Damage => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(roots)
}

/// The source that a tree is the catalogue of, if it is one.
fn source(repo: &Arc<Repo>, catalogue: Tree) -> Result<Option<Found>, Failure> {
    let record = SourceRecord {
        kind: Kind::Storage,
        name: String::new(),
        catalogue,
        help: catalogue,
        entries: 0,
        bytes: 0,
    };
    let sources = vec![record];
    let manifest = manifest(sources, Timestamp::default(), "", "", Timestamp::default());
    let snapshot = Snapshot { repo: Arc::clone(repo), id: SnapshotId::new([0; 16]), manifest };
    let Some(record) = snapshot.manifest.sources.first() else { return Ok(None) };
    let listed = snapshot.header(record).and_then(|header| {
        let trees = snapshot.trees(record)?;
        Ok((header, trees))
    });
    let (header, trees) = match listed {
        Ok(listed) => listed,
        Err(failure) if failure.kind() == ErrorKind::Damage => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let Some((kind, name)) = described(&header) else { return Ok(None) };
    let entries = trees.iter().map(|record| record.tree.entries).sum();
    let mut bytes = 0;
    for record in &trees {
        for item in tree::salvage(&**repo, record.tree) {
            if let tree::Salvaged::Entry(_, value) = item? {
                bytes += value.content.length();
            }
        }
    }
    Ok(Some(Found { kind, name, catalogue, entries, bytes }))
}

/// The sources of one snapshot in their order, no two with one name.
fn named(mut sources: Vec<Found>) -> Vec<Found> {
    sources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    for at in 1..sources.len() {
        let (before, rest) = sources.split_at_mut(at);
        let (kind, name) = (rest[0].kind, rest[0].name.clone());
        let mut number = 1;
        while before.iter().any(|other| (other.kind, &other.name) == (kind, &rest[0].name)) {
            number += 1;
            rest[0].name = format!("{name}-{number}");
        }
    }
    sources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    sources
}

fn commit(
    repo: &Arc<Repo>,
    sources: Vec<Found>,
    time: Timestamp,
    host: &str,
    application: &str,
    ctx: &Context,
) -> Result<SnapshotId, Failure> {
    repo.write(Compression::Auto, ctx, |session| {
        let shape = opened::shape(repo, Kind::Database)?;
        let help = tree::build(session, &shape, opened::help(&[], &BTreeMap::new())?)?;
        let record = |found: Found| {
            let Found { kind, name, catalogue, entries, bytes } = found;
            SourceRecord { kind, name, catalogue, help, entries, bytes }
        };
        let sources = sources.into_iter().map(record).collect();
        session.flush()?;
        let new = manifest(sources, time, host, application, ctx.clock.now());
        let new = Manifest { written: session.written(), ..new };
        Ok(session.commit(&new.encode()?)?)
    })
}

fn manifest(
    sources: Vec<SourceRecord>,
    time: Timestamp,
    host: &str,
    application: &str,
    finished: Timestamp,
) -> Manifest {
    Manifest {
        version: Manifest::version(0),
        time,
        finished,
        host: host.to_owned(),
        application: application.to_owned(),
        tags: vec![TAG.to_owned()],
        parent: None,
        reason: Reason::Import { origin: "what no snapshot referred to".to_owned() },
        instant: Instant::Unproven,
        sources,
        skipped: Vec::new(),
        written: crate::repo::Written::default(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        unlisted: 0,
        later: Later::default(),
    }
}
