//! How much room snapshots take: what they hold, what is left of that after deduplication, and
//! what it takes in the repository; for each, what only it needs.
//!
//! Which snapshots need a chunk is found by walking what differs between one snapshot and the one
//! before it ([`tree::compare`]), and sorting what comes of that by chunk, on disk where it is
//! much: memory does not grow with the repository.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manifest::Manifest;
use super::opened::{Snapshot, TreeRecord};
use super::timeline::{Filter, Timeline};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::{ChunkId, SnapshotId};
use crate::repo::{Repo, RepoError, StoredChunk};
use crate::source::sort::{BUDGET, Duplicates, Sorter};
use crate::source::{Entry, Kind};
use crate::tree::{self, Part, Side, Tree};

/// What some snapshots need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Files, folders and records.
    pub entries: u64,
    /// Bytes of their contents; of hard links to a file only once.
    pub size: u64,
    /// Chunks, each once.
    pub chunks: u64,
    /// Bytes of these chunks: contents, and the trees that they hang on.
    pub unique: u64,
    /// Bytes that these chunks take in the repository, compressed and sealed.
    pub stored: u64,
    /// Bytes of that which no other snapshot needs.
    pub exclusive: u64,
}

/// How much room snapshots take.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Each snapshot that was asked for, oldest first.
    pub snapshots: Vec<(SnapshotId, Manifest, Usage)>,
    /// All of them together.
    pub total: Usage,
    /// Bytes of chunks that no snapshot of the repository needs: of interrupted sessions.
    pub unneeded: u64,
}

/// Counts what the snapshots that are `wanted` need. The others are looked at, too: what only one
/// needs is what no other does.
pub fn stats(
    repo: &Arc<Repo>,
    timeline: &Timeline,
    wanted: &dyn Fn(SnapshotId, &Manifest) -> bool,
    ctx: &Context,
) -> Result<Stats, Failure> {
    let everything = Filter::default();
    let mut snapshots: Vec<&(SnapshotId, Manifest)> = timeline.iter(&everything).collect();
    // Neighbours in such a line differ least.
    let line = |manifest: &Manifest| (manifest.application.clone(), manifest.host.clone());
    snapshots.sort_by_cached_key(|(_, manifest)| line(manifest));
    let mut count = Count {
        sorter: Sorter::new(BUDGET, Duplicates::Number),
        lines: Vec::new(),
        linked: vec![0; snapshots.len()],
    };
    for (at, (id, manifest)) in snapshots.iter().enumerate() {
        ctx.phase(format!("counting snapshot {}", id.short()), Some(manifest.entries()));
        let before = at.checked_sub(1).and_then(|before| snapshots.get(before));
        let before = before.filter(|(_, before)| line(before) == line(manifest));
        if before.is_none() {
            count.lines.push(at);
        }
        let open = |(id, manifest): &(SnapshotId, Manifest)| Snapshot {
            repo: Arc::clone(repo),
            id: *id,
            manifest: manifest.clone(),
        };
        count.step(at, before.map(|before| open(before)).as_ref(), &open(snapshots[at]), ctx)?;
    }
    ctx.phase("reading the index", None);
    repo.stored_chunks(&mut |chunk| {
        ctx.check_cancelled()?;
        count.stored(chunk)
    })?;
    let chosen: Vec<bool> = snapshots.iter().map(|(id, manifest)| wanted(*id, manifest)).collect();
    let linked = std::mem::take(&mut count.linked);
    let mut sums = Sums::new(&chosen, &count.lines);
    sums.add_up(count.sorter, ctx)?;
    let mut stats = Stats { unneeded: sums.unneeded, total: sums.total, ..Stats::default() };
    for ((snapshot, mut usage), linked) in snapshots.into_iter().zip(sums.usages()).zip(linked) {
        let (id, manifest) = snapshot;
        usage.entries = manifest.entries();
        usage.size = manifest.bytes().saturating_sub(linked);
        if wanted(*id, manifest) {
            stats.total.entries += usage.entries;
            stats.total.size += usage.size;
            stats.snapshots.push((*id, manifest.clone(), usage));
        }
    }
    stats.snapshots.sort_by_key(|(id, manifest, _)| (manifest.time, *id));
    Ok(stats)
}

