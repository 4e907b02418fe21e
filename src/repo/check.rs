//! Verification and repair of what the repository stores, without knowing what it means. What its
//! trees refer to is the snapshot room's to walk.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::error::RepoError;
use super::format::pack::{self, Footer, Part};
use super::format::segment::{PackRecord, Segment};
use super::format::{FormatError, block, codec, name};
use super::open::{Repo, segment_ids};
use super::session::SessionRecord;
use crate::context::Context;
use crate::crypto::{ObjectKind, PackOpener};
use crate::hint::Failure;
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::report::Event;

/// How much of the packs a check reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadData {
    /// Names, sizes, headers and footers.
    Structure,
    /// Every byte: all blocks are decoded, all chunks hashed.
    Everything,
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
        let mut present: HashMap<String, u64> = self
            .backend
            .list(name::PACKS)
            .map_err(RepoError::from)?
            .into_iter()
            .map(|e| (e.name, e.size))
            .collect();
        let mut looked_at = HashSet::new();
        ctx.phase("checking packs", Some(present.len() as u64));
        for id in segment_ids(&*self.backend)? {
            let name = name::segment(id);
            let segment = match self.read_object(&name).and_then(|o| self.open_segment(id, &o)) {
                Ok(segment) => segment,
                Err(error) => {
                    checked.find(name, &error);
                    continue;
                }
            };
            for record in &segment.packs {
                ctx.check_cancelled()?;
                let Some(size) = present.remove(&name::pack(record.id)) else {
                    // Named by two segments, or gone.
                    let name = name::pack(record.id);
                    if !looked_at.contains(&record.id) {
                        checked.damaged.extend(chunk_ids(&record.footer));
                        checked.find(name, &"the index names it, but it is not there");
                    }
                    continue;
                };
                looked_at.insert(record.id);
                self.check_pack(record.id, size, Some(record), read, &mut checked);
                ctx.report(Event::Progress { items: 1, bytes: size });
            }
        }
        for (name, size) in present {
            ctx.check_cancelled()?;
            checked.orphans += 1;
            match pack_id(&name) {
                Some(id) => self.check_pack(id, size, None, read, &mut checked),
                None => checked.find(name, &"it is no name that coeval gives"),
            }
            ctx.report(Event::Progress { items: 1, bytes: size });
        }
        Ok(checked)
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
        checked: &mut Checked,
    ) {
        checked.packs += 1;
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
            return checked.find(name, &"the index describes it differently");
        }
        if read == ReadData::Structure {
            return;
        }
        match self.read_object(&name) {
            Ok(bytes) => {
                checked.bytes += size;
                self.check_blocks(&name, &record, &bytes, checked);
            }
            Err(error) => {
                checked.damaged.extend(chunk_ids(&record.footer));
                checked.find(name, &error);
            }
        }
    }

    /// Decodes every block and hashes every chunk, so that one bad block is one finding and the
    /// other chunks of the pack are known to be sound.
    fn check_blocks(&self, name: &str, record: &PackRecord, bytes: &[u8], checked: &mut Checked) {
        let before = checked.findings.len();
        let opener = self.sealer.pack_opener(&record.salt);
        for (number, entry) in (0..).zip(&record.footer.blocks) {
            let start = entry.offset as usize;
            let sealed = bytes.get(start..start.saturating_add(entry.length as usize));
            let problem = match sealed.map(|s| self.check_block(&opener, number, s, entry)) {
                Some(Ok(())) => continue,
                Some(Err(error)) => error.to_string(),
                None => "it lies beyond the end".to_owned(),
            };
            checked.damaged.extend(entry.chunks.iter().map(|chunk| chunk.id));
            checked.find(format!("{name} block {number}"), &problem);
        }
        // Last, since it says only that something is wrong: the blocks say what.
        let (content, hash) = bytes.split_at(bytes.len().saturating_sub(32));
        if checked.findings.len() == before && blake3::hash(content).as_bytes() != hash {
            checked.find(name.to_owned(), &"its bytes do not have the hash in its trailer");
        }
    }

    fn check_block(
        &self,
        opener: &PackOpener,
        number: u32,
        sealed: &[u8],
        entry: &pack::BlockEntry,
    ) -> Result<(), RepoError> {
        let opened = opener.open(number, Part::Block as u8, sealed.to_vec())?;
        let decoded = block::decode(&opened)?;
        let mut rest = decoded.as_slice();
        let wrong = |reason: String| FormatError { what: "block", reason };
        for chunk in &entry.chunks {
            let (bytes, after) = rest
                .split_at_checked(chunk.length as usize)
                .ok_or_else(|| wrong("it is shorter than its chunks".to_owned()))?;
            if self.sealer.chunk_id(bytes) != chunk.id {
                let reason =
                    format!("the bytes of chunk {} do not have its name", chunk.id.short());
                return Err(wrong(reason).into());
            }
            rest = after;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(wrong("it is longer than its chunks".to_owned()).into())
        }
    }

    /// What a pack says of itself: its header, trailer and footer.
    fn read_footer(&self, id: PackId, size: u64) -> Result<PackRecord, RepoError> {
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

    /// Builds the index anew from the footers of all packs, and replaces every index segment.
    /// Packs whose footer cannot be read are findings; their chunks are lost to the index.
    pub fn rebuild_index(&self, ctx: &Context) -> Result<Vec<Finding>, Failure> {
        const CHUNKS: usize = 1 << 16;
        let old = segment_ids(&*self.backend)?;
        let packs = self.backend.list(name::PACKS).map_err(RepoError::from)?;
        ctx.phase("reading pack footers", Some(packs.len() as u64));
        let mut checked = Checked::default();
        let mut segment = Segment { supersedes: old.iter().copied().collect(), packs: Vec::new() };
        let mut chunks = 0;
        for entry in packs {
            ctx.check_cancelled()?;
            let Some(id) = pack_id(&entry.name) else { continue };
            match self.read_footer(id, entry.size) {
                Ok(record) => {
                    chunks += record.footer.chunk_count();
                    segment.packs.push(record);
                }
                Err(error) => checked.find(entry.name, &error),
            }
            if chunks >= CHUNKS {
                self.publish(&std::mem::take(&mut segment))?;
                chunks = 0;
            }
            ctx.report(Event::Progress { items: 1, bytes: entry.size });
        }
        self.publish(&segment)?;
        for id in old {
            self.backend.delete(&name::segment(id)).map_err(RepoError::from)?;
        }
        Ok(checked.findings)
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

impl Checked {
    fn find(&mut self, object: String, problem: &dyn std::fmt::Display) {
        self.findings.push(Finding { object, problem: problem.to_string() });
    }
}

fn chunk_ids(footer: &Footer) -> impl Iterator<Item = ChunkId> {
    footer.blocks.iter().flat_map(|block| &block.chunks).map(|chunk| chunk.id)
}

fn pack_id(object: &str) -> Option<PackId> {
    let id = object.rsplit('/').next()?.parse().ok()?;
    (name::pack(id) == object).then_some(id)
}
