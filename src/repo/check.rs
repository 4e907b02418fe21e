//! Verification and repair of what the repository stores, without knowing what it means. What its
//! trees refer to is the snapshot room's to walk.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::iter::{IntoParallelIterator as _, ParallelBridge as _, ParallelIterator as _};
use serde::Serialize;

use super::error::RepoError;
use super::format::block::Decoder;
use super::format::difference::frames;
use super::format::pack::{self, BlockEntry, Footer, Part};
use super::format::segment::PackRecord;
use super::format::{FormatError, codec, name};
use super::open::{Repo, segment_ids};
use super::session::SessionRecord;
use super::subset::{Subset, Turns};
use crate::context::Context;
use crate::crypto::{ObjectKind, PackOpener};
use crate::hint::Failure;
use crate::id::{ChunkId, PackId, SegmentId, SnapshotId};
use crate::report::Event;
use crate::time::Timestamp;

/// How much of the packs a check reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadData {
    /// Names, sizes, headers and footers.
    Structure,
    /// Every byte: all blocks are decoded, all chunks hashed.
    Everything,
    /// Every byte of some of them.
    Some(Subset),
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which object.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What a check of the objects found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is damaged; empty when all is well.
    pub findings: Vec<Finding>,
    /// Chunks that stand in damaged places; another copy may still be good.
    pub damaged: HashSet<ChunkId>,
    /// Packs of which something is missing or wrong.
    pub broken: BTreeSet<PackId>,
    /// Packs of which every byte was read and found good.
    pub whole: HashSet<PackId>,
    /// When the pack was read in full, by this host, that has waited longest since; none if there
    /// is one that never was, or nothing was read.
    pub all_since: Option<Timestamp>,
    /// Packs looked at.
    pub packs: u64,
    /// Bytes read of them.
    pub bytes: u64,
    /// Packs that no index segment describes: left by an interrupted session.
    pub orphans: u64,
}

impl Repo {
    /// Looks at every object.
    pub fn check_objects(&self, read: ReadData, ctx: &Context) -> Result<Checked, Failure> {
        let mut checked = Checked::default();
        self.check_small_objects(&mut checked)?;
        self.tell_lost_keys(ctx)?;
        // Before the packs are listed: segments that name theirs are there by then.
        let committed = self.committed()?;
        let mut present: HashMap<String, u64> = self
            .backend
            .list(name::PACKS)
            .map_err(RepoError::from)?
            .into_iter()
            .map(|e| (e.name, e.size))
            .collect();
        ctx.phase("checking packs", Some(present.len() as u64));
        let (turns, chosen) = self.turns(&present, read, ctx);
        let reads = |id: PackId| {
            if chosen.contains(&id) { ReadData::Everything } else { ReadData::Structure }
        };
        let mut looked_at = HashSet::new();
        let checked = Mutex::new(checked);
        let segments = segment_ids(&*self.backend)?;
        // Each thread takes the next pack, so that as many are in memory as there are threads.
        let indexed = segments
            .into_iter()
            .flat_map(|id| self.segment_packs(id, &checked))
            .filter_map(|record| {
                let name = name::pack(record.id);
                let size = present.remove(&name);
                if size.is_some() {
                    looked_at.insert(record.id);
                } else if !looked_at.contains(&record.id) && !self.collections().condemns(record.id)
                {
                    // Not named by two segments nor collected, but gone.
                    let mut checked = lock(&checked);
                    checked.broken.insert(record.id);
                    checked.damaged.extend(chunk_ids(&record.footer));
                    checked.find(name, &"the index names it, but it is not there");
                }
                size.map(|size| (record, size))
            });
        indexed.par_bridge().try_for_each(|(record, size)| {
            ctx.check_cancelled()?;
            let found = self.check_pack(record.id, size, Some(&record), reads(record.id));
            lock(&checked).add(found);
            ctx.report(Event::Progress { items: 1, bytes: size });
            Ok::<_, Failure>(())
        })?;
        // What this host knows of packs that no segment names any more, others cannot know: what
        // snapshots need of them is missing.
        for id in present.keys().filter_map(|name| pack_id(name)) {
            self.view.lose(id)?;
        }
        present.into_par_iter().try_for_each(|(name, size)| {
            ctx.check_cancelled()?;
            let found = match pack_id(&name) {
                Some(id) => {
                    let mut found = self.check_pack(id, size, None, reads(id));
                    if committed.contains(&id.session) {
                        let problem = "no index segment names it, but its snapshot was committed";
                        found.find(name, &problem);
                    }
                    found
                }
                None => Checked::only(name, &"it is no name that coeval gives"),
            };
            lock(&checked).add(Checked { orphans: 1, ..found });
            ctx.report(Event::Progress { items: 1, bytes: size });
            Ok::<_, Failure>(())
        })?;
        let mut checked = checked.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.add_dependants(&mut checked.damaged)?;
        if read != ReadData::Structure {
            checked.all_since = turns.verified(&checked.whole, &self.memory, ctx);
        }
        Ok(checked)
    }