/// What chunks are needed, by how often that changes from snapshot to snapshot.
struct Count {
    sorter: Sorter,
    /// Where a new line of snapshots begins, each the successor of the one before.
    lines: Vec<usize>,
    /// Bytes in each snapshot of files that are hard links to others.
    linked: Vec<u64>,
}

impl Count {
    /// Counts what a snapshot needs more or less than the one before it.
    fn step(
        &mut self,
        at: usize,
        before: Option<&Snapshot>,
        now: &Snapshot,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let mut linked =
            at.checked_sub(1).filter(|_| before.is_some()).map_or(0, |b| self.linked[b]);
        let (old, new) = (before.map(trees).transpose()?.unwrap_or_default(), trees(now)?);
        let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let (old, new) = (old.get(name).copied(), new.get(name).copied());
            let files = name.0 != Kind::Database && name.2 == Role::Tree;
            tree::compare(&*now.repo, old, new, &mut |side, part| {
                ctx.check_cancelled()?;
                match part {
                    Part::Chunk(id) => self.needed(&id, at, side)?,
                    Part::Entry { head, length }
                        if files && Entry::decode(head)?.link.is_some() =>
                    {
                        match side {
                            Side::Old => linked = linked.saturating_sub(length),
                            Side::New => linked += length,
                        }
                    }
                    Part::Entry { .. } => {}
                }
                Ok(())
            })?;
        }
        self.linked[at] = linked;
        Ok(())
    }

    fn needed(&mut self, id: &ChunkId, at: usize, side: Side) -> Result<(), Failure> {
        let line = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        let key = [&id.as_bytes()[..], &line.to_be_bytes(), &at.to_be_bytes()].concat();
        Ok(self.sorter.push(&key, &[u8::from(side == Side::New)])?)
    }

    /// What a chunk takes: sorted before who needs it.
    fn stored(&mut self, chunk: StoredChunk) -> Result<(), Failure> {
        let key = [&chunk.id.as_bytes()[..], &[0; 8]].concat();
        let value = [chunk.length.to_le_bytes(), chunk.stored.to_le_bytes()].concat();
        Ok(self.sorter.push(&key, &value)?)
    }
}

/// What a tree is for; two trees of one source may have the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Catalogue,
    Help,
    Tree,
    Aid,
}

type TreeName = (Kind, String, Role, String);

/// Every tree that a snapshot needs.
fn trees(snapshot: &Snapshot) -> Result<BTreeMap<TreeName, Tree>, Failure> {
    let mut trees = BTreeMap::new();
    for source in &snapshot.manifest.sources {
        let name = |role, name: &str| (source.kind, source.name.clone(), role, name.to_owned());
        trees.insert(name(Role::Catalogue, ""), source.catalogue);
        trees.insert(name(Role::Help, ""), source.help);
        for (role, records) in
            [(Role::Tree, snapshot.trees(source)?), (Role::Aid, snapshot.aids(source)?)]
        {
            for TreeRecord { info, tree } in records {
                trees.insert(name(role, &info.name), tree);
            }
        }
    }
    Ok(trees)
}

/// Adds up chunk by chunk.
struct Sums<'a> {
    chosen: &'a [bool],
    lines: &'a [usize],
    /// How many snapshots before each were asked for.
    chosen_before: Vec<u64>,
    /// Chunks, bytes and stored bytes that come with a snapshot, less those that go with it.
    steps: Vec<[i64; 3]>,
    exclusive: Vec<u64>,
    total: Usage,
    unneeded: u64,
}

/// The chunk that is being counted.
struct Current {
    id: [u8; ChunkId::LEN],
    length: u32,
    stored: u32,
    known: bool,
    /// The line that is being counted, how often the chunk is needed at this point of it, and
    /// since when.
    line: usize,
    count: i64,
    since: usize,
    /// In how many snapshots it is needed, one of them, and whether one was asked for.
    needed: usize,
    one: usize,
    chosen: bool,
}

