//! A session writes chunks, and commits them as a snapshot.
//!
//! Order (I1): packs, then the index segment that describes them, then the snapshot; each is
//! durable before the next begins, and creating the snapshot object is the commit.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Repo;
use super::budget::{Budget, Permit};
use super::chunks::{ChunkWriter, Class};
use super::compression::Compression;
use super::error::RepoError;
use super::format::pack::ChunkEntry;
use super::format::segment::{PackRecord, Segment};
use super::format::{codec, name};
use super::gather::{self, Block, Gathered, Gatherer};
use super::packer::{FinishedPack, PackBuilder};
use crate::backend::Created;
use crate::context::Context;
use crate::crypto::{ObjectKind, random};
use crate::hint::Failure;
use crate::id::{ChunkId, PackId, SegmentId, SnapshotId};
use crate::report::Event;
use crate::time::Timestamp;

/// Bytes of blocks that may wait for a thread, for each thread, before a writer makes the next
/// block itself.
const BLOCKS_WAITING: usize = 2 << 20;
/// Packs that are being stored at once, while others fill.
const PACKS_STORING: usize = 3;
/// Data packs that are open at once; blocks go to one of them at random, so that the sizes of
/// neighbouring chunks cannot be read off one pack.
const OPEN_DATA_PACKS: usize = 2;
/// Chunks after which finished packs are published in a segment of their own.
const SEGMENT_CHUNKS: usize = 1 << 16;
/// The time between signs of life.
const HEARTBEAT: Duration = Duration::from_mins(10);

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
///
/// A thread that writes chunks carries them as far as it can while they are in its cache: hash,
/// look up, gather, compress, verify, seal. Blocks are left to other threads only while those have
/// little to do; so nobody waits for a place in a queue, and one large file keeps all busy.
pub struct Session<'a, 'scope, 'env> {
    scope: &'a rayon::Scope<'scope>,
    /// Packs are stored by threads of their own: those of the pool have better things to do than
    /// to wait for a disk.
    threads: &'scope thread::Scope<'scope, 'env>,
    shared: &'scope Shared<'env>,
}

struct Shared<'r> {
    repo: &'r Repo,
    ctx: &'r Context,
    id: SnapshotId,
    nonce: [u8; 16],
    compression: Compression,
    seen: Seen,
    data: Gatherer,
    nodes: Gatherer,
    waiting: Budget,
    storing: Budget,
    unpublished: Mutex<Vec<PackRecord>>,
    next_pack: AtomicU32,
    committed: AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<RepoError>>,
    chunks: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

/// Chunks that were written in this session and are not in the view yet; in parts, so that many
/// threads seldom meet.
struct Seen([Mutex<HashSet<ChunkId>>; 64]);

