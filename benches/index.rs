//! The index of a repository with many chunks: reading it, opening it, looking chunks up.
//!
//!     cargo bench --bench index [CHUNKS [FOLDER]]      10,000,000 when not given
//!
//! The repository is made up as it is read, so only this host's view of it takes room on disk. Each
//! step is a process of its own, so that its peak memory is its own.
#![allow(missing_docs, clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark")]
#![allow(clippy::cast_precision_loss, reason = "what is shown has three digits")]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coeval::backend::{Backend, BackendError, Created, Deleted, Entry, Memory};
use coeval::context::Context;
use coeval::crypto::{ObjectKind, Sealer};
use coeval::hint::{ErrorKind, Failure};
use coeval::id::{ChunkId, PackId, SegmentId, SnapshotId};
use coeval::repo::format::name;
use coeval::repo::format::pack::{BlockEntry, ChunkEntry, Footer};
use coeval::repo::format::segment::{PackRecord, Segment};
use coeval::repo::{Class, Repo, Unlocking};

const CHUNK: u32 = 16 << 10;
const CHUNKS_PER_BLOCK: u64 = 32;
const BLOCKS_PER_PACK: u64 = 128;
const PACKS_PER_SEGMENT: u64 = 16;
const CHUNKS_PER_SEGMENT: u64 = CHUNKS_PER_BLOCK * BLOCKS_PER_PACK * PACKS_PER_SEGMENT;

const BATCH: usize = 512;

/// A repository whose segments are made when they are asked for.
#[derive(Debug)]
struct MadeUp {
    /// The configuration.
    objects: Memory,
    sealer: Sealer,
    segments: u64,
}

fn chunk_id(number: u64) -> ChunkId {
    ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn segment_id(number: u64) -> SegmentId {
    SegmentId::new(u128::from(number).to_le_bytes())
}

fn pack(number: u64) -> PackRecord {
    let block = |n: u64| BlockEntry {
        offset: 40 + u32::try_from(n).expect("small") * 400_000,
        length: 400_000,
        chunks: (0..CHUNKS_PER_BLOCK)
            .map(|chunk| {
                let number = (number * BLOCKS_PER_PACK + n) * CHUNKS_PER_BLOCK + chunk;
                ChunkEntry { id: chunk_id(number), length: CHUNK, base: None }
            })
            .collect(),
    };
    PackRecord {
        id: PackId {
            session: SnapshotId::new([1; 16]),
            number: u32::try_from(number).expect("few"),
        },
        salt: [2; 32],
        size: 64 << 20,
        footer: Footer { class: Class::Data, blocks: (0..BLOCKS_PER_PACK).map(block).collect() },
    }
}

impl Backend for MadeUp {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.objects.create(name, data)
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        let Some(id) = name.strip_prefix(name::INDEX) else { return self.objects.get(name) };
        let id: SegmentId = id.parse().expect("a name that was listed");
        let number = u64::try_from(u128::from_le_bytes(*id.as_bytes())).expect("a listed number");
        let packs = number * PACKS_PER_SEGMENT..(number + 1) * PACKS_PER_SEGMENT;
        let segment = Segment { supersedes: Vec::new(), packs: packs.map(pack).collect() };
        let bytes = segment.encode().expect("a segment");
        let sealed = self.sealer.seal_object(ObjectKind::IndexSegment, name, &bytes);
        Ok(sealed.expect("sealed").into())
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        self.objects.get_range(name, range)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        if folder != name::INDEX {
            return self.objects.list(folder);
        }
        let entry = |n| Entry { name: name::segment(segment_id(n)), size: 2 << 20 };
        Ok((0..self.segments).map(entry).collect())
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        self.objects.delete(name)
    }

    fn place(&self) -> String {
        "made up".to_owned()
    }
}

/// Makes the repository in `folder` if it is not there, and opens it with its view.
fn open(folder: &Path, segments: u64) -> Repo {
    let objects = Memory::default();
    let kept = folder.join("config");
    if let Ok(config) = std::fs::read(&kept) {
        objects.create(name::CONFIG, &config).expect("memory");
    } else {
        Repo::init(&objects, &[], &Context::new()).expect("a repository");
        std::fs::write(&kept, objects.get(name::CONFIG).expect("it was made")).expect("a folder");
    }
    // A first opening tells the repository's id.
    let probe = Memory::default();
    probe.create(name::CONFIG, &objects.get(name::CONFIG).expect("it was made")).expect("memory");
    let unlocked = || Err(Failure::message(ErrorKind::Failed, "it has no keys", None));
    let id = Repo::open(Arc::new(probe), &Unlocking::Ask(&unlocked), &folder.join("probe"))
        .expect("it opens")
        .config()
        .id;
    let backend = MadeUp { objects, sealer: Sealer::plain(id), segments };
    let started = Instant::now();
    let repo = Repo::open(Arc::new(backend), &Unlocking::Ask(&unlocked), &folder.join("cache"))
        .expect("it opens");
    say("open", &format!("{:.1} ms", started.elapsed().as_secs_f64() * 1e3));
    repo
}

