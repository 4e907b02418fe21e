//! One RocksDB database of the view, and how it is set up.
//!
//! The keys are hashes, so no two look-ups are near each other: what helps is to know without
//! reading that a chunk is absent (filters), and to hold nothing in memory but filters and
//! indexes. Both are cut into partitions, read when needed and kept in one cache of bounded size.

use std::collections::HashSet;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB,
    DBCompactionStyle, DataBlockIndexType, ErrorKind, FlushOptions, IngestExternalFileOptions,
    IteratorMode, Options, SstFileWriter, UniversalCompactOptions, WaitForCompactOptions,
    WriteBatch, WriteOptions,
};
use tempfile::TempDir;

use super::place::{Difference, Location, PackInfo};
use crate::id::{ChunkId, PackId, SegmentId};
use crate::repo::error::RepoError;

/// Where chunks are. The name changes with the form of the values: a database of another form is
/// begun anew.
const CHUNKS: &str = "locations";
/// Where chunks are that are stored as differences.
const DIFFERENCES: &str = "differences";
const PACKS: &str = "packs";
const SEGMENTS: &str = "segments";
const STATE: &str = "state";
const FAMILIES: [&str; 5] = [CHUNKS, DIFFERENCES, PACKS, SEGMENTS, STATE];
/// The one key of the state: the last collection whose packs are left out, and the first number of
/// a pack that counts.
const BURIED: &[u8] = b"buried";

const CHUNKS_IN_MEMORY: usize = 8 << 20;
/// Files open at once, of the usual 1,024 that a process may open.
const OPEN_FILES: i32 = 256;
/// Runs (each asked in turn, newest first) that may be there before some are merged.
const RUNS: i32 = 6;
const MERGED_FILE: u64 = 256 << 20;

/// The cache holds blocks of all kinds, and is the cap on what RocksDB keeps of its files. Filters
/// and indexes are about 1/45 of the files; with all of them in the cache, an absent chunk costs
/// no reading and a present one a single block.
const CACHE_SHARE: u64 = 24;
const CACHE_LEAST: usize = 16 << 20;
const CACHE_MOST: usize = 192 << 20;

/// The name of a file that says that the database was found to be damaged.
const DAMAGED: &str = "damaged";

/// Chunks that are whole, and those that are differences.
pub(super) type News<'a> = (&'a [(ChunkId, Location)], &'a [(ChunkId, Difference)]);

/// A database with chunks, packs and the segments they came from.
pub(in crate::repo) struct Store {
    db: DB,
    cache: Cache,
    directory: PathBuf,
    writable: bool,
    /// Held to be removed, after the database was closed.
    temporary: Option<TempDir>,
}

impl Store {
    /// Opens for writing, else for reading, else not at all.
    pub(super) fn open(directory: &Path) -> Option<Self> {
        let private = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        if private.is_err() {
            return None;
        }
        let begin_anew = || Self::destroy(directory).and_then(|()| Ok(Self::writable(directory)?));
        match Self::writable(directory) {
            Ok(store) if directory.join(DAMAGED).exists() => {
                drop(store);
                return begin_anew().ok();
            }
            Ok(store) => return Some(store),
            // Damaged, or of another form.
            Err(error)
                if matches!(error.kind(), ErrorKind::Corruption | ErrorKind::InvalidArgument) =>
            {
                return begin_anew().ok();
            }
            Err(_held_by_another) => {}
        }
        let cache = cache();
        let (mut options, families) = options(&cache);
        // All of them now: who writes removes files that it has merged, and one that is open stays.
        options.set_max_open_files(-1);
        let db = DB::open_cf_descriptors_read_only(&options, directory, families, false).ok()?;
        let store =
            Self { db, cache, directory: directory.into(), writable: false, temporary: None };
        store.fit_cache().ok()?;
        Some(store)
    }

