//! A session writes chunks, and commits them as a snapshot.
//!
//! Order (I1): packs, then the index segment that describes them, then the snapshot; each is
//! durable before the next begins, and creating the snapshot object is the commit.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Repo;
use super::chunks::{ChunkWriter, Class};
use super::error::RepoError;
use super::format::block::{self, Encoder};
use super::format::config::Gathering;
use super::format::pack::ChunkEntry;
use super::format::segment::{PackRecord, Segment};
use super::format::{codec, name};
use super::packer::{FinishedPack, PackBuilder};
use crate::backend::Created;
use crate::context::Context;
use crate::crypto::{ObjectKind, random};
use crate::hint::Failure;
use crate::id::{ChunkId, PackId, SegmentId, SnapshotId};
use crate::time::Timestamp;

/// Bytes of blocks that may wait for a thread before a writer waits too.
const BLOCKS_IN_FLIGHT: usize = 32 << 20;
/// Data packs that are open at once; blocks go to one of them at random, so that the sizes of
/// neighbouring chunks cannot be read off one pack.
const OPEN_DATA_PACKS: usize = 2;
/// Chunks after which finished packs are published in a segment of their own.
const SEGMENT_CHUNKS: usize = 1 << 16;
/// Seconds between signs of life.
const HEARTBEAT: u64 = 600;

/// `sessions/<id>`: a writer is at work, or its snapshot is there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    /// Tells our own object from another's after a create whose answer was lost.
    pub(super) nonce: [u8; 16],
    /// When the session began.
    pub(super) started: Timestamp,
}

/// How much a session wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Written {
    /// Chunks that were new.
    pub chunks: u64,
    /// Their bytes before compression.
    pub bytes: u64,
    /// Bytes added to the repository in packs.
    pub stored: u64,
}

/// Writes chunks into a repository; see [`Repo::write`].
pub struct Session<'a, 'scope> {
    scope: &'a rayon::Scope<'scope>,
    shared: &'scope Shared<'scope>,
}

struct Shared<'r> {
    repo: &'r Repo,
    ctx: &'r Context,
    id: SnapshotId,
    nonce: [u8; 16],
    /// Chunks that were written in this session and are not in the view yet.
    seen: Mutex<HashSet<ChunkId>>,
    data: Gatherer,
    nodes: Gatherer,
    unpublished: Mutex<Vec<PackRecord>>,
    next_pack: AtomicU32,
    in_flight: InFlight,
    committed: AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<RepoError>>,
    alive: Mutex<(Timestamp, u32)>,
    chunks: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

/// Chunks of one class on their way into packs.
struct Gatherer {
    class: Class,
    gathering: Gathering,
    open_packs: usize,
    block: Mutex<Gathered>,
    packs: Mutex<Vec<PackBuilder>>,
    encoders: Mutex<Vec<Encoder>>,
}

#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    chunks: Vec<ChunkEntry>,
}

impl Repo {
    /// Opens a session, lets `work` write chunks and commit, and waits for all threads. When
    /// `work` fails or does not commit, nothing of the session can be seen.
    pub fn write<T>(
        &self,
        ctx: &Context,
        work: impl FnOnce(&Session<'_, '_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.refresh()?;
        let shared = Shared::begin(self, ctx)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(ctx.jobs)
            .thread_name(|n| format!("coeval-pack-{n}"))
            .build()
            .map_err(RepoError::from)?;
        let result = pool.in_place_scope(|scope| {
            let session = Session { scope, shared: &shared };
            work(&session)
        });
        if shared.next_pack.load(Ordering::Relaxed) == 0
            && !shared.committed.load(Ordering::Relaxed)
        {
            // Nothing was stored: nobody needs to know of this session.
            self.backend.delete(&name::session(shared.id)).map_err(RepoError::from)?;
        }
        match (result, lock(&shared.failure).take()) {
            // The first error of a thread is the reason why `work` found the session failed.
            (Err(_), Some(cause)) => Err(cause.into()),
            (result, _) => result,
        }
    }
}

impl<'scope> Session<'_, 'scope> {
    /// The name that the snapshot will have.
    pub fn id(&self) -> SnapshotId {
        self.shared.id
    }

