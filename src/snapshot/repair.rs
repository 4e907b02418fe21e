//! Snapshots that lost something: what it was is named, entry by entry, and a snapshot of what is
//! left takes their place.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::manifest::{Manifest, Skipped, SourceRecord};
use super::opened::{Snapshot, TreeRecord};
use super::path::{Paths, source_path};
use super::timeline::{Filter, Timeline};
use super::without::{Fitting, Staying, Writing, replace};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint as _};
use crate::id::{ChunkId, SnapshotId};
use crate::repo::{ChunkReader as _, Finding, ReadData, Repo, RepoError, SeenChunks};
use crate::tree::{self, Content, Key, Salvaged, Tree, Value, Visit};

/// Whether something is done, or only said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It is done.
    Apply,
    /// It is found out what would be done.
    DryRun,
}

/// Something that a snapshot held and that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The entry, or the tree or source of which more than one is lost.
    pub path: String,
    /// How many entries, as far as that is known.
    pub entries: u64,
    /// Why, and which ones, where there are more than one.
    pub problem: String,
}

/// A snapshot that lost something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Which one.
    pub id: SnapshotId,
    /// The one that takes its place; none in a dry run.
    pub new: Option<SnapshotId>,
    /// How many entries are lost, as far as that is known.
    pub lost: u64,
}

/// What looking through the snapshots came to.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    /// How many were looked at.
    pub snapshots: u64,
    /// Those that lost something, oldest first.
    pub repaired: Vec<Repaired>,
    /// Those that cannot be read at all.
    pub unreadable: Vec<Finding>,
}

/// Looks through all snapshots, and puts one without what is lost in the place of each that lost
/// something. The old one is forgotten, and can come back until the next collection. `each` hears
/// of everything that is lost.
///
/// A file or record of which a part is lost is left out as a whole: half a file looks like a file.
pub fn repair_snapshots(
    repo: &Arc<Repo>,
    doing: Doing,
    each: &mut dyn FnMut(&Lost) -> Result<(), Failure>,
    ctx: &Context,
) -> Result<Repairs, Failure> {
    let damaged = repo.check_objects(ReadData::Structure, ctx)?.damaged;
    repo.refresh()?;
    let timeline = Timeline::load(repo)?;
    let mut repairs = Repairs::default();
    let unreadable = timeline.unreadable().iter();
    repairs.unreadable.extend(unreadable.map(|(id, problem)| Finding {
        object: format!("snapshot {id}"),
        problem: problem.clone(),
    }));
    let mut sound = Sound { repo, damaged: &damaged, walked: SeenChunks::default() };
    for (id, manifest) in timeline.iter(&Filter::default()) {
        ctx.check_cancelled()?;
        ctx.phase(format!("looking through snapshot {}", id.short()), None);
        let snapshot = Snapshot { repo: Arc::clone(repo), id: *id, manifest: manifest.clone() };
        repairs.snapshots += 1;
        if !sound.has_all(&snapshot)? {
            repairs.repaired.push(repair(&snapshot, doing, &mut sound, each, ctx)?);
        }
    }
    Ok(repairs)
}

fn repair(
    snapshot: &Snapshot,
    doing: Doing,
    sound: &mut Sound<'_>,
    each: &mut dyn FnMut(&Lost) -> Result<(), Failure>,
    ctx: &Context,
) -> Result<Repaired, Failure> {
    let losses = Losses { snapshot: snapshot.id, lost: 0, listed: Vec::new(), count: 0, each };
    let mut repairing = Repairing { snapshot, sound, losses };
    let new = match doing {
        Doing::DryRun => {
            let scratch = snapshot.repo.scratch()?;
            repairing.left(&Writing { repo: &snapshot.repo, writer: &scratch })?;
            None
        }
        Doing::Apply => Some(replace(snapshot, ctx, |writing| repairing.left(writing))?),
    };
    Ok(Repaired { id: snapshot.id, new, lost: repairing.losses.lost })
}

/// What is known to be there.
struct Sound<'a> {
    repo: &'a Arc<Repo>,
    /// Chunks in damaged places, of which another copy may be good.
    damaged: &'a HashSet<ChunkId>,
    /// Nodes below which all is there.
    walked: SeenChunks,
}

