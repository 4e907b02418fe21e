//! The program's own code under the conditions of the model: writers, people who forget, and two
//! collectors on one store that fails, loses answers and dies, in many orders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use coeval::backend::{Backend, BackendError, Created, Deleted, Entry, Faults, Faulty, Memory};
use coeval::context::Context;
use coeval::crypto::{KdfCost, KeyFile, Unlock};
use coeval::hint::Failure;
use coeval::id::{ChunkId, SnapshotId};
use coeval::repo::{
    ChunkReader as _, ChunkWriter as _, Class, CollectOptions, CollectedBytes, Compression,
    EachNeeded, Needed, NewKey, Repo, StoredChunk, StoredSnapshot, Unlocking, Unused, Writers,
};

/// A repository in memory, and what was promised of it.
pub struct World {
    pub store: Arc<Memory>,
    key: KeyFile,
    /// Snapshots whose commit was acknowledged, with what they hold.
    acknowledged: Mutex<BTreeMap<SnapshotId, Vec<Vec<u8>>>>,
    /// Those that someone tried to forget: they may be gone.
    forgotten: Mutex<BTreeSet<SnapshotId>>,
}

/// Everything goes, at once: what is partly needed is always copied.
pub const EAGER: CollectOptions =
    CollectOptions { max_unused: Unused::Bytes(0), max_repack: u64::MAX, writers: Writers::GiveUp };

/// Content that many snapshots share parts of. Each four in a row are alike, so that any of them is
/// stored as a difference to another; unless they are short.
pub fn content(number: u64) -> Vec<u8> {
    let kind = number / 4;
    let mut bytes = vec![0; 200 + usize::try_from((kind + 1) % 7).expect("small") * 900];
    blake3::Hasher::new().update(&kind.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let at = 20 * usize::try_from(number % 4).expect("small");
    bytes[at..at + 8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// What it takes the place of: of four, each takes that of the one before, in a ring.
fn predecessor(repo: &Repo, number: u64) -> ChunkId {
    repo.sealer().chunk_id(&content(number / 4 * 4 + (number + 3) % 4))
}

fn mark(snapshot: &StoredSnapshot, each: &mut EachNeeded<'_>) -> Result<(), Failure> {
    for id in snapshot.manifest.chunks(ChunkId::LEN) {
        each(Needed::Content(ChunkId::from_slice(id).expect("an id")))?;
    }
    Ok(())
}

pub fn collect(repo: &Repo) -> Result<CollectedBytes, Failure> {
    repo.collect(&EAGER, &mark, &Context::new())
}

impl World {
    pub fn new() -> Self {
        let key = KeyFile::generate().expect("randomness");
        let store = Arc::new(Memory::default());
        let world =
            Self { store, key, acknowledged: Mutex::default(), forgotten: Mutex::default() };
        let slot = NewKey { unlock: world.unlock(), label: "k".into(), cost: KdfCost::FLOOR };
        Repo::init(&*world.store, &[slot], &Context::new()).expect("a repository");
        world
    }

    fn unlock(&self) -> Unlock {
        Unlock::KeyFile(KeyFile::parse(&self.key.to_text()).expect("a key"))
    }

    /// As another host sees it: through that backend, and with nothing in its cache. (The cache outlives what is in it.)
    pub fn open(&self, backend: Arc<dyn Backend>) -> Result<(tempfile::TempDir, Repo), Failure> {
        let cache = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let repo = Repo::open(backend, &Unlocking::Given(&self.unlock()), cache.path())?;
        Ok((cache, repo))
    }

    pub fn open_plainly(&self) -> (tempfile::TempDir, Repo) {
        self.open(Arc::clone(&self.store) as Arc<dyn Backend>).expect("it opens")
    }

    /// Takes a snapshot of some content.
    pub fn write(&self, repo: &Repo, numbers: &[u64]) -> Result<SnapshotId, Failure> {
        let contents: Vec<_> = numbers.iter().map(|number| content(*number)).collect();
        let id = repo.write(Compression::Auto, &Context::new(), |session| {
            let mut manifest = Vec::new();
            for (bytes, number) in contents.iter().zip(numbers) {
                let before = Some(predecessor(repo, *number));
                let id = session.write_successor(Class::Data, bytes, before)?;
                manifest.extend_from_slice(id.as_bytes());
            }
            Ok(session.commit(&manifest)?)
        })?;
        self.acknowledged.lock().expect("no panic").insert(id, contents);
        Ok(id)
    }

    pub fn forget(&self, repo: &Repo, id: SnapshotId) -> Result<(), Failure> {
        self.forgotten.lock().expect("no panic").insert(id);
        Ok(repo.forget(id)?)
    }

    /// Everything acknowledged and not forgotten is there, and everything that is shown is whole.
    /// Says how many chunks are stored as differences.
    pub fn assert_whole(&self, what: &str) -> u64 {
        let (_cache, repo) = self.open_plainly();
        let mut differences = 0;
        let mut count = |chunk: StoredChunk| {
            // Content is noise: no other chunk can be so small.
            differences += u64::from(chunk.length > 4 * chunk.stored);
            Ok(())
        };
        repo.stored_chunks(&mut count).expect("an index");
        let shown = repo.snapshots().expect("snapshots");
        for snapshot in &shown {
            for id in snapshot.manifest.chunks(ChunkId::LEN) {
                let id = ChunkId::from_slice(id).expect("an id");
                if let Err(error) = repo.read_chunk(&id) {
                    panic!("{what}: snapshot {} lost {}: {error}", snapshot.id, id.short());
                }
            }
        }
        let forgotten = self.forgotten.lock().expect("no panic");
        let acknowledged = self.acknowledged.lock().expect("no panic");
        for (id, contents) in acknowledged.iter().filter(|(id, _)| !forgotten.contains(id)) {
            let snapshot = shown.iter().find(|snapshot| snapshot.id == *id);
            let snapshot = snapshot.unwrap_or_else(|| panic!("{what}: snapshot {id} is gone"));
            let ids = snapshot.manifest.chunks(ChunkId::LEN);
            for (id, bytes) in ids.zip(contents) {
                let id = ChunkId::from_slice(id).expect("an id");
                assert_eq!(repo.read_chunk(&id).expect("a chunk"), bytes.as_slice(), "{what}");
            }
        }
        differences
    }
}

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random numbers, the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % limit
    }
}

/// A backend that is slow at random, so that what several threads do with it mixes differently each
/// time; and whose listings are torn: what comes while one is made may or may not be in it.
#[derive(Debug)]
struct Mixing {
    inner: Arc<Memory>,
    calls: AtomicU64,
}

impl Mixing {
    fn wait(&self) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let chance = mix(call);
        if chance.is_multiple_of(3) {
            std::thread::yield_now();
        } else if chance.is_multiple_of(4) {
            std::thread::sleep(std::time::Duration::from_micros(chance % 150));
        }
    }
}