    /// How much has been written so far.
    pub fn written(&self) -> Written {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = self.shared;
        Written {
            chunks: load(&shared.chunks),
            bytes: load(&shared.bytes),
            stored: load(&shared.stored),
        }
    }

    /// Makes everything written durable. Called by [`Session::commit`]; on its own it gives
    /// [`Session::written`] its final value.
    pub fn flush(&self) -> Result<(), RepoError> {
        let shared = self.shared;
        for gatherer in [&shared.data, &shared.nodes] {
            let rest = std::mem::take(&mut *lock(&gatherer.block));
            self.submit(gatherer, rest);
        }
        shared.in_flight.wait_until_empty();
        shared.check()?;
        for gatherer in [&shared.data, &shared.nodes] {
            let packs = std::mem::take(&mut *lock(&gatherer.packs));
            for pack in packs.into_iter().filter(|pack| !pack.is_empty()) {
                shared.store(pack)?;
            }
        }
        shared.publish(0)
    }

    /// Commits: from here on the snapshot exists, with `manifest` as what it says of itself.
    pub fn commit(&self, manifest: &[u8]) -> Result<SnapshotId, RepoError> {
        self.flush()?;
        let Shared { repo, id, nonce, .. } = self.shared;
        let name = name::snapshot(*id);
        let content = [nonce.as_slice(), manifest].concat();
        let object = repo.sealer.seal_object(ObjectKind::Snapshot, &name, &content)?;
        self.shared.committed.store(true, Ordering::Relaxed);
        if repo.backend.create(&name, &object)? == Created::Existed {
            // Ours, if the answer to an earlier try was lost; else a collector gave us up.
            let ours = repo.backend.get(&name)?;
            if ours.is_empty()
                || repo.sealer.open_object(ObjectKind::Snapshot, &name, &ours)? != content
            {
                return Err(RepoError::Aborted { id: *id });
            }
        }
        let session = name::session(*id);
        if repo.backend.get(&session).is_err_and(|error| error.is_not_found()) {
            return Err(RepoError::Aborted { id: *id });
        }
        Ok(*id)
    }

    /// Hands gathered chunks to the threads, which compress, verify and seal them.
    fn submit(&self, gatherer: &'scope Gatherer, gathered: Gathered) {
        if gathered.chunks.is_empty() {
            return;
        }
        let shared = self.shared;
        let permit = shared.in_flight.acquire(gathered.bytes.len());
        self.scope.spawn(move |_| {
            if !shared.failed.load(Ordering::Relaxed)
                && let Err(error) = shared.pack(gatherer, gathered)
            {
                shared.fail(error);
            }
            drop(permit);
        });
    }
}

impl ChunkWriter for Session<'_, '_> {
    fn write_chunk(&self, class: Class, bytes: &[u8]) -> Result<ChunkId, RepoError> {
        let shared = self.shared;
        shared.check()?;
        let id = shared.repo.sealer.chunk_id(bytes);
        // Claiming the id is one step, so no chunk is written twice in a session.
        if !lock(&shared.seen).insert(id) {
            return Ok(id);
        }
        if shared.repo.view.locate(&id)?.is_some() {
            lock(&shared.seen).remove(&id);
            return Ok(id);
        }
        shared.chunks.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let gatherer = shared.gatherer(class);
        if let Some(full) = gatherer.gather(id, bytes)? {
            self.submit(gatherer, full);
        }
        Ok(id)
    }
}

impl Gatherer {
    fn new(class: Class, gathering: Gathering, open_packs: usize) -> Self {
        Self {
            class,
            gathering,
            open_packs,
            block: Mutex::default(),
            packs: Mutex::default(),
            encoders: Mutex::default(),
        }
    }