    /// One in a temporary folder, which vanishes with it.
    pub(in crate::repo) fn temporary() -> Result<Self, RepoError> {
        let folder = tempfile::tempdir().map_err(RepoError::Scratch)?;
        let mut store = Self::writable(folder.path())?;
        store.temporary = Some(folder);
        Ok(store)
    }

    fn writable(directory: &Path) -> Result<Self, rocksdb::Error> {
        let cache = cache();
        let (options, families) = options(&cache);
        let db = DB::open_cf_descriptors(&options, directory, families)?;
        let store =
            Self { db, cache, directory: directory.into(), writable: true, temporary: None };
        store.fit_cache()?;
        Ok(store)
    }

    pub(super) fn destroy(directory: &Path) -> Result<(), RepoError> {
        DB::destroy(&Options::default(), directory)?;
        match std::fs::remove_file(directory.join(DAMAGED)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(RepoError::Scratch(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// The segments that have been taken in.
    pub(super) fn segments(&self) -> Result<HashSet<SegmentId>, RepoError> {
        let entries = self.db.iterator_cf(self.family(SEGMENTS), IteratorMode::Start);
        entries
            .map(|entry| self.read(entry.map(Some), |(key, _)| SegmentId::from_slice(key)))
            .filter_map(Result::transpose)
            .collect()
    }

    /// The number above those of all packs.
    pub(super) fn next_pack(&self) -> Result<u32, RepoError> {
        let last = self.db.iterator_cf(self.family(PACKS), IteratorMode::End).next();
        let above = |(key, _): &(Box<[u8]>, _)| {
            let number = u32::from_be_bytes((**key).try_into().ok()?);
            number.checked_add(1)
        };
        Ok(self.read(last.transpose(), above)?.unwrap_or(0))
    }

    pub(in crate::repo) fn locate(&self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        let value = self.db.get_pinned_cf(self.family(CHUNKS), id.as_bytes());
        self.read(value, |bytes| Location::read(bytes))
    }

    /// Where a chunk is as a difference.
    pub(super) fn locate_difference(&self, id: &ChunkId) -> Result<Option<Difference>, RepoError> {
        let value = self.db.get_pinned_cf(self.family(DIFFERENCES), id.as_bytes());
        self.read(value, |bytes| Difference::read(bytes))
    }

    /// Where chunks are whose ids are given in their order.
    pub(super) fn locate_sorted(
        &self,
        ids: &[ChunkId],
    ) -> Result<Vec<Option<Location>>, RepoError> {
        self.get_sorted(CHUNKS, ids, Location::read)
    }

    /// Where they are as differences.
    pub(super) fn locate_differences_sorted(
        &self,
        ids: &[ChunkId],
    ) -> Result<Vec<Option<Difference>>, RepoError> {
        self.get_sorted(DIFFERENCES, ids, Difference::read)
    }

    fn get_sorted<T>(
        &self,
        family: &'static str,
        ids: &[ChunkId],
        decode: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, RepoError> {
        let ids = ids.iter().map(ChunkId::as_bytes);
        let values = self.db.batched_multi_get_cf(self.family(family), ids, true);
        values.into_iter().map(|value| self.read(value, |bytes| decode(bytes))).collect()
    }

    pub(super) fn pack(&self, number: u32) -> Result<PackInfo, RepoError> {
        let value = self.db.get_pinned_cf(self.family(PACKS), number.to_be_bytes());
        match self.read(value, |bytes| PackInfo::from_bytes(bytes))? {
            Some(info) => Ok(info),
            None => Err(self.damaged()),
        }
    }

    /// All packs by their numbers.
    pub(super) fn each_pack(&self, each: &mut dyn FnMut(u32, PackId)) -> Result<(), RepoError> {
        for entry in self.db.iterator_cf(self.family(PACKS), IteratorMode::Start) {
            let decode = |(key, value): &(Box<[u8]>, Box<[u8]>)| {
                let number = u32::from_be_bytes((**key).try_into().ok()?);
                Some((number, PackInfo::from_bytes(value)?))
            };
            if let Some((number, info)) = self.read(entry.map(Some), decode)? {
                each(number, info.id);
            }
        }
        Ok(())
    }

    /// The last collection whose packs are left out, and the first number of a pack that counts.
    pub(super) fn buried(&self) -> Result<(u64, u32), RepoError> {
        let decode = |bytes: &Vec<u8>| {
            let (buried, first) = bytes.split_first_chunk::<8>()?;
            Some((u64::from_be_bytes(*buried), u32::from_be_bytes(first.try_into().ok()?)))
        };
        let value = self.db.get_cf(self.family(STATE), BURIED);
        Ok(self.read(value, decode)?.unwrap_or_default())
    }

    /// Notes that.
    pub(super) fn bury(&self, buried: u64, first: u32) -> Result<(), RepoError> {
        let mut batch = WriteBatch::default();
        let value = [&buried.to_be_bytes()[..], &first.to_be_bytes()].concat();
        batch.put_cf(self.family(STATE), BURIED, value);
        self.apply(batch)
    }

    /// Notes that segments were not taken in, or are gone.
    pub(super) fn forget_segments(
        &self,
        segments: impl Iterator<Item = SegmentId>,
    ) -> Result<(), RepoError> {
        let mut batch = WriteBatch::default();
        for segment in segments {
            batch.delete_cf(self.family(SEGMENTS), segment.as_bytes());
        }
        self.apply(batch)
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), RepoError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        Ok(self.db.write_opt(batch, &options)?)
    }

    fn read<V, T>(
        &self,
        value: Result<Option<V>, rocksdb::Error>,
        decode: impl Fn(&V) -> Option<T>,
    ) -> Result<Option<T>, RepoError> {
        match value {
            Ok(None) => Ok(None),
            Ok(Some(value)) => decode(&value).map(Some).ok_or_else(|| self.damaged()),
            Err(error) if error.kind() == ErrorKind::Corruption => Err(self.damaged()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sees to it that the next process begins the view anew: this one is in the middle of it.
    fn damaged(&self) -> RepoError {
        match std::fs::File::create(self.directory.join(DAMAGED)) {
            Ok(_) => RepoError::ViewDamaged,
            Err(error) => RepoError::ViewStuck(error),
        }
    }

    /// Writes through the memtable, all or nothing, also across a crash. There is no log: what
    /// was not flushed yet when the machine fails is read from the repository again.
    pub(super) fn write(
        &self,
        packs: &[(u32, PackInfo)],
        (chunks, differences): News<'_>,
        segments: &[SegmentId],
    ) -> Result<(), RepoError> {
        let mut batch = WriteBatch::default();
        for (number, info) in packs {
            batch.put_cf(self.family(PACKS), number.to_be_bytes(), info.to_bytes());
        }
        let mut value = Vec::new();
        for (id, location) in chunks {
            value.clear();
            location.write(&mut value);
            batch.put_cf(self.family(CHUNKS), id.as_bytes(), &value);
        }
        for (id, difference) in differences {
            value.clear();
            difference.write(&mut value);
            batch.put_cf(self.family(DIFFERENCES), id.as_bytes(), &value);
        }
        for id in segments {
            batch.put_cf(self.family(SEGMENTS), id.as_bytes(), []);
        }
        self.apply(batch)
    }

    /// Makes durable what was written through the memtable.
    pub(super) fn flush(&self) -> Result<(), RepoError> {
        let families = FAMILIES.map(|name| self.family(name));
        Ok(self.db.flush_cfs_opt(&families, &FlushOptions::default())?)
    }

    /// Takes in chunks, sorted and without duplicates, as a file of their own: durable at once.
    pub(in crate::repo) fn ingest(&self, chunks: &[(ChunkId, Location)]) -> Result<(), RepoError> {
        let path = self.directory.join("incoming");
        let options = family_options(CHUNKS, &self.cache);
        let mut writer = SstFileWriter::create(&options);
        writer.open(&path)?;
        let mut value = Vec::new();
        for (id, location) in chunks {
            value.clear();
            location.write(&mut value);
            writer.put(id.as_bytes(), &value)?;
        }
        writer.finish()?;
        let mut moved = IngestExternalFileOptions::default();
        moved.set_move_files(true);
        self.db.ingest_external_file_cf_opts(self.family(CHUNKS), &moved, vec![path])?;
        Ok(self.fit_cache()?)
    }

    /// From now on, files are not merged as they come, but by [`Self::merge`].
    pub(super) fn merge_when_asked(&self) -> Result<(), RepoError> {
        self.merges("true")
    }

    /// Merges files until they are few again, and lets them be merged as they come.
    pub(super) fn merge(&self) -> Result<(), RepoError> {
        self.merges("false")?;
        self.db.wait_for_compact(&WaitForCompactOptions::default())?;
        Ok(self.fit_cache()?)
    }

    fn merges(&self, only_when_asked: &str) -> Result<(), RepoError> {
        let option = [("disable_auto_compactions", only_when_asked)];
        Ok(self.db.set_options_cf(self.family(CHUNKS), &option)?)
    }

    /// Gives the cache the size that what lies on disk calls for.
    fn fit_cache(&self) -> Result<(), rocksdb::Error> {
        const SIZE: &std::ffi::CStr = c"rocksdb.live-sst-files-size";
        let size = self.db.property_int_value_cf(self.family(CHUNKS), SIZE)?.unwrap_or(0);
        let share = usize::try_from(size / CACHE_SHARE).unwrap_or(CACHE_MOST);
        self.cache.clone().set_capacity(share.clamp(CACHE_LEAST, CACHE_MOST));
        Ok(())
    }

    fn family(&self, name: &'static str) -> &ColumnFamily {
        #[expect(clippy::expect_used, reason = "opened with all families, or not at all")]
        self.db.cf_handle(name).expect("the database was opened with this family")
    }
}

/// Made for the most that it may ever hold, since it can grow to no more; see [`Store::fit_cache`].
fn cache() -> Cache {
    Cache::new_hyper_clock_cache(CACHE_MOST, 0)
}

fn options(cache: &Cache) -> (Options, [ColumnFamilyDescriptor; FAMILIES.len()]) {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Without a write-ahead log, chunks and the segment they came in must become durable together.
    options.set_atomic_flush(true);
    options.set_max_open_files(OPEN_FILES);
    // Files are few and their tops small: starting threads to open them takes longer.
    options.set_max_file_opening_threads(1);
    options.set_max_background_jobs(2);
    options.set_max_subcompactions(2);
    options.set_compaction_readahead_size(256 << 10);
    options.set_bytes_per_sync(4 << 20);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    let families =
        FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options(name, cache)));
    (options, families)
}

fn family_options(family: &str, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options.set_write_buffer_size(1 << 20);
    if [CHUNKS, DIFFERENCES].contains(&family) {
        table.set_ribbon_filter(10.0);
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_top_level_index_and_filter(true);
        table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        options.set_write_buffer_size(CHUNKS_IN_MEMORY);
        // Processes are short, and most bring little: small runs are merged with small ones only.
        options.set_compaction_style(DBCompactionStyle::Universal);
        options.set_level_zero_file_num_compaction_trigger(RUNS);
        options.set_target_file_size_base(MERGED_FILE);
        let mut universal = UniversalCompactOptions::default();
        // Entries are never replaced, so a run wastes no space: it need not be merged for that,
        // nor because it is old.
        universal.set_max_size_amplification_percent(i32::MAX);
        options.set_universal_compaction_options(&universal);
        options.set_ttl(0);
        options.set_periodic_compaction_seconds(0);
    }
    options.set_block_based_table_factory(&table);
    options
}