impl Backend for Mixing {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.wait();
        self.inner.create(name, data)
    }

    fn get(&self, name: &str) -> Result<bytes::Bytes, BackendError> {
        self.wait();
        self.inner.get(name)
    }

    fn get_range(
        &self,
        name: &str,
        range: std::ops::Range<u64>,
    ) -> Result<bytes::Bytes, BackendError> {
        self.wait();
        self.inner.get_range(name, range)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        let before = self.inner.list(folder)?;
        self.wait();
        let after = self.inner.list(folder)?;
        let chance = self.calls.load(Ordering::Relaxed);
        let may_show = |entry: &Entry| {
            before.contains(entry) || mix(chance ^ entry.name.len() as u64 ^ entry.size) & 1 == 0
        };
        Ok(after.into_iter().filter(may_show).collect())
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        self.wait();
        self.inner.delete(name)
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

/// What happened in one schedule.
#[derive(Debug, Default, Clone, Copy)]
pub struct Happened {
    pub committed: u64,
    pub failed: u64,
    pub collected: u64,
    pub deleted: u64,
    pub copied: u64,
    pub given_up: u64,
    /// Chunks that were differences after a collection.
    pub differences: u64,
}

impl Happened {
    pub fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.failed += other.failed;
        self.collected += other.collected;
        self.deleted += other.deleted;
        self.copied += other.copied;
        self.given_up += other.given_up;
        self.differences += other.differences;
    }
}

/// Two writers, one who forgets, and two collectors at once, each with a store of its own faults:
/// refused calls, lost answers, or death at some call.
pub fn schedule(seed: u64) -> Happened {
    let world = World::new();
    {
        let (_cache, repo) = world.open_plainly();
        for start in 0..3 {
            world.write(&repo, &[start, start + 1, start + 2]).expect("it commits");
        }
    }
    let happened = Mutex::new(Happened::default());
    std::thread::scope(|scope| {
        for actor in 0..5 {
            let mut random = Random(seed << 20 ^ (actor + 1) << 10);
            let faults = match random.below(4) {
                0 => Faults::none().dead_from(10 + random.below(120)),
                1 => Faults::none().seeded(random.below(u64::MAX), 15),
                _ => Faults::none(),
            };
            let calls = AtomicU64::new(random.below(u64::MAX / 2));
            let mixing = Mixing { inner: Arc::clone(&world.store), calls };
            let backend = Arc::new(Faulty::new(mixing, faults));
            let (world, happened) = (&world, &happened);
            scope.spawn(move || {
                let mut mine = Happened::default();
                act(world, actor, backend, &mut random, &mut mine);
                happened.lock().expect("no panic").add(mine);
            });
        }
    });
    world.assert_whole(&format!("seed {seed}"));
    // What died in the middle of a collection does not keep the next one from its work.
    let (_cache, repo) = world.open_plainly();
    collect(&repo).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let differences = world.assert_whole(&format!("seed {seed}, afterwards"));
    let mut happened = *happened.lock().expect("no panic");
    happened.differences = differences;
    happened
}

