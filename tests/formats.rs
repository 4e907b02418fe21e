//! What lies on disk today can be read tomorrow: every layout against bytes written down once, and
//! a repository that is never made anew.
//!
//! If one of these fails, a change has made existing repositories unreadable. It needs a new version
//! of the format, a reader for the old one, and a line under "Changes" in `docs/FORMAT.md`; never
//! another golden file under the same version.
#![allow(missing_docs, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use coeval::id::{ChunkId, PackId, RepoId, SegmentId, SnapshotId, hex, unhex};
use coeval::repo::format::collection::Collection;
use coeval::repo::format::config::{Chunking, Config, Gathering, Trees, Zstd};
use coeval::repo::format::difference::frame_at;
use coeval::repo::format::pack::{BlockEntry, ChunkEntry, Footer};
use coeval::repo::format::segment::{PackRecord, Segment};
use coeval::repo::format::{FormatError, block, codec, pack};
use coeval::repo::{Class, Written};
use coeval::snapshot::{Instant, Manifest, Reason, RestoredInto, Skipped, SourceRecord};
use coeval::source::Kind;
use coeval::time::Timestamp;
use coeval::tree::Tree;
use sha2::{Digest as _, Sha256};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The bytes that were written down under a name: hexadecimal, white space for the eye.
fn vector(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(golden("vectors.txt")).expect("the golden vectors");
    let (_, rest) = text
        .split_once(&format!("\n[{name}]\n"))
        .unwrap_or_else(|| panic!("there is no golden vector of {name}"));
    let digits: String = rest
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split('#').next())
        .flat_map(str::split_whitespace)
        .collect();
    unhex(&digits).expect("hexadecimal digits")
}

/// A value is written as these bytes, and they are read as that value.
fn frozen<T: PartialEq + std::fmt::Debug>(
    name: &str,
    value: &T,
    encoded: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
) {
    let golden = vector(name);
    assert_eq!(hex(encoded), hex(&golden), "{name} is written differently");
    assert_eq!(decode(&golden).as_ref(), Ok(value), "{name} is read differently");
}

fn footer() -> Footer {
    let chunk = |byte, length, base: Option<u8>| ChunkEntry {
        id: ChunkId::new([byte; 32]),
        length,
        base: base.map(|byte| ChunkId::new([byte; 32])),
    };
    Footer {
        class: Class::Node,
        blocks: vec![
            BlockEntry { offset: 40, length: 0x1234, chunks: vec![chunk(0xa1, 0x2000, None)] },
            BlockEntry {
                offset: 0x125c,
                length: 0x0100_0000,
                chunks: vec![chunk(0xa2, 1, None), chunk(0xa3, 0xffff_ffff >> 8, Some(0xa1))],
            },
        ],
    }
}

fn manifest() -> Manifest {
    let tree = |byte, entries| Tree { root: ChunkId::new([byte; 32]), entries };
    Manifest {
        version: Manifest::version(0),
        time: Timestamp::new(1_767_528_000, 123_456_789),
        finished: Timestamp::new(-1, 999_999_999),
        host: "vm".into(),
        application: "edms".into(),
        tags: vec!["evening".into(), "été".into()],
        parent: Some(SnapshotId::new([5; 16])),
        reason: Reason::BeforeRestore {
            of: SnapshotId::new([6; 16]),
            into: vec![RestoredInto {
                kind: Kind::Storage,
                name: "media".into(),
                place: "/srv".into(),
            }],
        },
        instant: Instant::Unproven,
        sources: vec![
            SourceRecord {
                kind: Kind::Database,
                name: "main".into(),
                catalogue: tree(0xc1, 24),
                help: tree(0xc2, 0),
                entries: 5245,
                bytes: 1 << 32,
            },
            SourceRecord {
                kind: Kind::Configuration,
                name: String::new(),
                catalogue: tree(0xc3, 2),
                help: tree(0xc4, 1),
                entries: 251,
                bytes: 250,
            },
        ],
        skipped: vec![Skipped { item: "media/x".into(), reason: "permission denied".into() }],
        written: Written { chunks: 3, bytes: 65_536, stored: 65_535 },
        program: "0.1.0".into(),
        unlisted: 0,
        later: coeval::snapshot::Later::default(),
    }
}

