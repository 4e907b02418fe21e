//! The repository as its users see it: what is committed comes back, whatever happens.

use std::sync::Arc;

use coeval::backend::{Backend, Memory};
use coeval::context::Context;
use coeval::crypto::{KdfCost, KeyFile, ObjectKind, Sealer, Unlock};
use coeval::hint::{ErrorKind, Failure, Hint as _};
use coeval::id::{ChunkId, RepoId};
use coeval::repo::format::config::Config;
use coeval::repo::{
    ChunkReader as _, ChunkWriter as _, Class, Compression, NewKey, ReadData, Repo, Unlocking,
};

struct World {
    backend: Arc<Memory>,
    key: KeyFile,
    cache: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let key = KeyFile::generate().expect("randomness");
        let backend = Arc::new(Memory::default());
        let cache = tempfile::tempdir().expect("a folder");
        let world = Self { backend, key, cache };
        let slot = NewKey { unlock: world.unlock(), label: "cron".into(), cost: KdfCost::FLOOR };
        Repo::init(&*world.backend, &[slot], &Context::new()).expect("a repository");
        world
    }

    fn unlock(&self) -> Unlock {
        Unlock::KeyFile(KeyFile::parse(&self.key.to_text()).expect("a key"))
    }

    fn open(&self) -> Repo {
        self.try_open(Arc::clone(&self.backend) as Arc<dyn Backend>).expect("it opens")
    }

    fn try_open(&self, backend: Arc<dyn Backend>) -> Result<Repo, Failure> {
        Repo::open(backend, &Unlocking::Given(&self.unlock()), self.cache.path())
    }
}

/// Chunks of many sizes, some compressible, some not.
fn chunks(seed: u8) -> Vec<(Class, Vec<u8>)> {
    let mut noise = blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof();
    let mut chunks = Vec::new();
    for size in [0, 1, 100, 5_000, 16_384, 70_000, 300_000, 1_000_000] {
        let mut random = vec![0; size];
        noise.fill(&mut random);
        chunks.push((Class::Data, random));
        chunks.push((Class::Node, vec![seed; size + 1]));
    }
    chunks
}

fn store(repo: &Repo, chunks: &[(Class, Vec<u8>)]) -> Vec<ChunkId> {
    repo.write(Compression::Auto, &Context::new(), |session| {
        let ids = chunks
            .iter()
            .map(|(class, bytes)| Ok(session.write_chunk(*class, bytes)?))
            .collect::<Result<Vec<_>, Failure>>()?;
        session.commit(b"a manifest")?;
        Ok(ids)
    })
    .expect("it commits")
}

#[test]
fn what_is_committed_comes_back() {
    let world = World::new();
    let chunks = chunks(1);
    let ids = store(&world.open(), &chunks);
    let repo = world.open();
    for (id, (_, bytes)) in ids.iter().zip(&chunks) {
        assert_eq!(repo.read_chunk(id).expect("a chunk"), bytes.as_slice());
    }
    assert_eq!(repo.snapshots().expect("snapshots").len(), 1);
}

#[test]
fn a_chunk_is_stored_once() {
    let world = World::new();
    let chunks = chunks(1);
    store(&world.open(), &chunks);
    let packs = world.backend.list("packs/").expect("packs");
    store(&world.open(), &chunks);
    assert_eq!(world.backend.list("packs/").expect("packs"), packs);
}

#[test]
fn chunks_come_back_however_hard_they_were_compressed() {
    let mut sizes = Vec::new();
    for compression in [
        Compression::Off,
        Compression::Fast,
        Compression::Auto,
        Compression::Better,
        Compression::Max,
    ] {
        let world = World::new();
        let (repo, mut noise) = (world.open(), vec![0; 3 << 20]);
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let words = ["forget ", "prune ", "restore ", "of ", "a ", "snapshot ", "and "];
        let text: String = noise[..400_000].iter().map(|n| words[usize::from(*n) % 7]).collect();
        let chunks = [text.as_bytes(), &noise, text.as_bytes()].concat();
        let ids: Vec<_> = repo
            .write(compression, &Context::new(), |session| {
                let ids = chunks.chunks(300_000).map(|c| session.write_chunk(Class::Data, c));
                let ids = ids.collect::<Result<_, _>>()?;
                session.commit(b"")?;
                sizes.push(session.written().stored);
                Ok(ids)
            })
            .expect("it commits");
        for (id, chunk) in ids.iter().zip(chunks.chunks(300_000)) {
            assert_eq!(repo.read_chunk(id).expect("a chunk"), chunk);
        }
    }
    assert!(sizes.is_sorted_by(|before, after| before >= after), "{sizes:?}");
    assert!(sizes[0] > sizes[1] && sizes[1] > sizes[4], "{sizes:?}");
}