    /// Adds a chunk; gives back what is complete. A large chunk is a block of its own.
    fn gather(&self, id: ChunkId, bytes: &[u8]) -> Result<Option<Gathered>, RepoError> {
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length as usize <= block::LIMIT)
            .ok_or(RepoError::ChunkTooLong { length: bytes.len() })?;
        let chunk = ChunkEntry { id, length, base: None };
        let limit = self.gathering.block as usize;
        if bytes.len() >= limit / 2 {
            return Ok(Some(Gathered { bytes: bytes.to_vec(), chunks: vec![chunk] }));
        }
        let mut block = lock(&self.block);
        if block.bytes.capacity() == 0 {
            block.bytes.reserve_exact(limit + limit / 2);
        }
        block.bytes.extend_from_slice(bytes);
        block.chunks.push(chunk);
        Ok((block.bytes.len() >= limit).then(|| std::mem::take(&mut *block)))
    }

    /// Adds a block to one of the open packs; gives back the pack if that completed it.
    fn push(
        &self,
        block: Vec<u8>,
        chunks: Vec<ChunkEntry>,
        repo: &Repo,
    ) -> Result<Option<PackBuilder>, RepoError> {
        let mut packs = lock(&self.packs);
        while packs.len() < self.open_packs {
            packs.push(PackBuilder::new(self.class, &repo.sealer)?);
        }
        let [choice] = random::<1>()?;
        let choice = usize::from(choice) % packs.len();
        let pack = &mut packs[choice];
        pack.push(block, chunks)?;
        Ok(pack.is_full(self.gathering.pack).then(|| packs.swap_remove(choice)))
    }
}

impl<'r> Shared<'r> {
    /// Says that a writer is at work, before anything is written.
    fn begin(repo: &'r Repo, ctx: &'r Context) -> Result<Self, RepoError> {
        let id = SnapshotId::new(random()?);
        let nonce = random()?;
        let started = ctx.clock.now();
        let name = name::session(id);
        let record = codec::encode("session", &SessionRecord { nonce, started })?;
        let object = repo.sealer.seal_object(ObjectKind::Session, &name, &record)?;
        repo.backend.create(&name, &object)?;
        Ok(Self {
            repo,
            ctx,
            id,
            nonce,
            seen: Mutex::default(),
            data: Gatherer::new(Class::Data, repo.config.data, OPEN_DATA_PACKS),
            nodes: Gatherer::new(Class::Node, repo.config.nodes, 1),
            unpublished: Mutex::default(),
            next_pack: AtomicU32::new(0),
            in_flight: InFlight::default(),
            committed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
            alive: Mutex::new((started, 0)),
            chunks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stored: AtomicU64::new(0),
        })
    }

    fn gatherer(&self, class: Class) -> &Gatherer {
        match class {
            Class::Data => &self.data,
            Class::Node => &self.nodes,
        }
    }

    fn check(&self) -> Result<(), RepoError> {
        self.ctx.check_cancelled()?;
        if self.failed.load(Ordering::Relaxed) { Err(RepoError::Failed) } else { Ok(()) }
    }

