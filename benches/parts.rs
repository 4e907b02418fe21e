//! How fast the parts are, one thread each; `benches/README.md` says what else is measured.
#![allow(missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;

use coeval::backend::{Backend, Memory};
use coeval::chunker::{Boundary, ChunkParams, Gear};
use coeval::context::Context;
use coeval::crypto::{KdfCost, KeyFile, Unlock};
use coeval::hint::Failure;
use coeval::id::ChunkId;
use coeval::repo::{
    ChunkReader as _, ChunkWriter as _, Class, Compression, MemoryChunks, NewKey, Repo, Unlocking,
};
use coeval::tree::{self, Change, Changes, Content, Shape, TreeParams};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const MIB: usize = 1 << 20;

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Text that compresses about as rows do.
fn text(length: usize) -> Vec<u8> {
    let rows = (0_u64..).flat_map(|n| {
        let digest = blake3::hash(&n.to_le_bytes()).to_hex();
        format!("[{n},\"{}\",\"APPROVE\",\"2026-01-04 12:00:00+00\",null]", &digest[..16])
            .into_bytes()
    });
    rows.take(length).collect()
}

fn chunk_params() -> ChunkParams {
    ChunkParams::new(128 << 10, 256 << 10, 1 << 20, 512 << 10).expect("valid sizes")
}

fn chunker(criterion: &mut Criterion) {
    let (gear, params, data) = (Gear::new(&[7; 32]), chunk_params(), noise(64 * MIB));
    let mut group = criterion.benchmark_group("chunker");
    group.throughput(Throughput::Bytes(data.len() as u64)).sample_size(20);
    group.bench_function("cut 64 MiB", |bencher| {
        bencher.iter(|| {
            let (mut rest, mut chunks) = (data.as_slice(), 0);
            while !rest.is_empty() {
                rest = &rest[gear.cut(&params, rest)..];
                chunks += 1;
            }
            black_box(chunks)
        });
    });
}

fn shape() -> Shape {
    let params = TreeParams::new(8 << 10, 64, 8 << 10).expect("valid sizes");
    let gear = Arc::new(Gear::new(&[7; 32]));
    Shape::new(Boundary::new(&[7; 16]), gear, params, chunk_params()).expect("a shape")
}

fn rows(
    numbers: impl Iterator<Item = u64> + Send + 'static,
    word: &'static str,
) -> Changes<'static> {
    Box::new(numbers.map(move |number| {
        let row = format!("[{number},\"{word}\",\"2026-01-04 12:00:00.123456+00\",{}]", number * 7);
        Ok(Change::put(number.to_be_bytes(), [], Content::Inline(row.into_bytes())))
    }))
}

fn trees(criterion: &mut Criterion) {
    const ROWS: u64 = 100_000;
    let (chunks, shape) = (MemoryChunks::default(), shape());
    let every_thousandth = || rows((0..ROWS).step_by(1000), "changed");
    let old = tree::edit(&chunks, &chunks, &shape, None, rows(0..ROWS, "first")).expect("a tree");
    let new = tree::edit(&chunks, &chunks, &shape, Some(old), every_thousandth()).expect("a tree");
    let mut group = criterion.benchmark_group("tree of 100,000 rows");
    group.sample_size(20).throughput(Throughput::Elements(ROWS));
    group.bench_function("build", |bencher| {
        bencher.iter_batched(
            MemoryChunks::default,
            |into| tree::edit(&into, &into, &shape, None, rows(0..ROWS, "first")).expect("a tree"),
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(ROWS / 1000));
    group.bench_function("change 100 rows", |bencher| {
        bencher.iter(|| {
            tree::edit(&chunks, &chunks, &shape, Some(old), every_thousandth()).expect("a tree")
        });
    });
    group.bench_function("find 100 changed rows", |bencher| {
        bencher.iter(|| {
            assert_eq!(tree::diff(&chunks, Some(old), Some(new)).count() as u64, ROWS / 1000);
        });
    });
}

fn repository(criterion: &mut Criterion) {
    let data = text(32 * MIB);
    let cache = tempfile::tempdir().expect("a folder");
    let ctx = Context { jobs: 1, ..Context::new() };
    let fresh = || {
        let backend: Arc<dyn Backend> = Arc::new(Memory::default());
        let key = KeyFile::generate().expect("randomness");
        let unlock = Unlock::KeyFile(key);
        let open = match &unlock {
            Unlock::KeyFile(key) => Unlock::KeyFile(KeyFile::parse(&key.to_text()).expect("a key")),
            _ => unreachable!("it is a key file"),
        };
        let slot = NewKey { unlock, label: String::new(), cost: KdfCost::FLOOR };
        Repo::init(&*backend, &[slot], &ctx).expect("a repository");
        Repo::open(backend, &Unlocking::Given(&open), cache.path()).expect("it opens")
    };
    let write = |repo: &Repo| {
        repo.write(Compression::Auto, &ctx, |session| {
            let ids = data
                .chunks(256 << 10)
                .map(|chunk| Ok(session.write_chunk(Class::Data, chunk)?))
                .collect::<Result<Vec<ChunkId>, Failure>>()?;
            session.commit(b"")?;
            Ok(ids)
        })
        .expect("it commits")
    };
    let mut group = criterion.benchmark_group("repository in memory");
    group.sample_size(10).throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("write 32 MiB: hash, compress, verify, seal", |bencher| {
        bencher.iter_batched(fresh, |repo| write(&repo), BatchSize::PerIteration);
    });
    let (first, second) = (fresh(), fresh());
    let ids = write(&first);
    write(&second);
    group.bench_function("write 32 MiB that are there: hash, look up", |bencher| {
        bencher.iter(|| write(&second));
    });
    group.bench_function("read 32 MiB: open, decompress, hash", |bencher| {
        bencher.iter(|| {
            ids.iter().map(|id| first.read_chunk(id).expect("a chunk").len()).sum::<usize>()
        });
    });
}

criterion_group!(parts, chunker, trees, repository);
criterion_main!(parts);
