//! A tree with many entries, in a repository on disk: build, change, compare, get.
//!
//!     cargo bench --bench tree [ENTRIES [FOLDER]]      10,000,000 when not given: 1 GB of disk
#![allow(missing_docs, clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark")]
#![allow(clippy::cast_precision_loss, reason = "what is shown has three digits")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use coeval::backend::Local;
use coeval::chunker::{Boundary, ChunkParams, Gear};
use coeval::context::Context;
use coeval::hint::{ErrorKind, Failure};
use coeval::repo::{Compression, Repo, Unlocking, Written};
use coeval::tree::{self, Change, Changes, Content, Shape, Tree, TreeParams};

const CHANGED: u64 = 100;
const GETS: u64 = 10_000;

fn shape() -> Shape {
    let chunks = ChunkParams::new(128 << 10, 256 << 10, 1 << 20, 512 << 10).expect("valid sizes");
    let params = TreeParams::new(8 << 10, 64, 8 << 10).expect("valid sizes");
    let gear = Arc::new(Gear::new(&[7; 32]));
    Shape::new(Boundary::new(&[7; 16]), gear, params, chunks).expect("a shape")
}

/// Rows of about 70 bytes, half of which do not compress.
fn rows(numbers: impl Iterator<Item = u64> + 'static, word: &'static str) -> Changes<'static> {
    Box::new(numbers.map(move |number| {
        let digest = blake3::hash(&number.to_le_bytes()).to_hex();
        let row = format!("[{number},\"{word}\",\"{}\",\"2026-01-04 12:00:00+00\"]", &digest[..24]);
        Ok(Change::put(number.to_be_bytes(), [], Content::Inline(row.into_bytes())))
    }))
}

fn open(folder: &Path) -> Repo {
    let keyless = || Err(Failure::message(ErrorKind::Failed, "it has no keys", None));
    let backend = Arc::new(Local::new(folder.join("repository")));
    Repo::open(backend, &Unlocking::Ask(&keyless), &folder.join("cache")).expect("it opens")
}

/// Changes a tree and commits.
fn change(repo: &Repo, old: Option<Tree>, changes: Changes<'_>) -> (Tree, Written) {
    repo.write(Compression::Auto, &Context::new(), |session| {
        let new = tree::edit(repo, session, &shape(), old, changes)?;
        session.commit(b"")?;
        Ok((new, session.written()))
    })
    .expect("it commits")
}

/// Does something in a repository that was just opened, and says what it took.
fn step<T>(folder: &Path, name: &str, work: impl FnOnce(&Repo) -> (T, String)) -> T {
    let repo = open(folder);
    // From here on, the peak is this step's.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let started = Instant::now();
    let (result, said) = work(&repo);
    let took = started.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    println!("{name:<22} {took:>9.3} s {:>6} MiB of memory   {said}", kib >> 10);
    result
}

fn wrote(written: Written) -> String {
    let Written { chunks, bytes, stored } = written;
    format!("{chunks} nodes, {:.2} MB, stored as {:.2} MB", bytes as f64 / 1e6, stored as f64 / 1e6)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let entries: u64 = args.first().map_or(10_000_000, |n| n.parse().expect("a number"));
    let folder =
        args.get(1).map_or_else(tempfile::tempdir, tempfile::tempdir_in).expect("a folder");
    let folder = folder.path();
    Repo::init(&Local::new(folder.join("repository")), &[], &Context::new()).expect("a repository");
    let scattered = || (0..CHANGED).map(move |n| n * (entries / CHANGED));

    let old = step(folder, "build", |repo| {
        let (tree, written) = change(repo, None, rows(0..entries, "first"));
        (tree, wrote(written))
    });
    let new = step(folder, "change 100 scattered", |repo| {
        let (tree, written) = change(repo, Some(old), rows(scattered(), "changed"));
        (tree, wrote(written))
    });
    step(folder, "find what changed", |repo| {
        let found = tree::diff(repo, Some(old), Some(new)).count() as u64;
        assert_eq!(found, CHANGED);
        ((), format!("{found} entries"))
    });
    step(folder, "get 10,000 scattered", |repo| {
        for n in 0..GETS {
            let key = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % entries).to_be_bytes();
            assert!(tree::get(repo, new, &key).expect("a look-up").is_some());
        }
        ((), String::new())
    });
    step(folder, "read all", |repo| {
        assert_eq!(tree::range(repo, new, &[]).count() as u64, entries);
        ((), String::new())
    });
}
