//! How fast the parts are, one thread each; `benches/README.md` says what else is measured.
#![allow(missing_docs, clippy::panic, clippy::disallowed_methods, reason = "a benchmark")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use coeval::backend::{Backend, Memory};
use coeval::chunker::{Boundary, ChunkParams, Gear};
use coeval::context::Context;
use coeval::crypto::{KdfCost, KeyFile, MasterKey, Sealer, Unlock};
use coeval::hint::Failure;
use coeval::id::{ChunkId, RepoId};
use coeval::repo::format::block::{Decoder, Encoder};
use coeval::repo::format::config::Config;
use coeval::repo::{
    ChunkReader as _, ChunkWriter as _, Class, Compression, MemoryChunks, NewKey, Repo, Unlocking,
};
use coeval::source::{Delta, Files, FilesOptions, Kind, Source as _};
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

/// The sources of this program: text as a tree of files has it.
fn sources() -> Vec<u8> {
    fn below(folder: &Path, into: &mut Vec<u8>) {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                below(&path, into);
            } else {
                into.extend(std::fs::read(path).expect("a file"));
            }
        }
    }
    let mut bytes = Vec::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut bytes);
    bytes
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

/// What every byte of a first backup and of a restore goes through, besides the chunker.
fn bytes(criterion: &mut Criterion) {
    const BLOCK: usize = 512 << 10;
    let id = RepoId::new([1; 16]);
    let sealer = Sealer::encrypted(&MasterKey::generate().expect("randomness"), id);
    let random = noise(16 * MIB);
    let mut group = criterion.benchmark_group("bytes");
    group.throughput(Throughput::Bytes(random.len() as u64)).sample_size(20);
    for (name, length) in [("chunks of 256 KiB", 256 << 10), ("chunks of 4 KiB", 4 << 10)] {
        group.bench_function(format!("name {name}"), |bencher| {
            bencher.iter(|| {
                for chunk in random.chunks(length) {
                    black_box(sealer.chunk_id(chunk));
                }
            });
        });
    }
    let mut pack = sealer.pack_sealer().expect("randomness");
    let salt = *pack.salt();
    group.bench_function("seal blocks of 512 KiB", |bencher| {
        bencher.iter_batched_ref(
            || random.chunks(BLOCK).map(<[u8]>::to_vec).collect::<Vec<_>>(),
            |blocks| {
                for block in blocks {
                    pack.seal(1, block).expect("sealed");
                }
            },
            BatchSize::PerIteration,
        );
    });
    let mut pack = sealer.pack_sealer().expect("randomness");
    let opener = sealer.pack_opener(pack.salt());
    assert_ne!(salt, *pack.salt(), "each pack has a key of its own");
    let mut sealed: Vec<_> = random.chunks(BLOCK).map(<[u8]>::to_vec).collect();
    for block in &mut sealed {
        pack.seal(1, block).expect("sealed");
    }
    group.bench_function("open blocks of 512 KiB", |bencher| {
        bencher.iter_batched(
            || sealed.clone(),
            |blocks| {
                for (number, block) in (0..).zip(blocks) {
                    black_box(opener.open(number, 1, block).expect("opened"));
                }
            },
            BatchSize::PerIteration,
        );
    });
    let zstd = Config::new(id, Context::new().clock.now()).data.zstd;
    let mut encoder = Encoder::new(zstd).expect("zstd");
    for (name, data) in [("sources", sources()), ("rows", text(4 * MIB)), ("noise", noise(4 * MIB))]
    {
        group.throughput(Throughput::Bytes(data.len() as u64));
        let mut encode =
            || data.chunks(BLOCK).map(|block| encoder.encode(block).expect("a block")).collect();
        let encoded: Vec<Vec<u8>> = encode();
        group.bench_function(format!("compress {name}"), |bencher| bencher.iter(&mut encode));
        let mut decoder = Decoder::new().expect("zstd");
        group.bench_function(format!("decompress {name}"), |bencher| {
            bencher.iter(|| {
                for block in &encoded {
                    black_box(decoder.decode(block).expect("a block"));
                }
            });
        });
    }
}

/// What an unchanged backup costs: looking at every file.
fn scan(criterion: &mut Criterion) {
    const FOLDERS: u64 = 100;
    const FILES: u64 = 100;
    let folder = tempfile::tempdir().expect("a folder");
    for n in 0..FOLDERS {
        let folder = folder.path().join(n.to_string());
        std::fs::create_dir(&folder).expect("a folder");
        (0..FILES).for_each(|n| std::fs::write(folder.join(n.to_string()), "x").expect("a file"));
    }
    let ctx = Context::new();
    let mut group = criterion.benchmark_group("files");
    group.throughput(Throughput::Elements(FOLDERS * (FILES + 1))).sample_size(20);
    group.bench_function("scan 10,000", |bencher| {
        bencher.iter(|| {
            let options = FilesOptions::default();
            let mut files =
                Files::new(Kind::Storage, "files", folder.path(), options).expect("a source");
            let described = files.begin(None, &ctx).expect("it begins");
            let Delta::Everything(all) =
                files.changes(&described.trees[0], None, &ctx).expect("changes")
            else {
                panic!("there is no parent")
            };
            let mut entries = 0;
            for entry in all {
                entry.expect("an entry");
                entries += 1;
            }
            assert!(entries >= FOLDERS * (FILES + 1), "{entries} entries");
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
    let ctx = Context::new();
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
    group.bench_function("write 32 MiB on all threads: hash, compress, verify, seal", |bencher| {
        bencher.iter_batched(fresh, |repo| write(&repo), BatchSize::PerIteration);
    });
    let contents = || -> Changes<'_> {
        Box::new((0_u64..).zip(data.chunks(16 << 10)).map(|(number, bytes)| {
            let content = Content::Reader(Box::new(std::io::Cursor::new(bytes.to_vec())));
            Ok(Change::put(number.to_be_bytes(), [], content))
        }))
    };
    group.bench_function("stow 2,048 contents of 16 KiB on all threads", |bencher| {
        let stow = |repo: Repo| {
            let shape = shape();
            repo.write(Compression::Auto, &ctx, |session| {
                Ok(tree::build(session, &shape, contents())?)
            })
            .expect("a tree")
        };
        bencher.iter_batched(fresh, stow, BatchSize::PerIteration);
    });
    let (first, second) = (fresh(), fresh());
    let ids = write(&first);
    write(&second);
    group.bench_function("write 32 MiB that are there: hash, look up", |bencher| {
        bencher.iter(|| write(&second));
    });
    group.throughput(Throughput::Elements(ids.len() as u64));
    group.bench_function("look up 128 chunks", |bencher| {
        bencher.iter(|| first.contains_many(&ids).expect("a look-up"));
    });
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("read 32 MiB: open, decompress, hash", |bencher| {
        bencher.iter(|| {
            ids.iter().map(|id| first.read_chunk(id).expect("a chunk").len()).sum::<usize>()
        });
    });
}

criterion_group!(parts, chunker, bytes, scan, trees, repository);
criterion_main!(parts);
