//! What the view promises, against a model in memory.

use std::collections::HashMap;

use super::*;
use crate::id::SnapshotId;
use crate::repo::Class;
use crate::repo::format::pack::{BlockEntry, ChunkEntry, Footer};
use crate::repo::format::segment::PackRecord;

fn chunk(number: u32) -> ChunkId {
    ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn segment_id(number: u8) -> SegmentId {
    SegmentId::new([number; 16])
}

/// A segment of two packs that holds the chunks of these numbers, each as long as its number.
fn segment(name: u8, chunks: std::ops::Range<u32>) -> Segment {
    let middle = chunks.start.midpoint(chunks.end);
    let pack = |number: u32, chunks: std::ops::Range<u32>| PackRecord {
        id: PackId { session: SnapshotId::new([name; 16]), number },
        salt: [name; 32],
        size: u64::from(chunks.end),
        footer: Footer {
            class: Class::Data,
            blocks: vec![BlockEntry {
                offset: 40,
                length: 1000,
                chunks: chunks
                    .map(|n| ChunkEntry { id: chunk(n), length: n % 100, base: None })
                    .collect(),
            }],
        },
    };
    let packs = vec![pack(0, chunks.start..middle), pack(1, middle..chunks.end)];
    Segment { supersedes: Vec::new(), packs }
}

/// Looks up every chunk of the model and as many others, one by one and together.
fn compare(view: &View, model: &HashMap<u32, u8>) {
    let numbers: Vec<u32> = model.keys().copied().chain(1_000_000..1_000_100).collect();
    let ids: Vec<ChunkId> = numbers.iter().map(|n| chunk(*n)).collect();
    let together = view.locate_many(&ids).expect("a look-up");
    for ((number, id), found) in numbers.iter().zip(&ids).zip(&together) {
        assert_eq!(view.locate(id).expect("a look-up"), *found);
        let found = found.map(|found| found.location);
        let pack = found.map(|found| view.pack(found.pack).expect("its pack"));
        assert_eq!(pack.map(|pack| pack.id.session.as_bytes()[0]), model.get(number).copied());
        assert_eq!(found.map(|found| found.size), model.get(number).map(|_| number % 100));
    }
}

#[test]
fn what_was_taken_in_is_found_also_by_the_next_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut model = HashMap::new();
    let mut present = HashSet::new();
    // Few chunks go through the memtable, more than 16,384 as a run.
    for (name, chunks) in [(1, 0..10), (2, 100..20_100), (3, 50_000..50_500)] {
        let view = View::open(folder.path(), &present).expect("it opens");
        view.ingest(segment_id(name), &segment(name, chunks.clone())).expect("taken in");
        present.insert(segment_id(name));
        model.extend(chunks.map(|number| (number, name)));
        compare(&view, &model);
        drop(view);
        let view = View::open(folder.path(), &present).expect("it opens");
        assert_eq!(view.missing(present.clone()), []);
        compare(&view, &model);
    }
}

#[test]
fn many_runs_are_merged_and_all_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let view = View::open(folder.path(), &HashSet::new()).expect("it opens");
    let mut intake = view.intake().expect("an intake").with_runs_of(17_000);
    let mut model = HashMap::new();
    for name in 0..8 {
        let first = u32::from(name) * 17_000;
        intake.add(segment_id(name), &segment(name, first..first + 17_000)).expect("taken in");
        model.extend((first..first + 17_000).map(|number| (number, name)));
    }
    intake.finish().expect("finished");
    compare(&view, &model);
    drop(view);
    let present = (0..8).map(segment_id).collect();
    compare(&View::open(folder.path(), &present).expect("it opens"), &model);
}