    /// The sessions that committed a snapshot.
    fn committed(&self) -> Result<HashSet<SnapshotId>, RepoError> {
        match self.list_snapshots() {
            Ok(listed) => Ok(listed.valid.into_iter().collect()),
            // An object with a name that nobody gives; who reads the snapshots says so.
            Err(RepoError::Format(_)) => Ok(HashSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Whose turn it is to be read, and which packs are read now.
    fn turns(
        &self,
        present: &HashMap<String, u64>,
        read: ReadData,
        ctx: &Context,
    ) -> (Turns, HashSet<PackId>) {
        let present = present.iter().filter_map(|(name, size)| Some((pack_id(name)?, *size)));
        let present: HashMap<PackId, u64> = present.collect();
        let subset = match read {
            ReadData::Structure => return (Turns::default(), HashSet::new()),
            ReadData::Everything => Subset::Part { number: 1, of: 1 },
            ReadData::Some(subset) => subset,
        };
        let turns = Turns::load(&self.memory, &present, ctx);
        let chosen = turns.choose(subset, &present);
        (turns, chosen)
    }

    /// The packs that a segment describes; none, and a finding, if it is damaged.
    fn segment_packs(&self, id: SegmentId, checked: &Mutex<Checked>) -> Vec<PackRecord> {
        let name = name::segment(id);
        match self.read_object(&name).and_then(|object| self.open_segment(id, &object)) {
            Ok(segment) => segment.packs,
            Err(error) => {
                lock(checked).find(name, &error);
                Vec::new()
            }
        }
    }

    /// Keys, sessions and snapshots.
    fn check_small_objects(&self, checked: &mut Checked) -> Result<(), RepoError> {
        if let Err(error) = Self::slots(&*self.backend) {
            checked.find(name::KEYS.to_owned(), &error);
        }
        for entry in self.backend.list(name::SESSIONS)? {
            let opened = self.read_object(&entry.name).and_then(|object| {
                let bytes = self.sealer.open_object(ObjectKind::Session, &entry.name, &object)?;
                Ok(codec::decode::<SessionRecord>("session", &bytes)?)
            });
            if let Err(error) = opened {
                checked.find(entry.name, &error);
            }
        }
        if let Err(error) = self.learn_collections() {
            checked.find(name::COLLECTIONS.to_owned(), &error);
        }
        for entry in self.backend.list(name::SNAPSHOTS)? {
            if entry.size == 0 {
                continue;
            }
            let opened = self.read_object(&entry.name).and_then(|object| {
                Ok(self.sealer.open_object(ObjectKind::Snapshot, &entry.name, &object)?)
            });
            if let Err(error) = opened {
                checked.find(entry.name, &error);
            }
        }
        Ok(())
    }

    fn read_object(&self, name: &str) -> Result<bytes::Bytes, RepoError> {
        Ok(self.backend.get(name)?)
    }

    fn check_pack(
        &self,
        id: PackId,
        size: u64,
        indexed: Option<&PackRecord>,
        read: ReadData,
    ) -> Checked {
        let mut checked = Checked { packs: 1, ..Checked::default() };
        self.look_into_pack(id, size, indexed, read, &mut checked);
        if !checked.findings.is_empty() {
            checked.broken.insert(id);
        } else if read == ReadData::Everything {
            checked.whole.insert(id);
        }
        checked
    }

    fn look_into_pack(
        &self,
        id: PackId,
        size: u64,
        indexed: Option<&PackRecord>,
        read: ReadData,
        checked: &mut Checked,
    ) {
        let name = name::pack(id);
        let record = match self.read_footer(id, size) {
            Ok(record) => record,
            Err(error) => {
                checked.find(name.clone(), &error);
                // The index still knows where the blocks are: most may be good.
                let Some(indexed) = indexed else { return };
                indexed.clone()
            }
        };
        if let Some(indexed) = indexed.filter(|indexed| **indexed != record) {
            checked.damaged.extend(chunk_ids(&indexed.footer));
            checked.find(name, &"the index describes it differently");
        } else if read == ReadData::Everything {
            checked.bytes = size;
            if let Err(error) = self.check_blocks(&name, &record, indexed, checked) {
                checked.damaged.extend(chunk_ids(&record.footer));
                checked.find(name, &error);
            }
        }
    }

    /// Decodes every block and hashes every chunk, so that one bad block is one finding and the
    /// other chunks of the pack are known to be sound. Reads a few blocks at a time.
    fn check_blocks(
        &self,
        name: &str,
        record: &PackRecord,
        indexed: Option<&PackRecord>,
        checked: &mut Checked,
    ) -> Result<(), RepoError> {
        let read = |range: Range<u64>| Ok::<_, RepoError>(self.backend.get_range(name, range)?);
        let opener = self.sealer.pack_opener(&record.salt);
        let mut decoder = Decoder::new().map_err(RepoError::Zstd)?;
        let mut whole = blake3::Hasher::new();
        let mut end = pack::HEADER as u64;
        whole.update(&read(0..end)?);
        let mut number = 0;
        for blocks in stretches(&record.footer.blocks) {
            let start = u64::from(blocks[0].offset);
            end = blocks.iter().map(BlockEntry::end).max().unwrap_or(end).min(record.size);
            let bytes = read(start.min(end)..end)?;
            whole.update(&bytes);
            for entry in blocks {
                #[expect(clippy::cast_possible_truncation, reason = "a few MiB at most")]
                let at = (u64::from(entry.offset) - start) as usize;
                let sealed = bytes.get(at..at.saturating_add(entry.length as usize));
                let problem = match sealed {
                    None => Some("it lies beyond the end".to_owned()),
                    Some(sealed) => self
                        .check_block(&opener, &mut decoder, number, sealed, entry)
                        .err()
                        // The bases of what an interrupted session left may be collected by now,
                        // or come later to a second place; and nobody refers to it.
                        .filter(|error| {
                            indexed.is_some() || !matches!(error, RepoError::ChunkMissing { .. })
                        })
                        .map(|error| error.to_string()),
                };
                if let Some(problem) = problem {
                    checked.damaged.extend(entry.chunks.iter().map(|chunk| chunk.id));
                    checked.find(format!("{name} block {number}"), &problem);
                }
                number += 1;
            }
        }
        // Last, since it says only that something is wrong: the blocks say what.
        let rest = read(end..record.size)?;
        let (footer, hash) = rest.split_at(rest.len().saturating_sub(blake3::OUT_LEN));
        if checked.findings.is_empty() && whole.update(footer).finalize().as_bytes() != hash {
            checked.find(name.to_owned(), &"its bytes do not have the hash in its trailer");
        }
        Ok(())
    }

    fn check_block(
        &self,
        opener: &PackOpener,
        decoder: &mut Decoder,
        number: u32,
        sealed: &[u8],
        entry: &BlockEntry,
    ) -> Result<(), RepoError> {
        let opened = opener.open(number, Part::Block as u8, sealed.to_vec())?;
        let wrong = |reason: &str| FormatError { what: "block", reason: reason.to_owned() };
        if entry.chunks.iter().any(|chunk| chunk.base.is_some()) {
            let mut chunks = entry.chunks.iter();
            for frame in frames(&opened)? {
                let chunk = chunks.next().ok_or_else(|| wrong("it is longer than its chunks"))?;
                self.verify_difference(chunk, frame?, decoder)?;
            }
            return match chunks.next() {
                None => Ok(()),
                Some(_) => Err(wrong("it is shorter than its chunks").into()),
            };
        }
        let mut rest = decoder.decode(&opened)?;
        for chunk in &entry.chunks {
            let (bytes, after) = rest
                .split_at_checked(chunk.length as usize)
                .ok_or_else(|| wrong("it is shorter than its chunks"))?;
            self.verify(chunk, bytes)?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(wrong("it is longer than its chunks").into()) }
    }

    /// Adds the chunks that are stored as differences to damaged ones.
    fn add_dependants(&self, damaged: &mut HashSet<ChunkId>) -> Result<(), RepoError> {
        if damaged.is_empty() || !self.config.allows_differences() {
            return Ok(());
        }
        let mut dependants = Vec::new();
        let read = self.each_indexed_pack(&mut |pack| {
            for chunk in pack.footer.blocks.iter().flat_map(|block| &block.chunks) {
                if chunk.base.is_some_and(|base| damaged.contains(&base)) {
                    dependants.push(chunk.id);
                }
            }
            Ok(())
        });
        damaged.extend(dependants);
        match read {
            // A segment that cannot be read is a finding already.
            Err(RepoError::Open(_) | RepoError::Format(_)) => Ok(()),
            read => read,
        }
    }

    /// What a pack says of itself: its header, trailer and footer.
    pub(super) fn read_footer(&self, id: PackId, size: u64) -> Result<PackRecord, RepoError> {
        let name = name::pack(id);
        let fixed = (pack::HEADER + pack::TRAILER) as u64;
        let short = || FormatError { what: "pack", reason: "it is too short".to_owned() };
        if size < fixed {
            return Err(short().into());
        }
        let salt = pack::read_header(&self.backend.get_range(&name, 0..pack::HEADER as u64)?)?;
        let end = size - pack::TRAILER as u64;
        let (length, _hash) = pack::read_trailer(&self.backend.get_range(&name, end..size)?)?;
        let start = end.checked_sub(u64::from(length)).ok_or_else(short)?;
        let sealed = self.backend.get_range(&name, start..end)?;
        let opener = self.sealer.pack_opener(&salt);
        let footer =
            opener.open(crate::crypto::FOOTER_NUMBER, Part::Footer as u8, sealed.to_vec())?;
        Ok(PackRecord { id, salt, size, footer: Footer::decode(&footer)? })
    }

    /// Whether the index knows where a chunk is.
    pub fn contains(&self, id: &ChunkId) -> Result<bool, RepoError> {
        Ok(self.view.locate(id)?.is_some())
    }

    /// Whether the index knows where each of these chunks is; several times faster than asking
    /// one by one.
    pub fn contains_many(&self, ids: &[ChunkId]) -> Result<Vec<bool>, RepoError> {
        Ok(self.view.locate_many(ids)?.iter().map(Option::is_some).collect())
    }

    /// The sessions that committed nothing: writers at work, or writers that died.
    pub fn open_sessions(&self) -> Result<Vec<SnapshotId>, RepoError> {
        let committed: HashSet<String> =
            self.backend.list(name::SNAPSHOTS)?.into_iter().map(|entry| entry.name).collect();
        let sessions = self.backend.list(name::SESSIONS)?;
        Ok(sessions
            .iter()
            .filter_map(|entry| entry.name.strip_prefix(name::SESSIONS)?.parse().ok())
            .filter(|id| !committed.contains(&name::snapshot(*id)))
            .collect())
    }
}

/// Blocks that follow each other, a few MiB at a time.
pub(super) fn stretches(blocks: &[BlockEntry]) -> impl Iterator<Item = &[BlockEntry]> {
    const LENGTH: u64 = 4 << 20;
    let mut rest = blocks;
    std::iter::from_fn(move || {
        let start = u64::from(rest.first()?.offset);
        let follows = |pair: &[BlockEntry]| {
            u64::from(pair[1].offset) == pair[0].end() && pair[1].end() - start <= LENGTH
        };
        let count = 1 + rest.windows(2).take_while(|pair| follows(pair)).count();
        let (stretch, after) = rest.split_at(count);
        rest = after;
        Some(stretch)
    })
}

fn lock(checked: &Mutex<Checked>) -> MutexGuard<'_, Checked> {
    checked.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checked {
    fn only(object: String, problem: &dyn std::fmt::Display) -> Self {
        let mut checked = Self::default();
        checked.find(object, problem);
        checked
    }

    fn add(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.damaged.extend(other.damaged);
        self.broken.extend(other.broken);
        self.whole.extend(other.whole);
        self.packs += other.packs;
        self.bytes += other.bytes;
        self.orphans += other.orphans;
    }

    fn find(&mut self, object: String, problem: &dyn std::fmt::Display) {
        self.findings.push(Finding { object, problem: problem.to_string() });
    }
}

fn chunk_ids(footer: &Footer) -> impl Iterator<Item = ChunkId> {
    footer.blocks.iter().flat_map(|block| &block.chunks).map(|chunk| chunk.id)
}

/// The pack that an object is, by its name.
pub(super) fn pack_id(object: &str) -> Option<PackId> {
    let id = object.rsplit('/').next()?.parse().ok()?;
    (name::pack(id) == object).then_some(id)
}