fn act(
    world: &World,
    actor: u64,
    backend: Arc<dyn Backend>,
    random: &mut Random,
    mine: &mut Happened,
) {
    // One that cannot even open the repository does nothing.
    let Ok((_cache, repo)) = world.open(backend) else { return };
    for _ in 0..2 {
        match actor {
            0 | 1 => {
                let start = random.below(8);
                match world.write(&repo, &[start, start + 1, 20 + random.below(50)]) {
                    Ok(_) => mine.committed += 1,
                    Err(_) => mine.failed += 1,
                }
            }
            2 => {
                let shown = repo.snapshots().unwrap_or_default();
                let count = shown.len() as u64;
                if count > 1 {
                    let choice = usize::try_from(random.below(count)).expect("few");
                    // That this failed says nothing about whether it happened.
                    drop(world.forget(&repo, shown[choice].id));
                }
            }
            _ => match collect(&repo) {
                Ok(done) => {
                    mine.collected += 1;
                    mine.deleted += done.packs;
                    mine.copied += done.copied;
                    mine.given_up += done.given_up;
                }
                Err(_) => mine.failed += 1,
            },
        }
    }
}

/// A collection that dies at every call in turn, of which nobody can read afterwards what it removes.
pub fn is_lost_after_every_call() -> u64 {
    let (mut replaced, mut at) = (0, 0);
    loop {
        let world = World::new();
        let (_cache, repo) = world.open_plainly();
        let ids: Vec<_> = (0..4)
            .map(|n| world.write(&repo, &[n, n + 1, n + 2, 10 + n]).expect("it commits"))
            .collect();
        for id in &ids[..2] {
            world.forget(&repo, *id).expect("forgotten");
        }
        let dying = Faulty::new(Arc::clone(&world.store), Faults::none().dead_from(at));
        let first = world.open(Arc::new(dying)).and_then(|(_cache, repo)| collect(&repo));
        if world.store.list("gc/").expect("a list").iter().any(|entry| entry.name == "gc/1") {
            world.store.delete("gc/1").expect("deleted");
            world.store.create("gc/1", b"what nobody can read").expect("created");
            assert!(world.write(&repo, &[0]).is_err(), "nobody knows what it must not refer to");
            let (_other_cache, other) = world.open_plainly();
            let done = other.repair_collections(&BTreeSet::new(), Writers::GiveUp, &Context::new());
            assert_eq!(done.expect("repaired").into_iter().collect::<Vec<_>>(), [1]);
            replaced += 1;
        }
        let what = format!("lost after call {at}");
        world.assert_whole(&what);
        // One that looked before stores what was removed, or was going to be.
        world.write(&repo, &[0, 1, 2, 10]).expect("a backup is not kept from its work");
        world.assert_whole(&what);
        let (_other_cache, other) = world.open_plainly();
        collect(&other).expect("it goes on");
        world.assert_whole(&what);
        if first.is_ok() {
            return replaced;
        }
        at += 1;
    }
}

/// A collection that dies at every call in turn, and the next one.
pub fn dies_at_every_call() -> (u64, Happened) {
    let mut happened = Happened::default();
    for at in 0.. {
        let world = World::new();
        let (_cache, repo) = world.open_plainly();
        let ids: Vec<_> = (0..4)
            .map(|n| world.write(&repo, &[n, n + 1, n + 2, 10 + n]).expect("it commits"))
            .collect();
        for id in &ids[..2] {
            world.forget(&repo, *id).expect("forgotten");
        }
        let faults = Faults::none().dead_from(at);
        let dying = Arc::new(Faulty::new(Arc::clone(&world.store), faults));
        let first = world
            .open(Arc::clone(&dying) as Arc<dyn Backend>)
            .and_then(|(_cache, repo)| collect(&repo));
        world.assert_whole(&format!("dead from call {at}"));
        // Meanwhile, somebody stores what was being removed.
        world.write(&repo, &[0, 1, 2]).expect("a backup is not kept from its work");
        let (_other_cache, other) = world.open_plainly();
        let second = collect(&other).expect("it goes on");
        let differences = world.assert_whole(&format!("dead from call {at}, afterwards"));
        // The one that looked before still finds everything.
        for snapshot in repo.snapshots().expect("snapshots") {
            for id in snapshot.manifest.chunks(ChunkId::LEN) {
                repo.read_chunk(&ChunkId::from_slice(id).expect("an id")).expect("a chunk");
            }
        }
        let plan = other.plan_collection(&EAGER, &mark, &Context::new()).expect("a plan");
        assert!(plan.is_empty(), "dead from call {at}: {plan:?} is left");
        assert_eq!(world.store.list("tombstones/").expect("a list"), []);
        let (deleted, copied) = (second.packs, second.copied);
        happened.add(Happened { deleted, copied, differences, ..Happened::default() });
        if first.is_ok() {
            return (at, happened);
        }
    }
    unreachable!("it ends when nothing dies any more")
}