#[test]
fn configurations_are_what_they_were() {
    let zstd = Zstd { level: -1, hash_log: 17, chain_log: 16, min_match: 5, dfast: true };
    let config = Config {
        version: 1,
        id: RepoId::new([7; 16]),
        created: Timestamp::new(1_767_528_000, 0),
        chunking: Chunking { whole: 512 << 10, min: 128 << 10, avg: 256 << 10, max: 1 << 20 },
        trees: Trees { leaf: 16 << 10, fan_out: 64, inline_record: 8 << 10, inline_file: 128 },
        data: Gathering { block: 512 << 10, pack: 32 << 20, zstd },
        nodes: Gathering { block: 64 << 10, pack: 16 << 20, zstd },
    };
    frozen("configuration", &config, &config.encode().expect("bytes"), Config::decode);
}

#[test]
fn pack_footers_are_what_they_were() {
    let mut bytes = Vec::new();
    footer().encode_into(&mut bytes).expect("bytes");
    frozen("pack footer", &footer(), &bytes, Footer::decode);
    let header = pack::header(&[8; 32]);
    frozen("pack header", &[8; 32], &header, pack::read_header);
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"a pack");
    let trailer = pack::trailer(0x0102_0304, &mut hasher);
    let hash = *blake3::hash(b"a pack\x04\x03\x02\x01").as_bytes();
    assert_eq!(trailer.as_slice(), [&[4, 3, 2, 1], hash.as_slice()].concat());
    assert_eq!(pack::read_trailer(&trailer), Ok((0x0102_0304, hash)));
}

#[test]
fn blocks_are_read_as_they_were() {
    let chunks = b"coeval ".repeat(20);
    let decode = |name| block::Decoder::new().unwrap().decode_owned(&vector(name));
    assert_eq!(decode("block stored").as_deref(), Ok(&b"coeval"[..]));
    assert_eq!(decode("block zstd").as_deref(), Ok(&chunks[..]));
    assert!(decode("block delta").is_err(), "differences are read otherwise");
    let difference = [&chunks[..70], b"again ", &chunks[70..]].concat();
    let block = vector("block of differences");
    for start in [0, 146] {
        let frame = frame_at(&block, start).expect("a frame");
        let decoded = block::Decoder::new().unwrap().decode_difference(frame, &chunks);
        assert_eq!(decoded.as_deref(), Ok(&difference[..]));
    }
}

#[test]
fn index_segments_are_what_they_were() {
    let segment = Segment {
        supersedes: vec![SegmentId::new([1; 16]), SegmentId::new([2; 16])],
        packs: vec![PackRecord {
            id: PackId { session: SnapshotId::new([3; 16]), number: 258 },
            salt: [4; 32],
            size: 0x1_0000_0001,
            footer: footer(),
        }],
    };
    frozen("index segment", &segment, &segment.encode().expect("bytes"), Segment::decode);
}

#[test]
fn collections_are_what_they_were() {
    let pack = PackId { session: SnapshotId::new([6; 16]), number: 0x1234 };
    let collection = Collection::new([5; 16], vec![pack], vec![SnapshotId::new([8; 16])]);
    let bytes = collection.encode().expect("bytes");
    frozen("collection", &collection, &bytes, Collection::decode);
    assert!(Collection::decode(&[&[2], &bytes[1..]].concat()).is_err(), "of a later version");
}

