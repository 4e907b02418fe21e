//! This host's view of the index: RocksDB under the cache directory, fed from index segments.
//!
//! It is disposable: whatever is wrong with it, it is thrown away and read again from the
//! repository. One process per host writes it; others open it read-only, or not at all, and keep
//! what they learn in memory, so that nobody waits and nobody fails.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DataBlockIndexType,
    IteratorMode, Options, WriteBatch, WriteOptions,
};

use super::error::RepoError;
use super::format::segment::{PackRecord, Segment};
use crate::id::{ChunkId, PackId, SegmentId, SnapshotId};

const CHUNKS: &str = "chunks";
const PACKS: &str = "packs";
const SEGMENTS: &str = "segments";
const FAMILIES: [&str; 3] = [CHUNKS, PACKS, SEGMENTS];

/// Memory for blocks of the view, the cap on what RocksDB holds.
const CACHE_BYTES: usize = 48 << 20;
const MEMTABLE_BYTES: usize = 16 << 20;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    /// The pack, by its number in this view.
    pub(super) pack: u32,
    /// The block's number in the pack.
    pub(super) block: u16,
    /// Where the sealed block begins.
    pub(super) offset: u32,
    /// Its sealed length.
    pub(super) length: u32,
    /// Where the chunk begins in the decoded block.
    pub(super) inner: u32,
    /// The chunk's length.
    pub(super) size: u32,
}

/// What must be known of a pack to read a block from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackInfo {
    pub(super) id: PackId,
    pub(super) salt: [u8; 32],
    pub(super) size: u64,
}

/// The view: what RocksDB holds and what was learned since, where that cannot be written.
pub(super) struct View {
    store: Option<Store>,
    learned: RwLock<Learned>,
}

struct Store {
    db: DB,
    writable: bool,
}

#[derive(Default)]
struct Learned {
    chunks: HashMap<ChunkId, Location>,
    packs: HashMap<u32, PackInfo>,
    segments: HashSet<SegmentId>,
    next_pack: u32,
}

impl View {
    /// Opens the view in `directory`, or begins an empty one in memory where that is not possible
    /// (another process is just making it, the disk is full). A view that knows a segment which
    /// is not among `present` comes from another past of this repository: it is begun anew.
    pub(super) fn open(directory: &Path, present: &HashSet<SegmentId>) -> Result<Self, RepoError> {
        let view = Self::over(Store::open(directory))?;
        if view.segments()?.iter().all(|segment| present.contains(segment)) {
            return Ok(view);
        }
        let writable = view.store.as_ref().is_some_and(|store| store.writable);
        drop(view);
        if writable {
            DB::destroy(&Options::default(), directory)?;
            Self::over(Store::open(directory))
        } else {
            Self::over(None)
        }
    }

    fn over(store: Option<Store>) -> Result<Self, RepoError> {
        let next_pack = match &store {
            None => 0,
            Some(store) => {
                match store.db.iterator_cf(store.family(PACKS), IteratorMode::End).next() {
                    None => 0,
                    Some(last) => read_number(&last?.0) + 1,
                }
            }
        };
        let learned = Learned { next_pack, ..Learned::default() };
        Ok(Self { store, learned: RwLock::new(learned) })
    }

    /// The segments that this view knows.
    pub(super) fn segments(&self) -> Result<HashSet<SegmentId>, RepoError> {
        let mut segments = self.read().segments.clone();
        if let Some(store) = &self.store {
            for entry in store.db.iterator_cf(store.family(SEGMENTS), IteratorMode::Start) {
                segments.extend(SegmentId::from_slice(&entry?.0));
            }
        }
        Ok(segments)
    }

    /// Takes in a segment, all or nothing.
    pub(super) fn ingest(&self, id: SegmentId, segment: &Segment) -> Result<(), RepoError> {
        let mut learned = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        match self.store.as_ref().filter(|store| store.writable) {
            Some(store) => {
                let mut batch = WriteBatch::default();
                for pack in &segment.packs {
                    let number = learned.number();
                    batch.put_cf(store.family(PACKS), number.to_be_bytes(), write_info(pack));
                    locations(number, pack, |id, location| {
                        batch.put_cf(store.family(CHUNKS), id.as_bytes(), location.to_bytes());
                    });
                }
                batch.put_cf(store.family(SEGMENTS), id.as_bytes(), []);
                let mut options = WriteOptions::default();
                options.disable_wal(true);
                store.db.write_opt(batch, &options)?;
            }
            None => {
                for pack in &segment.packs {
                    let number = learned.number();
                    learned.packs.insert(number, PackInfo::of(pack));
                    locations(number, pack, |id, location| {
                        learned.chunks.insert(id, location);
                    });
                }
                learned.segments.insert(id);
            }
        }
        Ok(())
    }

    /// Where a chunk is, if this view knows it.
    pub(super) fn locate(&self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        if let Some(location) = self.read().chunks.get(id) {
            return Ok(Some(*location));
        }
        let Some(store) = &self.store else { return Ok(None) };
        match store.db.get_pinned_cf(store.family(CHUNKS), id.as_bytes())? {
            None => Ok(None),
            Some(bytes) => Location::from_bytes(&bytes).map(Some).ok_or(RepoError::ViewDamaged),
        }
    }