fn fill(folder: &Path, segments: u64) {
    let repo = open(folder, segments);
    let started = Instant::now();
    repo.refresh().expect("it reads the index");
    let took = started.elapsed().as_secs_f64();
    let chunks = (segments * CHUNKS_PER_SEGMENT) as f64;
    say("read the index", &format!("{took:.1} s, {:.2} µs a chunk", took * 1e6 / chunks));
    drop(repo);
}

fn look_up(folder: &Path, segments: u64) {
    let repo = open(folder, segments);
    repo.refresh().expect("nothing is new");
    let chunks = segments * CHUNKS_PER_SEGMENT;
    // Scattered over all chunks; those beyond them are absent.
    let sample = |n: u64, first: u64| -> Vec<ChunkId> {
        (0..n).map(|i| chunk_id(first + (i * 0x9E37_79B9_7F4A_7C15) % chunks)).collect()
    };
    let per_item = |name: &str, ids: &[ChunkId], look: &dyn Fn(&[ChunkId]) -> usize, expected| {
        let (started, before) = (Instant::now(), processor());
        let found: usize = ids.chunks(BATCH).map(look).sum();
        let took = started.elapsed().as_secs_f64() / ids.len() as f64;
        let busy = (processor() - before) / ids.len() as f64;
        assert_eq!(found, expected, "{name}");
        let (micros, rate) = (took * 1e6, 1.0 / took);
        say(
            name,
            &format!("{micros:.2} µs ({:.2} of a processor), {rate:.0} a second", busy * 1e6),
        );
    };
    let batched = |ids: &[ChunkId]| {
        repo.contains_many(ids).expect("a look-up").into_iter().filter(|found| *found).count()
    };
    let single =
        |ids: &[ChunkId]| ids.iter().filter(|id| repo.contains(id).expect("a look-up")).count();
    // On a cold cache few are enough, and more would warm it.
    forget(folder);
    let few = sample(16 * BATCH as u64, 0);
    per_item("present, batches, files not in the page cache", &few, &batched, few.len());
    let ids = sample(256 * BATCH as u64, 0);
    per_item("warming", &ids, &batched, ids.len());
    per_item("present, batches of 512", &ids, &batched, ids.len());
    per_item("present, one by one", &ids, &single, ids.len());
    let others = sample(256 * BATCH as u64, chunks);
    per_item("absent, batches of 512", &others, &batched, 0);
    per_item("absent, one by one", &others, &single, 0);
}

/// Processor time of this process in seconds: tells a slow look-up from a busy machine.
fn processor() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Asks the kernel to drop the view's files from its page cache.
fn forget(folder: &Path) {
    for (path, _) in files(folder) {
        if let Ok(file) = File::open(path) {
            let advice = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&file, 0, None, advice).expect("it can be asked");
        }
    }
}

fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&entry.path())),
            Ok(metadata) => found.push((entry.path(), metadata.len())),
            // Removed since it was listed.
            Err(_) => {}
        }
    }
    found
}

fn gigabytes(folder: &Path) -> f64 {
    files(folder).iter().map(|(_, size)| *size as f64).sum::<f64>() / 1e9
}

fn say(what: &str, value: &str) {
    println!("{what:<50} {value}");
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    format!("{} MiB", kib >> 10)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |at: usize| args.get(at).map_or(10_000_000, |n| n.parse().expect("a number"));
    if let Some(step @ ("fill" | "look-up")) = args.first().map(String::as_str) {
        let (segments, folder) = (number(1), Path::new(&args[2]));
        if step == "fill" {
            fill(folder, segments);
        } else {
            look_up(folder, segments);
        }
        say("peak memory", &peak_memory());
        return;
    }
    let segments = number(0).div_ceil(CHUNKS_PER_SEGMENT);
    let folder =
        args.get(1).map_or_else(tempfile::tempdir, tempfile::tempdir_in).expect("a folder");
    say("chunks", &(segments * CHUNKS_PER_SEGMENT).to_string());
    for step in ["fill", "look-up"] {
        let me = std::env::current_exe().expect("this program");
        let mut child = Command::new(me)
            .args([step, &segments.to_string()])
            .arg(folder.path())
            .spawn()
            .expect("it starts");
        let mut most: f64 = 0.0;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            most = most.max(gigabytes(folder.path()));
            std::thread::sleep(Duration::from_millis(100));
        };
        assert!(status.success(), "{step} failed");
        say("disk", &format!("{:.2} GB, at most {most:.2} GB", gigabytes(folder.path())));
    }
}