impl Sound<'_> {
    fn has_all(&mut self, snapshot: &Snapshot) -> Result<bool, Failure> {
        for source in &snapshot.manifest.sources {
            for catalogue in [source.catalogue, source.help] {
                if !self.has_tree(catalogue)? {
                    return Ok(false);
                }
            }
            for record in snapshot.all_trees(source)? {
                if !self.has_tree(record.tree)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether all of a tree is there.
    fn has_tree(&mut self, tree: Tree) -> Result<bool, Failure> {
        let mut is_whole = true;
        let mut failure: Option<Failure> = None;
        let Self { repo, damaged, walked } = self;
        let mut visit = |visit: Visit<'_>| {
            let goes_on = match visit {
                Visit::Node(id) if is_whole && failure.is_none() => {
                    walked.insert(id).map_err(Failure::from)
                }
                Visit::Chunk { id, .. } if is_whole => {
                    is_there(repo, damaged, id).inspect(|there| is_whole &= there)
                }
                Visit::Broken { error, .. } if error.kind() == ErrorKind::Damage => {
                    is_whole = false;
                    Ok(false)
                }
                Visit::Broken { error, .. } => Err(error.into()),
                Visit::Node(_) | Visit::Chunk { .. } => Ok(false),
            };
            goes_on.unwrap_or_else(|error| {
                failure.get_or_insert(error);
                false
            })
        };
        tree::walk(&***repo, tree, &mut visit);
        if !is_whole {
            // What was met in a damaged tree may be what the damage is below.
            self.walked = SeenChunks::default();
        }
        failure.map_or(Ok(is_whole), Err)
    }

    /// Why the content of an entry is not there, if it is not.
    fn loss(&self, content: &Content) -> Result<Option<String>, Failure> {
        let (mut loss, mut failure) = (None, None);
        tree::walk_content(&**self.repo, content, &[], &mut |visit| {
            match visit {
                Visit::Chunk { id, .. } if loss.is_none() && failure.is_none() => {
                    match is_there(self.repo, self.damaged, id) {
                        Ok(true) => {}
                        Ok(false) => loss = Some(RepoError::ChunkMissing { id }.to_string()),
                        Err(error) => failure = Some(error),
                    }
                }
                Visit::Broken { error, .. } if error.kind() == ErrorKind::Damage => {
                    loss.get_or_insert(error.to_string());
                }
                Visit::Broken { error, .. } => drop(failure.get_or_insert(error.into())),
                Visit::Node(_) | Visit::Chunk { .. } => {}
            }
            true
        });
        failure.map_or(Ok(loss), Err)
    }
}

/// Whether a chunk is in the repository. Where it is known to be damaged, another copy may be good,
/// which only reading it tells.
fn is_there(repo: &Repo, damaged: &HashSet<ChunkId>, id: ChunkId) -> Result<bool, Failure> {
    if !repo.contains(&id)? {
        return Ok(false);
    }
    if !damaged.contains(&id) {
        return Ok(true);
    }
    match repo.read_chunk(&id) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Damage => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What is lost of one snapshot.
struct Losses<'a> {
    snapshot: SnapshotId,
    lost: u64,
    /// The first of them, for the manifest.
    listed: Vec<Skipped>,
    count: u64,
    each: &'a mut dyn FnMut(&Lost) -> Result<(), Failure>,
}

impl Losses<'_> {
    fn add(&mut self, path: String, entries: u64, problem: String) -> Result<(), Failure> {
        let lost = Lost { snapshot: self.snapshot, path, entries, problem };
        (self.each)(&lost)?;
        self.lost += entries;
        self.count += 1;
        if self.listed.len() < Manifest::SKIPPED_MAX {
            let reason = format!("lost: {}", lost.problem);
            self.listed.push(Skipped { item: lost.path, reason });
        }
        Ok(())
    }
}

struct Repairing<'a, 'd> {
    snapshot: &'a Snapshot,
    sound: &'a mut Sound<'d>,
    losses: Losses<'a>,
}

impl Repairing<'_, '_> {
    /// The manifest of what is left.
    fn left(&mut self, writing: &Writing<'_>) -> Result<Manifest, Failure> {
        let old = &self.snapshot.manifest;
        let mut sources = Vec::new();
        for source in &old.sources {
            sources.extend(self.source(source, writing)?);
        }
        let later = old.later;
        let new = old.rewritten(self.snapshot.id, old.tags.clone(), later.protection);
        let mut skipped = new.skipped;
        let room = Manifest::SKIPPED_MAX.saturating_sub(skipped.len());
        let listed = self.losses.listed.drain(..).take(room);
        skipped.extend(listed);
        let all = old.missing() + self.losses.count;
        let unlisted = all - skipped.len() as u64;
        Ok(Manifest { sources, skipped, unlisted, ..new })
    }