#[test]
fn what_an_interrupted_intake_wrote_is_taken_in_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let long = segment(1, 0..40_000);
    let view = View::open(folder.path(), &HashSet::new()).expect("it opens");
    let mut intake = view.intake().expect("an intake").with_runs_of(17_000);
    intake.add(segment_id(1), &long).expect("taken in");
    drop(intake);
    drop(view);
    let present = HashSet::from([segment_id(1)]);
    let view = View::open(folder.path(), &present).expect("it opens");
    assert_eq!(view.missing(present), [segment_id(1)]);
    view.ingest(segment_id(1), &long).expect("taken in");
    compare(&view, &(0..40_000).map(|number| (number, 1)).collect());
}

#[test]
fn a_second_process_keeps_what_it_learns_to_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = View::open(folder.path(), &HashSet::new()).expect("it opens");
    first.ingest(segment_id(1), &segment(1, 0..1000)).expect("taken in");
    drop(first);
    let known = HashSet::from([segment_id(1)]);
    let first = View::open(folder.path(), &known).expect("it opens");
    let second = View::open(folder.path(), &known).expect("it opens too");
    second.ingest(segment_id(2), &segment(2, 1000..30_000)).expect("taken in");
    first.ingest(segment_id(3), &segment(3, 30_000..30_010)).expect("taken in");
    let common = (0..1000).map(|number| (number, 1));
    compare(&second, &common.clone().chain((1000..30_000).map(|number| (number, 2))).collect());
    compare(&first, &common.chain((30_000..30_010).map(|number| (number, 3))).collect());
}

#[test]
fn a_view_of_another_past_is_begun_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let view = View::open(folder.path(), &HashSet::new()).expect("it opens");
    view.ingest(segment_id(1), &segment(1, 0..20_000)).expect("taken in");
    drop(view);
    let present = HashSet::from([segment_id(2)]);
    let view = View::open(folder.path(), &present).expect("it opens");
    assert_eq!(view.missing(present), [segment_id(2)]);
    assert_eq!(view.locate(&chunk(1)).expect("a look-up"), None);
}

/// A view of 20,000 chunks of which the largest file of a kind was damaged, and its segments.
fn damaged(kind: &str) -> (tempfile::TempDir, HashSet<SegmentId>) {
    let folder = tempfile::tempdir().expect("a folder");
    let view = View::open(folder.path(), &HashSet::new()).expect("it opens");
    view.ingest(segment_id(1), &segment(1, 0..20_000)).expect("taken in");
    drop(view);
    let entries = std::fs::read_dir(folder.path()).expect("a folder");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let path = files
        .filter(|path| path.to_string_lossy().contains(kind))
        .max_by_key(|path| path.metadata().expect("a file").len())
        .expect("a file of that kind");
    let mut bytes = std::fs::read(&path).expect("a file");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    std::io::Write::write_all(&mut file.expect("it can be written"), &bytes).expect("written");
    (folder, HashSet::from([segment_id(1)]))
}

fn is_begun_anew(folder: &Path, present: HashSet<SegmentId>) {
    let view = View::open(folder, &present).expect("it opens");
    assert_eq!(view.missing(present), [segment_id(1)]);
    view.ingest(segment_id(1), &segment(1, 0..100)).expect("taken in");
    compare(&view, &(0..100).map(|number| (number, 1)).collect());
}

#[test]
fn a_view_that_is_damaged_when_it_is_opened_is_begun_anew() {
    let (folder, present) = damaged("MANIFEST");
    is_begun_anew(folder.path(), present);
}

#[test]
fn a_view_that_is_found_damaged_is_begun_anew_by_the_next_process() {
    let (folder, present) = damaged(".sst");
    let view = View::open(folder.path(), &present).expect("it opens");
    let errors = (0..20_000).filter_map(|number| view.locate(&chunk(number)).err());
    assert!(errors.into_iter().any(|error| matches!(error, RepoError::ViewDamaged)));
    drop(view);
    is_begun_anew(folder.path(), present);
    let sound = View::open(folder.path(), &HashSet::from([segment_id(1)])).expect("it opens");
    assert_eq!(sound.missing(HashSet::from([segment_id(1)])), []);
}