    /// A pack by its number in this view.
    pub(super) fn pack(&self, number: u32) -> Result<PackInfo, RepoError> {
        if let Some(info) = self.read().packs.get(&number) {
            return Ok(*info);
        }
        let store = self.store.as_ref().ok_or(RepoError::ViewDamaged)?;
        let bytes = store.db.get_pinned_cf(store.family(PACKS), number.to_be_bytes())?;
        bytes.and_then(|bytes| read_info(&bytes)).ok_or(RepoError::ViewDamaged)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Learned> {
        self.learned.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Opens for writing, else for reading, else not at all.
    fn open(directory: &Path) -> Option<Self> {
        let families = || FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, options(name)));
        let mut created = options(SEGMENTS);
        created.create_if_missing(true);
        created.create_missing_column_families(true);
        // Without a write-ahead log, chunks and the segment they came in must become durable
        // together.
        created.set_atomic_flush(true);
        let private = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        if private.is_err() {
            return None;
        }
        match DB::open_cf_descriptors(&created, directory, families()) {
            Ok(db) => return Some(Self { db, writable: true }),
            Err(error) if error.kind() == rocksdb::ErrorKind::Corruption => {
                DB::destroy(&Options::default(), directory).ok()?;
                let db = DB::open_cf_descriptors(&created, directory, families()).ok()?;
                return Some(Self { db, writable: true });
            }
            Err(_held_by_another) => {}
        }
        let read_only = options(SEGMENTS);
        let db =
            DB::open_cf_descriptors_read_only(&read_only, directory, families(), false).ok()?;
        Some(Self { db, writable: false })
    }

    fn family(&self, name: &'static str) -> &ColumnFamily {
        #[expect(clippy::expect_used, reason = "opened with all three families, or not at all")]
        self.db.cf_handle(name).expect("the database was opened with this family")
    }
}

/// Keys are random, so compression and block-internal search gain nothing, and filters all.
fn options(family: &str) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_hyper_clock_cache(CACHE_BYTES, 0));
    if family == CHUNKS {
        table.set_ribbon_filter(10.0);
        table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options
}

impl Learned {
    fn number(&mut self) -> u32 {
        self.next_pack += 1;
        self.next_pack - 1
    }
}

impl PackInfo {
    fn of(pack: &PackRecord) -> Self {
        Self { id: pack.id, salt: pack.salt, size: pack.size }
    }
}

/// Every chunk of a pack with its place. Chunks stored as a difference to a base belong to the
/// delta codec of a later version and are passed over: what cannot be read is not there.
fn locations(number: u32, pack: &PackRecord, mut each: impl FnMut(ChunkId, Location)) {
    for (block, entry) in (0..=u16::MAX).zip(&pack.footer.blocks) {
        let mut inner = 0;
        for chunk in &entry.chunks {
            if chunk.base.is_none() {
                each(
                    chunk.id,
                    Location {
                        pack: number,
                        block,
                        offset: entry.offset,
                        length: entry.length,
                        inner,
                        size: chunk.length,
                    },
                );
            }
            inner += chunk.length;
        }
    }
}

const LOCATION: usize = 22;

impl Location {
    fn to_bytes(self) -> [u8; LOCATION] {
        let mut bytes = [0; LOCATION];
        bytes[..4].copy_from_slice(&self.pack.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.block.to_le_bytes());
        bytes[6..10].copy_from_slice(&self.offset.to_le_bytes());
        bytes[10..14].copy_from_slice(&self.length.to_le_bytes());
        bytes[14..18].copy_from_slice(&self.inner.to_le_bytes());
        bytes[18..].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LOCATION] = bytes.try_into().ok()?;
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        Some(Self {
            pack: word(0)?,
            block: u16::from_le_bytes([bytes[4], bytes[5]]),
            offset: word(6)?,
            length: word(10)?,
            inner: word(14)?,
            size: word(18)?,
        })
    }
}

fn read_number(key: &[u8]) -> u32 {
    key.try_into().map_or(0, u32::from_be_bytes)
}

fn write_info(pack: &PackRecord) -> [u8; 60] {
    let mut bytes = [0; 60];
    bytes[..16].copy_from_slice(pack.id.session.as_bytes());
    bytes[16..20].copy_from_slice(&pack.id.number.to_le_bytes());
    bytes[20..52].copy_from_slice(&pack.salt);
    bytes[52..].copy_from_slice(&pack.size.to_le_bytes());
    bytes
}

fn read_info(bytes: &[u8]) -> Option<PackInfo> {
    let bytes: &[u8; 60] = bytes.try_into().ok()?;
    Some(PackInfo {
        id: PackId {
            session: SnapshotId::from_slice(&bytes[..16])?,
            number: u32::from_le_bytes(bytes[16..20].try_into().ok()?),
        },
        salt: bytes[20..52].try_into().ok()?,
        size: u64::from_le_bytes(bytes[52..].try_into().ok()?),
    })
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let writable = self.store.as_ref().map(|store| store.writable);
        f.debug_struct("View").field("writable", &writable).finish_non_exhaustive()
    }
}