    /// What is left of a source; none if that cannot be told any more.
    fn source(
        &mut self,
        source: &SourceRecord,
        writing: &Writing<'_>,
    ) -> Result<Option<SourceRecord>, Failure> {
        let snapshot = self.snapshot;
        let listed = snapshot.header(source).and_then(|header| {
            Ok((header, snapshot.trees(source)?, self.sound.has_tree(source.catalogue)?))
        });
        let (header, mut trees) = match listed {
            Ok((header, trees, true)) => (header, trees),
            Ok((.., false)) => {
                let problem = "a chunk of what describes it is missing".to_owned();
                self.losses.add(source_path(source.kind, &source.name), source.entries, problem)?;
                return Ok(None);
            }
            Err(failure) if failure.kind() == ErrorKind::Damage => {
                let path = source_path(source.kind, &source.name);
                self.losses.add(path, source.entries, failure.to_string())?;
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        let mut is_whole = true;
        for record in &mut trees {
            if !self.sound.has_tree(record.tree)? {
                is_whole = false;
                record.tree = self.tree(source, record, writing)?;
            }
        }
        let (aids, notes, helps) = self.help(source)?;
        if is_whole && helps {
            return Ok(Some(source.clone()));
        }
        Ok(Some(writing.source(source, &header, &trees, aids, notes)?))
    }

    /// What helps the next capture, as far as it is there, and whether that is all.
    #[expect(clippy::type_complexity, reason = "it is taken apart at once")]
    fn help(
        &mut self,
        source: &SourceRecord,
    ) -> Result<(Vec<TreeRecord>, BTreeMap<String, Vec<u8>>, bool), Failure> {
        let mut is_whole = self.sound.has_tree(source.help)?;
        if !is_whole {
            return Ok((Vec::new(), BTreeMap::new(), false));
        }
        let mut aids = Vec::new();
        for aid in self.snapshot.aids(source)? {
            if self.sound.has_tree(aid.tree)? {
                aids.push(aid);
            } else {
                is_whole = false;
            }
        }
        Ok((aids, self.snapshot.notes(source)?, is_whole))
    }

    fn tree(
        &mut self,
        source: &SourceRecord,
        record: &TreeRecord,
        writing: &Writing<'_>,
    ) -> Result<Tree, Failure> {
        let kind = source.kind;
        let paths = Paths::new(kind, &source.name, &record.info)?;
        let mut salvaged = tree::salvage(&**self.sound.repo, record.tree);
        let (sound, losses) = (&*self.sound, &mut self.losses);
        let mut left = Left { paths, sound, losses, last: None, ranges: Vec::new() };
        let mut fitting = Fitting::new(kind);
        let mut ready = Vec::new().into_iter();
        let entries: Staying<'_> = Box::new(std::iter::from_fn(move || {
            loop {
                if let Some(entry) = ready.next() {
                    return Some(Ok(entry));
                }
                match left.next(salvaged.next()?, &mut fitting) {
                    Ok(fitted) => ready = fitted.into_iter(),
                    Err(failure) => return Some(Err(failure)),
                }
            }
        }));
        writing.tree(kind, entries)
    }
}

/// What is left of a tree.
struct Left<'a, 'd, 'e> {
    paths: Paths,
    sound: &'a Sound<'d>,
    losses: &'a mut Losses<'e>,
    /// The last key that was come to.
    last: Option<Key>,
    /// Keys after the first and up to the second are lost.
    ranges: Vec<(Option<Key>, Key)>,
}

impl Left<'_, '_, '_> {
    fn next(
        &mut self,
        salvaged: Result<Salvaged, tree::TreeError>,
        fitting: &mut Fitting,
    ) -> Result<Vec<(Key, Value)>, Failure> {
        match salvaged? {
            Salvaged::Entry(key, value) => {
                self.last = Some(key.clone());
                if let Some(problem) = self.sound.loss(&value.content)? {
                    self.losses.add(self.paths.of(&key)?, 1, problem)?;
                    return Ok(Vec::new());
                }
                let ranges = &self.ranges;
                fitting.fit(key, value, |first| {
                    let after = |key: &Option<Key>| key.as_deref().is_none_or(|key| key < first);
                    ranges.iter().any(|(from, until)| after(from) && first <= &until[..])
                })
            }
            Salvaged::Lost { until, entries, error } => {
                self.lose(until.as_ref(), entries, &error)?;
                let from = self.last.take();
                self.ranges.extend(until.clone().map(|until| (from, until)));
                self.last = until;
                Ok(Vec::new())
            }
        }
    }

    fn lose(
        &mut self,
        until: Option<&Key>,
        entries: u64,
        error: &tree::TreeError,
    ) -> Result<(), Failure> {
        let after = self.last.as_ref().map(|key| self.paths.of(key)).transpose()?;
        let until = until.map(|key| self.paths.of(key)).transpose()?;
        let which = match (after, until) {
            (Some(after), Some(until)) => format!("{entries} after {after} up to {until}: "),
            (None, Some(until)) => format!("{entries} up to {until}: "),
            (_, None) => format!("all {entries}: "),
        };
        self.losses.add(self.paths.tree().to_owned(), entries, format!("{which}{error}"))
    }
}