/// What is noise, and the same with some bytes changed as often as `generation` says.
fn generation(generation: u8) -> Vec<(Class, Vec<u8>)> {
    let change = |(at, (class, mut bytes)): (usize, (Class, Vec<u8>))| {
        for n in 1..=generation {
            let place = bytes.len() / usize::from(n + 1);
            bytes.splice(place..place + 9, [n, u8::try_from(at).expect("few")]);
        }
        (class, bytes)
    };
    let noise = chunks(7).into_iter().filter(|(_, bytes)| bytes.len() > 4_000 && bytes[0] != 7);
    noise.enumerate().map(change).collect()
}

/// Stores chunks in the place of others, and says how many bytes that took.
fn succeed(repo: &Repo, chunks: &[(Class, Vec<u8>)], before: &[ChunkId]) -> (Vec<ChunkId>, u64) {
    repo.write(Compression::Auto, &Context::new(), |session| {
        let write = |((class, bytes), id): (&(Class, Vec<u8>), &ChunkId)| {
            Ok(session.write_successor(*class, bytes, Some(*id))?)
        };
        let ids: Vec<_> = chunks.iter().zip(before).map(write).collect::<Result<_, Failure>>()?;
        session.commit(b"")?;
        Ok((ids, session.written().stored))
    })
    .expect("it commits")
}

fn assert_there(repo: &Repo, ids: &[ChunkId], chunks: &[(Class, Vec<u8>)]) {
    for (id, (_, bytes)) in ids.iter().zip(chunks) {
        assert_eq!(repo.read_chunk(id).expect("a chunk"), bytes.as_slice());
    }
    let count = std::sync::atomic::AtomicUsize::new(0);
    let each = |at: usize, bytes: bytes::Bytes| {
        assert_eq!(bytes, chunks[at].1);
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    };
    repo.read_chunks(ids, 2, &each).expect("chunks");
    assert_eq!(count.into_inner(), ids.len());
    assert_eq!(repo.contains_many(ids).expect("a look-up"), vec![true; ids.len()]);
}

#[test]
fn what_is_much_like_its_predecessor_takes_little_and_comes_back() {
    let mut world = World::new();
    let mut before = store(&world.open(), &generation(0));
    for number in 1..4 {
        let chunks = generation(number);
        // What takes the place of a difference is one to the same base.
        let (ids, stored) = succeed(&world.open(), &chunks, &before);
        assert!(stored < 3_000, "{stored} bytes in generation {number}");
        assert_there(&world.open(), &ids, &chunks);
        before = ids;
    }
    // The same again takes nothing, and noise of its own is stored whole.
    assert_eq!(succeed(&world.open(), &generation(3), &before).1, 0);
    let others = chunks(8).into_iter().filter(|(_, b)| b[..].first() != Some(&8)).skip(3);
    let others: Vec<_> = others.take(before.len()).collect();
    let (ids, stored) = succeed(&world.open(), &others, &before);
    assert!(stored > others.iter().map(|(_, bytes)| bytes.len() as u64).sum());
    world.cache = tempfile::tempdir().expect("a folder");
    assert_there(&world.open(), &ids, &others);
    assert_there(&world.open(), &before, &generation(3));
    let checked = world.open().check_objects(ReadData::Everything, &Context::new());
    assert_eq!(checked.expect("a check").findings, []);
}

#[test]
fn what_depends_on_a_lost_base_is_named_and_stored_again() {
    let world = World::new();
    let first = store(&world.open(), &generation(0));
    let packs = world.backend.list("packs/").expect("packs");
    let (second, _) = succeed(&world.open(), &generation(1), &first);
    for pack in packs {
        world.backend.delete(&pack.name).expect("deleted");
    }
    let repo = world.open();
    let checked = repo.check_objects(ReadData::Structure, &Context::new()).expect("a check");
    assert!(second.iter().all(|id| checked.damaged.contains(id)));
    // The bases are in several packs; that one is gone shows where it is looked into.
    for id in &second {
        let error = repo.read_chunk(id).expect_err("its base is gone");
        assert_eq!(error.kind(), ErrorKind::Damage, "{error}");
    }
    assert_eq!(repo.contains_many(&second).expect("a look-up"), vec![false; second.len()]);
    let (again, stored) = succeed(&repo, &generation(1), &first);
    assert_eq!(again, second);
    assert!(stored > 300_000, "{stored}");
    assert_there(&repo, &second, &generation(1));
}

#[test]
fn a_repository_of_the_first_version_gets_no_differences() {
    let backend = Arc::new(Memory::default());
    Repo::init(&*backend, &[], &Context::new()).expect("a repository");
    let cache = tempfile::tempdir().expect("a folder");
    let nobody = || unreachable!("it is not encrypted");
    let open = || {
        let backend = Arc::clone(&backend) as Arc<dyn Backend>;
        Repo::open(backend, &Unlocking::Ask(&nobody), cache.path()).expect("it opens")
    };
    let config = Config { version: 1, ..open().config().clone() };
    let sealer = Sealer::plain(RepoId::new([0; 16]));
    let bytes = config.encode().expect("bytes");
    let object = sealer.seal_object(ObjectKind::Config, "config", &bytes).expect("sealed");
    backend.delete("config").expect("deleted");
    backend.create("config", &object).expect("created");
    let first = store(&open(), &generation(0));
    let (second, stored) = succeed(&open(), &generation(1), &first);
    assert!(stored > 1_000_000, "{stored}");
    assert_there(&open(), &second, &generation(1));
}