#[test]
fn manifests_are_what_they_were() {
    let bytes = manifest().encode().expect("bytes");
    frozen("manifest", &manifest(), &bytes, Manifest::decode);
    // Where not all is listed that was skipped, the number follows that says how much more.
    let unlisted = Manifest { version: Manifest::version(7), unlisted: 7, ..manifest() };
    let with_number = [&[2], &bytes[1..], &[7]].concat();
    assert_eq!(unlisted.encode().expect("bytes"), with_number);
    assert_eq!(Manifest::decode(&with_number), Ok(unlisted));
    assert!(Manifest::decode(&[&[4], &bytes[1..]].concat()).is_err(), "of a later version");
    // Version 3 has what became of it after that: which it was first, and how long it is kept.
    let until = coeval::snapshot::Protection::Until(Timestamp::new(5, 0));
    let rewritten = manifest().rewritten(SnapshotId::new([7; 16]), vec!["t".to_owned()], until);
    let tagged = Manifest { version: 3, tags: rewritten.tags.clone(), ..manifest() };
    let later = [&[0, 1][..], &[7; 16], &[1, 10, 0]].concat();
    let mut plain = codec::encode("manifest", &tagged).expect("bytes");
    plain.extend_from_slice(&later);
    assert_eq!(rewritten.encode().expect("bytes"), plain);
    assert_eq!(Manifest::decode(&plain), Ok(rewritten));
    let mut hashed = Vec::new();
    for (kind, name, catalogue) in [("database", "main", 0xc1), ("configuration", "", 0xc3)] {
        for word in [kind, name] {
            hashed.extend_from_slice(&(word.len() as u64).to_le_bytes());
            hashed.extend_from_slice(word.as_bytes());
        }
        hashed.extend_from_slice(&[catalogue; 32]);
    }
    assert_eq!(manifest().root_hash(), hex(blake3::hash(&hashed).as_bytes()));
}

#[test]
fn references_to_trees_are_what_they_were() {
    let tree = Tree { root: ChunkId::new([9; 32]), entries: 0x1_0000 };
    let bytes = codec::encode("tree", &tree).expect("bytes");
    frozen("tree reference", &tree, &bytes, |bytes| codec::decode("tree", bytes));
}

/// `tests/golden/repo-v1` was made once by `tests/golden/freeze.sh`.
#[test]
fn the_first_repository_is_whole_and_comes_back() {
    let home = golden("repo-v1");
    let scratch = tempfile::tempdir().expect("a folder");
    let coeval = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_coeval"))
            .arg("--repo")
            .arg(home.join("repository"))
            .arg("--key-file")
            .arg(home.join("key"))
            .arg("--cache-dir")
            .arg(scratch.path().join("cache"))
            .args(arguments)
            .current_dir(&scratch)
            .output()
            .expect("coeval runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "coeval {arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    };
    coeval(&["check", "--read-data"]);
    let roots: Vec<String> = coeval(&["--json", "snapshots"])
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|snapshot| snapshot["root"].as_str().expect("a root hash").to_owned())
        .collect();
    assert_eq!(roots, lines(&home.join("roots")));
    for name in ["first", "second"] {
        let target = scratch.path().join(name);
        let restore = |to: &[&str]| coeval(&[&["restore", &format!("tag:{name}")], to].concat());
        restore(&["--target", target.to_str().expect("UTF-8")]);
        assert_eq!(checksums(&target), lines(&home.join(format!("{name}.sha256"))), "{name}");
        let link = fs::read_link(target.join("storage/files/deep/link"));
        assert_eq!(link.expect("a link"), Path::new("../one.txt"));
        // Compared with the snapshot by root hash before it commits.
        restore(&["--database", &format!("sqlite://{}/{name}.db", scratch.path().display())]);
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).expect("a list").lines().map(str::to_owned).collect()
}

/// What `sha256sum` says of the regular files, sorted by path. The text of a database's header and
/// schema is made for people, and no format.
fn checksums(folder: &Path) -> Vec<String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name");
            if path.is_symlink() || name == "header.json" || name == "schema.sql" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(folder).expect("below it").display().to_string();
            let sum = Sha256::digest(fs::read(&path).expect("a file"));
            found.insert(below.clone(), format!("{}  {below}", hex(&sum)));
        }
    }
    found.into_values().collect()
}