impl<'a> Sums<'a> {
    fn new(chosen: &'a [bool], lines: &'a [usize]) -> Self {
        let chosen_before = std::iter::once(0).chain(chosen.iter().scan(0, |sum, chosen| {
            *sum += u64::from(*chosen);
            Some(*sum)
        }));
        Self {
            chosen,
            lines,
            chosen_before: chosen_before.collect(),
            steps: vec![[0; 3]; chosen.len() + 1],
            exclusive: vec![0; chosen.len()],
            total: Usage::default(),
            unneeded: 0,
        }
    }

    fn add_up(&mut self, sorter: Sorter, ctx: &Context) -> Result<(), Failure> {
        let mut current: Option<Current> = None;
        for event in sorter.finish()? {
            ctx.check_cancelled()?;
            let (key, value) = event?;
            let Some((id, rest)) = key.split_first_chunk() else { continue };
            let word = |at: usize| -> usize {
                let word = rest.get(at..at + 4).and_then(|word| word.try_into().ok());
                word.map_or(0, |word| u32::from_be_bytes(word) as usize)
            };
            let (line, at) = (word(0), word(4));
            if current.as_ref().is_none_or(|current| current.id != *id)
                && let Some(done) = current.replace(Current::new(*id))
            {
                self.finish(done)?;
            }
            let Some(current) = current.as_mut() else { continue };
            if line == 0 {
                current.known = true;
                let size = |at: usize| value.get(at..at + 4).and_then(|size| size.try_into().ok());
                current.length = size(0).map_or(0, u32::from_le_bytes);
                current.stored = size(4).map_or(0, u32::from_le_bytes);
                continue;
            }
            if current.line != line {
                self.end_line(current);
                (current.line, current.count) = (line, 0);
            }
            let before = current.count;
            current.count += if value == [1] { 1 } else { -1 };
            if before <= 0 && current.count > 0 {
                current.since = at;
            } else if before > 0 && current.count <= 0 {
                self.interval(current, at);
            }
        }
        current.map_or(Ok(()), |current| self.finish(current))
    }

    /// The chunk is needed from where the current interval began up to before `end`.
    fn interval(&mut self, current: &mut Current, end: usize) {
        if end == current.since {
            return;
        }
        let sizes = [1, i64::from(current.length), i64::from(current.stored)];
        for (at, size) in sizes.into_iter().enumerate() {
            self.steps[current.since][at] += size;
            self.steps[end][at] -= size;
        }
        current.needed += end - current.since;
        current.one = current.since;
        current.chosen |= self.chosen_before[current.since] < self.chosen_before[end];
    }

    fn end_line(&mut self, current: &mut Current) {
        if current.count > 0 {
            let end = self.lines.get(current.line).copied().unwrap_or(self.chosen.len());
            self.interval(current, end);
        }
    }

    fn finish(&mut self, mut current: Current) -> Result<(), Failure> {
        self.end_line(&mut current);
        let stored = u64::from(current.stored);
        if current.needed == 0 {
            self.unneeded += stored;
            return Ok(());
        }
        if !current.known {
            return Err(RepoError::ChunkMissing { id: ChunkId::new(current.id) }.into());
        }
        if current.needed == 1 {
            self.exclusive[current.one] += stored;
        }
        if current.chosen {
            self.total.chunks += 1;
            self.total.unique += u64::from(current.length);
            self.total.stored += stored;
            if current.needed == 1 {
                self.total.exclusive += stored;
            }
        }
        Ok(())
    }

    /// Chunks and bytes of each snapshot.
    fn usages(self) -> impl Iterator<Item = Usage> {
        let mut sums = [0_i64; 3];
        self.exclusive.into_iter().zip(self.steps).map(move |(exclusive, step)| {
            for (sum, step) in sums.iter_mut().zip(step) {
                *sum += step;
            }
            let [chunks, unique, stored] = sums.map(|sum| u64::try_from(sum).unwrap_or(0));
            Usage { chunks, unique, stored, exclusive, ..Usage::default() }
        })
    }
}

impl Current {
    const fn new(id: [u8; ChunkId::LEN]) -> Self {
        Self {
            id,
            length: 0,
            stored: 0,
            known: false,
            line: 0,
            count: 0,
            since: 0,
            needed: 0,
            one: 0,
            chosen: false,
        }
    }
}