#[test]
fn nothing_is_seen_of_a_session_that_fails() {
    let world = World::new();
    let repo = world.open();
    let failed = repo.write(Compression::Auto, &Context::new(), |session| -> Result<(), Failure> {
        session.write_chunk(Class::Data, &[1; 1000])?;
        Err(Failure::message(ErrorKind::Failed, "the source vanished", None))
    });
    assert!(failed.is_err());
    assert!(repo.snapshots().expect("snapshots").is_empty());
    assert!(world.backend.list("sessions/").expect("sessions").is_empty());
}

#[test]
fn another_key_opens_nothing() {
    let world = World::new();
    let stranger = Unlock::KeyFile(KeyFile::generate().expect("randomness"));
    let backend = Arc::clone(&world.backend) as Arc<dyn Backend>;
    let error = Repo::open(backend, &Unlocking::Given(&stranger), world.cache.path())
        .expect_err("wrong key");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

#[test]
fn the_index_can_be_rebuilt_from_the_packs_alone() {
    let world = World::new();
    let chunks = chunks(3);
    let ids = store(&world.open(), &chunks);
    for entry in world.backend.list("index/").expect("segments") {
        world.backend.delete(&entry.name).expect("deleted");
    }
    let repo = world.open();
    assert!(repo.read_chunk(&ids[0]).is_err(), "the index is gone");
    assert!(repo.rebuild_index(&Context::new()).expect("rebuilt").is_empty());
    for (id, (_, bytes)) in ids.iter().zip(&chunks) {
        assert_eq!(repo.read_chunk(id).expect("a chunk"), bytes.as_slice());
    }
}

#[test]
fn two_processes_of_a_host_write_at_once() {
    let world = World::new();
    // The second finds the view held by the first, and reads it.
    let (first, second) = (world.open(), world.open());
    let (ours, theirs) = (chunks(1), chunks(2));
    let ids = store(&first, &ours);
    let others = store(&second, &theirs);
    for (id, (_, bytes)) in ids.iter().zip(&ours).chain(others.iter().zip(&theirs)) {
        assert_eq!(second.read_chunk(id).expect("a chunk"), bytes.as_slice());
        assert_eq!(first.read_chunk(id).expect("a chunk"), bytes.as_slice());
    }
}

#[test]
fn a_lost_cache_costs_nothing_but_time() {
    let mut world = World::new();
    let chunks = chunks(4);
    let ids = store(&world.open(), &chunks);
    world.cache = tempfile::tempdir().expect("a folder");
    let repo = world.open();
    for (id, (_, bytes)) in ids.iter().zip(&chunks) {
        assert_eq!(repo.read_chunk(id).expect("a chunk"), bytes.as_slice());
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let world = World::new();
    let mut small: Vec<_> = chunks(5).into_iter().filter(|(_, b)| b.len() < 6_000).collect();
    small.truncate(7);
    // Every byte costs a check.
    for (_, bytes) in &mut small {
        bytes.truncate(700);
    }
    let ids = store(&world.open(), &small);
    let noise = small.iter().zip(ids).find(|((_, bytes), _)| bytes.len() == 700);
    let ((class, mut changed), id) = noise.map(|(c, id)| (c.clone(), id)).expect("one of them");
    changed[300] ^= 1;
    assert!(succeed(&world.open(), &[(class, changed)], &[id]).1 < 400);
    let clean = world.open().check_objects(ReadData::Everything, &Context::new());
    assert_eq!(clean.expect("a check").findings, []);
    let mut flips = 0;
    for folder in ["", "keys/", "packs/", "index/", "sessions/", "snapshots/"] {
        let entries = match folder {
            "" => vec!["config".to_owned()],
            _ => {
                world.backend.list(folder).expect("a listing").into_iter().map(|e| e.name).collect()
            }
        };
        for name in entries {
            let good = world.backend.get(&name).expect("an object");
            for at in 0..good.len() {
                let mut bad = good.to_vec();
                bad[at] ^= 1 << (at % 8);
                world.backend.delete(&name).expect("deleted");
                world.backend.create(&name, &bad).expect("created");
                let backend = Arc::clone(&world.backend) as Arc<dyn Backend>;
                // No cache can be kept there, so the index is read anew each time.
                let nowhere = std::path::Path::new("/dev/null/cache");
                let found = match Repo::open(backend, &Unlocking::Given(&world.unlock()), nowhere) {
                    Err(_) => true,
                    Ok(repo) => repo
                        .check_objects(ReadData::Everything, &Context::new())
                        .map_or(true, |checked| !checked.findings.is_empty()),
                };
                assert!(found, "byte {at} of {name} was flipped and nobody noticed");
                flips += 1;
            }
            world.backend.delete(&name).expect("deleted");
            world.backend.create(&name, &good).expect("created");
        }
    }
    assert!(flips > 2_500, "only {flips} bytes were there to flip");
}