    fn fail(&self, error: RepoError) {
        lock(&self.failure).get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Compresses, verifies, seals; stores the pack that is complete with it.
    fn pack(&self, gatherer: &Gatherer, gathered: Gathered) -> Result<(), RepoError> {
        let encoder = lock(&gatherer.encoders).pop();
        let mut encoder = match encoder {
            Some(encoder) => encoder,
            None => Encoder::new(gatherer.gathering.zstd).map_err(RepoError::Zstd)?,
        };
        let block = encoder.encode(&gathered.bytes)?;
        lock(&gatherer.encoders).push(encoder);
        self.verify(&block, &gathered.chunks)?;
        drop(gathered.bytes);
        match gatherer.push(block, gathered.chunks, self.repo)? {
            Some(pack) => self.store(pack),
            None => Ok(()),
        }
    }

    /// Decodes a block again and hashes every chunk (I4): what a faulty memory or processor did
    /// to it is found here and not on the day of the restore.
    fn verify(&self, block: &[u8], chunks: &[ChunkEntry]) -> Result<(), RepoError> {
        let decoded = block::decode(block).map_err(|_| RepoError::Machine)?;
        let mut rest = decoded.as_slice();
        for chunk in chunks {
            let (bytes, after) =
                rest.split_at_checked(chunk.length as usize).ok_or(RepoError::Machine)?;
            if self.repo.sealer.chunk_id(bytes) != chunk.id {
                return Err(RepoError::Machine);
            }
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(RepoError::Machine) }
    }

    /// Stores a pack durably, and publishes an index segment when enough has come together.
    fn store(&self, pack: PackBuilder) -> Result<(), RepoError> {
        let number = self.next_pack.fetch_add(1, Ordering::Relaxed);
        let id = PackId { session: self.id, number };
        let FinishedPack { bytes, record } = pack.finish(id)?;
        let name = name::pack(id);
        if self.repo.backend.create(&name, &bytes)? == Created::Existed
            && self.repo.backend.get(&name)? != bytes
        {
            // The name has 128 random bits of this session: it was not another writer.
            return Err(RepoError::Machine);
        }
        self.stored.fetch_add(record.size, Ordering::Relaxed);
        lock(&self.unpublished).push(record);
        self.heartbeat()?;
        self.publish(SEGMENT_CHUNKS)
    }

    /// Publishes a segment for the stored packs, if they hold at least `least` chunks.
    fn publish(&self, least: usize) -> Result<(), RepoError> {
        let packs = {
            let mut unpublished = lock(&self.unpublished);
            let chunks: usize = unpublished.iter().map(|pack| pack.footer.chunk_count()).sum();
            if unpublished.is_empty() || chunks < least {
                return Ok(());
            }
            std::mem::take(&mut *unpublished)
        };
        let segment = Segment { supersedes: Vec::new(), packs };
        self.repo.publish(&segment)?;
        let mut seen = lock(&self.seen);
        for block in segment.packs.iter().flat_map(|pack| &pack.footer.blocks) {
            for chunk in &block.chunks {
                seen.remove(&chunk.id);
            }
        }
        Ok(())
    }

    /// Shows that this session is alive: a collector waits for those that are.
    fn heartbeat(&self) -> Result<(), RepoError> {
        let now = self.ctx.clock.now();
        let number = {
            let mut alive = lock(&self.alive);
            if now.since(alive.0).as_secs() < HEARTBEAT {
                return Ok(());
            }
            *alive = (now, alive.1 + 1);
            alive.1
        };
        let name = format!("{}.{number}", name::session(self.id));
        let record = SessionRecord { nonce: self.nonce, started: now };
        let record = codec::encode("heartbeat", &record)?;
        let object = self.repo.sealer.seal_object(ObjectKind::Session, &name, &record)?;
        self.repo.backend.create(&name, &object)?;
        Ok(())
    }
}

impl Repo {
    /// Stores a segment and takes it into this host's view.
    pub(super) fn publish(&self, segment: &Segment) -> Result<(), RepoError> {
        let id = SegmentId::new(random()?);
        let name = name::segment(id);
        let object =
            self.sealer.seal_object(ObjectKind::IndexSegment, &name, &segment.encode()?)?;
        self.backend.create(&name, &object)?;
        self.view.ingest(id, segment)
    }
}

/// Bytes handed to threads and not finished yet, with a ceiling.
#[derive(Default)]
struct InFlight {
    bytes: Mutex<usize>,
    changed: Condvar,
}

/// Some of the bytes in flight; given back when dropped, also by a thread that panics.
struct Permit<'a> {
    of: &'a InFlight,
    bytes: usize,
}

impl InFlight {
    /// Waits until there is room. One block always has room, however long it is.
    fn acquire(&self, bytes: usize) -> Permit<'_> {
        let mut used = lock(&self.bytes);
        while *used > 0 && *used + bytes > BLOCKS_IN_FLIGHT {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Permit { of: self, bytes }
    }

    fn wait_until_empty(&self) {
        let mut used = lock(&self.bytes);
        while *used > 0 {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.of.bytes) -= self.bytes;
        self.of.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Session<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.shared.id).finish_non_exhaustive()
    }
}