impl Repo {
    /// Opens a session, lets `work` write chunks and commit, and waits for all threads. When
    /// `work` fails or does not commit, nothing of the session can be seen.
    pub fn write<T>(
        &self,
        compression: Compression,
        ctx: &Context,
        work: impl FnOnce(&Session<'_, '_, '_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.refresh()?;
        let shared = Shared::begin(self, compression, ctx)?;
        // Not before the session can be seen: a collection that begins from now on waits for it.
        if let Err(error) = self.learn_collections() {
            // Nothing was written yet: nobody has to wait for this session.
            self.backend.delete(&name::session(shared.id)).map_err(RepoError::from)?;
            return Err(error.into());
        }
        let result = thread::scope(|threads| {
            let (ended, end) = mpsc::channel();
            let alive = &shared;
            threads.spawn(move || alive.stay_alive(&end));
            let result =
                rayon::in_place_scope(|scope| work(&Session { scope, threads, shared: &shared }));
            drop(ended);
            result
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

impl<'scope> Session<'_, 'scope, '_> {
    /// The name that the snapshot will have.
    pub fn id(&self) -> SnapshotId {
        self.shared.id
    }

    /// Fails unless everything that a snapshot needs stays at least until this session ends, and
    /// with it what the session commits: so that parts of the snapshot can be taken over without
    /// being looked up. The snapshot may be forgotten, but not collected.
    pub fn rely_on(&self, id: SnapshotId) -> Result<(), RepoError> {
        let repo = self.shared.repo;
        let gone = repo.backend.get(&name::session(id)).err();
        match gone {
            Some(error) if !error.is_not_found() => return Err(error.into()),
            None if !repo.collections().removes(id) => return Ok(()),
            _ => {}
        }
        Err(RepoError::Collected { id })
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
            for rest in gatherer.rest() {
                self.submit(gatherer, rest)?;
            }
        }
        shared.waiting.wait_until_unused();
        shared.check()?;
        for gatherer in [&shared.data, &shared.nodes] {
            if let Some(rest) = gatherer.rest_of_differences() {
                self.push(gatherer, rest)?;
            }
            for pack in gatherer.open_packs() {
                let permit = shared.storing.acquire(pack.len());
                shared.store_aside(pack, permit, self.threads);
            }
        }
        shared.storing.wait_until_unused();
        shared.check()?;
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
        // It is committed, whatever becomes of what this host remembers.
        if let Err(error) = repo.remember_commit(*id) {
            let text =
                format!("nobody here will notice if snapshot {} is lost: {error}", id.short());
            self.shared.ctx.report(Event::Warning(text));
        }
        Ok(*id)
    }

    /// Stores a chunk as the difference to its predecessor, or to that one's base; says whether it
    /// did, since it does only where that saves much.
    fn write_difference(
        &self,
        class: Class,
        id: ChunkId,
        bytes: &[u8],
        predecessor: &ChunkId,
    ) -> Result<bool, RepoError> {
        let shared = self.shared;
        let gatherer = shared.gatherer(class);
        if !shared.has_bases(class) || !gatherer.tries_differences() {
            return Ok(false);
        }
        let Some((base, base_bytes)) = shared.repo.base_after(predecessor)? else {
            return Ok(false);
        };
        if base == id {
            return Ok(false);
        }
        let Some(frame) = gatherer.difference(bytes, &base_bytes)? else { return Ok(false) };
        let entry = ChunkEntry { id, length: gather::length(bytes.len())?, base: Some(base) };
        if let Some(full) = gatherer.gather_difference(entry, &frame)? {
            self.push(gatherer, full)?;
        }
        Ok(true)
    }

    /// Adds a block to a pack, and has the pack stored that is complete without it.
    fn push(&self, gatherer: &Gatherer, block: Block) -> Result<(), RepoError> {
        let shared = self.shared;
        let full = gatherer.push(block, &shared.repo.sealer, &shared.storing)?;
        if let Some((pack, permit)) = full {
            shared.store_aside(pack, permit, self.threads);
        }
        Ok(())
    }

    /// Has gathered chunks made into a block.
    fn submit(&self, gatherer: &'scope Gatherer, gathered: Gathered) -> Result<(), RepoError> {
        if gathered.bytes.is_empty() {
            return Ok(());
        }
        let (shared, threads) = (self.shared, self.threads);
        let Some(permit) = shared.waiting.try_acquire(gathered.bytes.len()) else {
            shared.pack(gatherer, gathered, threads);
            return shared.check();
        };
        self.scope.spawn(move |_| {
            shared.pack(gatherer, gathered, threads);
            drop(permit);
        });
        Ok(())
    }
}

impl ChunkWriter for Session<'_, '_, '_> {
    fn write_chunk(&self, class: Class, bytes: &[u8]) -> Result<ChunkId, RepoError> {
        self.write_successor(class, bytes, None)
    }

    fn write_successor(
        &self,
        class: Class,
        bytes: &[u8],
        predecessor: Option<ChunkId>,
    ) -> Result<ChunkId, RepoError> {
        let shared = self.shared;
        shared.check()?;
        let id = shared.repo.sealer.chunk_id(bytes);
        if predecessor == Some(id) {
            return Ok(id);
        }
        // Claiming the id is one step, so no chunk is written twice in a session.
        if !shared.seen.part(&id).insert(id) {
            return Ok(id);
        }
        if shared.repo.view.lasts(&id)? {
            shared.seen.part(&id).remove(&id);
            return Ok(id);
        }
        shared.chunks.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(predecessor) = predecessor
            && self.write_difference(class, id, bytes, &predecessor)?
        {
            return Ok(id);
        }
        let gatherer = shared.gatherer(class);
        if let Some(full) = gatherer.gather(id, bytes)? {
            self.submit(gatherer, full)?;
        }
        Ok(id)
    }
}

impl Seen {
    fn part(&self, id: &ChunkId) -> MutexGuard<'_, HashSet<ChunkId>> {
        lock(&self.0[usize::from(id.as_bytes()[0]) % self.0.len()])
    }
}

impl<'r> Shared<'r> {
    /// Says that a writer is at work, before anything is written.
    fn begin(
        repo: &'r Repo,
        compression: Compression,
        ctx: &'r Context,
    ) -> Result<Self, RepoError> {
        let id = SnapshotId::new(random()?);
        let nonce = random()?;
        let started = ctx.clock.now();
        let name = name::session(id);
        let record = codec::encode("session", &SessionRecord { nonce, started })?;
        let object = repo.sealer.seal_object(ObjectKind::Session, &name, &record)?;
        repo.backend.create(&name, &object)?;
        let gatherer =
            |class, gathering, packs| Gatherer::new(class, gathering, compression, packs);
        Ok(Self {
            repo,
            ctx,
            id,
            nonce,
            compression,
            seen: Seen(std::array::from_fn(|_| Mutex::default())),
            data: gatherer(Class::Data, repo.config.data, OPEN_DATA_PACKS),
            nodes: gatherer(Class::Node, repo.config.nodes, 1),
            waiting: Budget::new(BLOCKS_WAITING * rayon::current_num_threads()),
            storing: Budget::new(PACKS_STORING * repo.config.data.pack as usize),
            unpublished: Mutex::default(),
            next_pack: AtomicU32::new(0),
            committed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
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

    /// Whether chunks may be stored as differences, and what to is quick to get: whoever edits a
    /// tree has just read its nodes, content is read again only from a store that is near.
    fn has_bases(&self, class: Class) -> bool {
        let is_near = || self.repo.backend.worth_keeping() == 0;
        self.repo.config.allows_differences()
            && self.compression != Compression::Off
            && (class == Class::Node || is_near())
    }

    fn check(&self) -> Result<(), RepoError> {
        self.ctx.check_cancelled()?;
        if self.failed.load(Ordering::Relaxed) { Err(RepoError::Failed) } else { Ok(()) }
    }

    fn fail(&self, error: RepoError) {
        lock(&self.failure).get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Makes a block, and has the pack stored that is complete without it.
    fn pack<'scope>(
        &'scope self,
        gatherer: &Gatherer,
        gathered: Gathered,
        threads: &'scope thread::Scope<'scope, '_>,
    ) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        match gatherer.pack(gathered, self.repo, &self.storing) {
            Ok(None) => {}
            Ok(Some((pack, permit))) => self.store_aside(pack, permit, threads),
            Err(error) => self.fail(error),
        }
    }

    /// Stores a pack on a thread of its own.
    fn store_aside<'scope>(
        &'scope self,
        pack: PackBuilder,
        permit: Permit<'scope>,
        threads: &'scope thread::Scope<'scope, '_>,
    ) {
        threads.spawn(move || {
            if !self.failed.load(Ordering::Relaxed)
                && let Err(error) = self.store(pack)
            {
                self.fail(error);
            }
            drop(permit);
        });
    }

    /// Stores a pack durably, and publishes an index segment when enough has come together.
    fn store(&self, pack: PackBuilder) -> Result<(), RepoError> {
        let number = self.next_pack.fetch_add(1, Ordering::Relaxed);
        let id = PackId { session: self.id, number };
        let FinishedPack { bytes, record } = pack.finish(id)?;
        self.repo.create_pack(&record, &bytes)?;
        self.gatherer(record.footer.class).reuse(bytes);
        self.stored.fetch_add(record.size, Ordering::Relaxed);
        lock(&self.unpublished).push(record);
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
        for block in segment.packs.iter().flat_map(|pack| &pack.footer.blocks) {
            for chunk in &block.chunks {
                self.seen.part(&chunk.id).remove(&chunk.id);
            }
        }
        Ok(())
    }

    /// Gives signs of life until the session ends: a collector waits for those that do.
    fn stay_alive(&self, end: &mpsc::Receiver<()>) {
        for number in 1_u32.. {
            if end.recv_timeout(HEARTBEAT) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            if let Err(error) = self.sign_of_life(number) {
                self.fail(error);
                return;
            }
        }
    }

    fn sign_of_life(&self, number: u32) -> Result<(), RepoError> {
        let name = format!("{}.{number}", name::session(self.id));
        let record = SessionRecord { nonce: self.nonce, started: self.ctx.clock.now() };
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Session<'_, '_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.shared.id).finish_non_exhaustive()
    }
}
