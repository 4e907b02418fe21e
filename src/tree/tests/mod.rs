//! The promises of trees, over chunks in memory.

mod after;
mod compare;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::chunker::{Boundary, ChunkParams, Gear};
use crate::hint::{ErrorKind, Failure, Hint as _};
use crate::repo::{ChunkReader, ChunkWriter, Class, MemoryChunks, RepoError};

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Vec<u8>)>;

/// Chunks in memory that count what is asked of them.
#[derive(Debug, Default)]
struct Counted {
    chunks: MemoryChunks,
    reads: AtomicUsize,
    writes: AtomicUsize,
    /// Chunks of content that turned out to be those that they might be.
    known: AtomicUsize,
}

impl Counted {
    /// Reads and writes since the last call.
    fn counts(&self) -> (usize, usize) {
        (self.reads.swap(0, Ordering::Relaxed), self.writes.swap(0, Ordering::Relaxed))
    }
}

impl ChunkReader for Counted {
    fn read_chunk(&self, id: &ChunkId) -> Result<Bytes, RepoError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.chunks.read_chunk(id)
    }

    fn names(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        self.chunks.names(id, bytes)
    }
}

impl ChunkWriter for Counted {
    fn write_chunk(&self, class: Class, bytes: &[u8]) -> Result<ChunkId, RepoError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.chunks.write_chunk(class, bytes)
    }

    fn write_successor(
        &self,
        class: Class,
        bytes: &[u8],
        known: Option<ChunkId>,
    ) -> Result<ChunkId, RepoError> {
        let id = self.write_chunk(class, bytes)?;
        let is_known = class == Class::Data && known == Some(id);
        self.known.fetch_add(usize::from(is_known), Ordering::Relaxed);
        Ok(id)
    }
}

/// Tiny nodes and chunks, so that few entries make many levels.
fn tiny() -> Shape {
    let params = TreeParams::new(64, 4, 32).unwrap();
    let chunks = ChunkParams::new(256, 512, 2048, 256).unwrap();
    shape(params, chunks)
}

fn usual() -> Shape {
    shape(TreeParams::default(), ChunkParams::default())
}

fn shape(params: TreeParams, chunks: ChunkParams) -> Shape {
    Shape::new(Boundary::new(&[1; 16]), Arc::new(Gear::new(&[2; 32])), params, chunks).unwrap()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn changes(list: impl IntoIterator<Item = Change, IntoIter: 'static>) -> Changes<'static> {
    Box::new(list.into_iter().map(Ok))
}

fn puts(model: &Model) -> Changes<'static> {
    let puts = model.iter().map(|(key, (head, content))| {
        Change::put(key.clone(), head.clone(), Content::Inline(content.clone()))
    });
    changes(puts.collect::<Vec<_>>())
}

fn built(store: &Counted, shape: &Shape, model: &Model) -> Tree {
    build(store, shape, puts(model)).unwrap()
}

/// All that a tree holds, read through [`entries`].
fn contents(store: &Counted, tree: Tree) -> Model {
    entries(store, tree, b"", b"").map(|entry| whole(store, entry.unwrap())).collect()
}

fn whole(store: &Counted, (key, value): (Key, Value)) -> (Key, (Vec<u8>, Vec<u8>)) {
    (key, (value.head, value.content.bytes(store, 1 << 24).unwrap()))
}

/// `count` entries with numbers for keys, `size` bytes each.
fn numbered(count: u32, size: usize) -> Model {
    let entry = |i: u32| (i.to_be_bytes().to_vec(), (vec![], noise(i.into(), size)));
    (0..count).map(entry).collect()
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(0_u8..4, 0..5),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn value() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let content = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u64>(), 0_usize..6_000).prop_map(|(seed, length)| noise(seed, length)),
    ];
    (prop::collection::vec(any::<u8>(), 0..20), content)
}

fn model() -> impl Strategy<Value = Model> {
    prop_oneof![
        1 => prop::collection::btree_map(key(), value(), 0..3),
        8 => prop::collection::btree_map(key(), value(), 0..300),
    ]
}

type Edit = BTreeMap<Vec<u8>, Option<(Vec<u8>, Vec<u8>)>>;

type Stretch = Option<(Key, Key)>;

/// Some keys changed, and perhaps all keys of a stretch deleted.
fn edits() -> impl Strategy<Value = (Edit, Stretch)> {
    let list = prop::collection::btree_map(key(), prop::option::of(value()), 0..60);
    (list, prop::option::of((key(), key())))
}

/// The edit as one list: what it says of single keys counts more than the stretch.
fn flatten((edit, stretch): (Edit, Stretch), model: &Model) -> Edit {
    let mut all = Edit::new();
    if let Some((from, to)) = stretch {
        all.extend(
            model.keys().filter(|key| from <= **key && **key <= to).map(|k| (k.clone(), None)),
        );
    }
    all.extend(edit);
    all
}

fn apply(model: &mut Model, edit: &Edit) {
    for (key, value) in edit {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
}

fn as_changes(edit: &Edit) -> Changes<'static> {
    let list = edit.iter().map(|(key, value)| match value {
        Some((head, content)) => {
            let source = io::Cursor::new(content.clone());
            Change::put(key.clone(), head.clone(), Content::Reader(Box::new(source)))
        }
        None => Change::delete(key.clone()),
    });
    changes(list.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_same_entries_give_the_same_root_whatever_the_edits(
        mut model in model(),
        edits in prop::collection::vec(edits(), 1..4),
    ) {
        let (store, shape) = (Counted::default(), tiny());
        let mut tree = built(&store, &shape, &model);
        for edit in edits {
            let edit = flatten(edit, &model);
            apply(&mut model, &edit);
            tree = edit_(&store, &shape, tree, as_changes(&edit));
            prop_assert_eq!(tree, built(&store, &shape, &model));
        }
        prop_assert_eq!(contents(&store, tree), model);
    }

    #[test]
    fn a_difference_is_what_comparing_every_entry_finds(
        before in model(),
        edit in edits(),
        fresh in prop::option::weighted(0.2, model()),
    ) {
        let (store, shape) = (Counted::default(), tiny());
        let mut after = fresh.unwrap_or_else(|| before.clone());
        apply(&mut after, &flatten(edit, &before));
        let (a, b) = (built(&store, &shape, &before), built(&store, &shape, &after));

        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let expected: Vec<_> = keys
            .into_iter()
            .map(|key| (key.clone(), before.get(key).cloned(), after.get(key).cloned()))
            .filter(|(_, old, new)| old != new)
            .collect();
        let bytes = |value: Value| whole(&store, (vec![], value)).1;
        let found: Vec<_> = differences(&store, Some(a), Some(b))
            .map(|difference| difference.unwrap())
            .map(|Difference { key, old, new }| (key, old.map(bytes), new.map(bytes)))
            .collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(edit_(&store, &shape, a, diff(&store, Some(a), Some(b))), b);
    }

    #[test]
    fn ranges_and_single_entries_are_those_of_an_ordered_map(
        model in model(),
        from in key(),
        prefix in key(),
    ) {
        let store = Counted::default();
        let tree = built(&store, &tiny(), &model);
        let found: Vec<_> =
            entries(&store, tree, &from, &prefix).map(|entry| whole(&store, entry.unwrap())).collect();
        let expected: Vec<_> = model
            .range(from.clone()..)
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        prop_assert_eq!(found, expected);
        let puts = range(&store, tree, &prefix).count();
        prop_assert_eq!(puts, model.keys().filter(|key| key.starts_with(&prefix)).count());
        for key in model.keys().chain([&from, &prefix]) {
            let value = get(&store, tree, key).unwrap();
            let value = value.map(|value| whole(&store, (vec![], value)).1);
            prop_assert_eq!(value.as_ref(), model.get(key));
        }
    }

    #[test]
    fn a_walk_names_every_chunk_that_is_needed_and_no_other(model in model()) {
        let (store, shape) = (Counted::default(), tiny());
        let tree = built(&store, &shape, &model);
        let seen = Seen::of(&store, tree);
        prop_assert_eq!(seen.ids().len(), store.chunks.len());
        let nodes = stats(&store, tree).unwrap();
        prop_assert_eq!(nodes.nodes, seen.nodes.len() as u64);
        prop_assert_eq!(nodes.entries, model.len() as u64);
        prop_assert_eq!(seen.broken, 0);
        for (_, key) in seen.chunks {
            prop_assert!(model[&key].1.len() > 32);
        }
    }

    #[test]
    fn streams_read_back_whole_and_in_ranges(
        seed: u64,
        length in prop_oneof![0_usize..600, 0_usize..200_000],
        offset in 0_usize..210_000,
        wanted in 0_usize..50_000,
    ) {
        let (store, shape) = (Counted::default(), tiny());
        let data = noise(seed, length);
        let content = store_(&store, &shape, &data);
        match content {
            Content::Stored(stream) => {
                prop_assert!(length > 32);
                prop_assert_eq!(stream.length, length as u64);
                let from = offset.min(length);
                let expected = &data[from..length.min(from + wanted)];
                let mut found = Vec::new();
                StreamReader::range(&store as &dyn ChunkReader, stream, offset as u64, wanted as u64)
                    .read_to_end(&mut found)
                    .unwrap();
                prop_assert!(found == expected);
                prop_assert!(Content::Stored(stream).bytes(&store, length).unwrap() == data);
                prop_assert!(Content::Stored(stream).bytes(&store, length - 1).is_err());
            }
            content => {
                prop_assert!(length <= 32);
                prop_assert_eq!(content.bytes(&store, 32).unwrap(), data);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_and_each_node_has_one_encoding(
        model in model(),
        place: prop::sample::Index,
        byte: u8,
        cut: prop::sample::Index,
    ) {
        let store = Counted::default();
        let tree = built(&store, &tiny(), &model);
        let bytes = store.read_chunk(&tree.root).unwrap();
        let mut changed = bytes.to_vec();
        changed[place.index(bytes.len())] = byte;
        for bytes in [changed, bytes[..cut.index(bytes.len())].to_vec()] {
            if let Ok(node) = node::Node::decode(tree.root, bytes.clone().into()) {
                let mut builder = node::Builder::new(node.level());
                for at in 0..node.len() {
                    builder.copy(&node, at);
                }
                prop_assert_eq!(builder.finish(), &bytes[..]);
            }
        }
    }

    #[test]
    fn damaged_trees_fail_and_never_panic(
        model in model(),
        victim: prop::sample::Index,
        place: prop::sample::Index,
        flip in 1_u8..,
    ) {
        let store = Counted::default();
        let tree = built(&store, &tiny(), &model);
        let seen: Vec<_> = Seen::of(&store, tree).ids().into_iter().collect();
        let id = *victim.get(&seen);
        let mut bytes = store.read_chunk(&id).unwrap().to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        let damaged = Damaged { store: &store.chunks, id, bytes: bytes.into() };
        // It is enough that nothing panics: the repository finds changed bytes by their hash.
        let _ = Seen::of(&damaged, tree);
        let _ = stats(&damaged, tree);
        for (_, value) in entries(&damaged, tree, b"", b"").map_while(Result::ok).take(1000) {
            let _ = value.content.bytes(&damaged, 1 << 20);
        }
        let change = changes([Change::put(b"\x02", b"", Content::empty())]);
        let _ = edit(&damaged, &store, &tiny(), Some(tree), change);
    }
}

fn edit_(store: &Counted, shape: &Shape, tree: Tree, changes: Changes<'_>) -> Tree {
    edit(store, store, shape, Some(tree), changes).unwrap()
}

fn store_(chunks: &Counted, shape: &Shape, mut data: &[u8]) -> Content {
    store(chunks, shape, &mut data).unwrap()
}

/// What a walk came to.
#[derive(Default)]
struct Seen {
    nodes: Vec<ChunkId>,
    chunks: Vec<(ChunkId, Key)>,
    broken: usize,
}

impl Seen {
    fn of(reader: &dyn ChunkReader, tree: Tree) -> Self {
        let mut seen = Self::default();
        walk(reader, tree, &mut |visit| {
            match visit {
                Visit::Node(id) => seen.nodes.push(id),
                Visit::Chunk { id, key } => seen.chunks.push((id, key.to_vec())),
                Visit::Broken { .. } => seen.broken += 1,
            }
            true
        });
        seen
    }

    fn ids(&self) -> BTreeSet<ChunkId> {
        self.nodes.iter().chain(self.chunks.iter().map(|(id, _)| id)).copied().collect()
    }
}

/// A store in which one chunk has other bytes.
struct Damaged<'a> {
    store: &'a MemoryChunks,
    id: ChunkId,
    bytes: Bytes,
}

impl ChunkReader for Damaged<'_> {
    fn read_chunk(&self, id: &ChunkId) -> Result<Bytes, RepoError> {
        if *id == self.id { Ok(self.bytes.clone()) } else { self.store.read_chunk(id) }
    }

    fn names(&self, id: &ChunkId, bytes: &[u8]) -> bool {
        self.store.names(id, bytes)
    }
}

#[test]
fn roots_are_those_of_the_format() {
    let store = Counted::default();
    let empty = built(&store, &tiny(), &Model::new());
    assert_eq!(empty.root.to_string(), GOLDEN[0]);
    let mut model = numbered(1_000, 20);
    model.insert(b"long".to_vec(), (b"head".to_vec(), noise(7, 100_000)));
    assert_eq!(built(&store, &tiny(), &model).root.to_string(), GOLDEN[1]);
    assert_eq!(built(&store, &usual(), &model).root.to_string(), GOLDEN[2]);
}

const GOLDEN: [&str; 3] = [
    "6fb118f237d2bf4d97d6d08bf1d4f18a25f0f2d1247983e5537f1c13e65eeaf2",
    "23b50800523cf9a9a9dbded99972e872b3c4f9dd0760253755a5947cbfcf0f1c",
    "0c7d54e7967042bb8f77aba13eb142437a05f23abab535e0b0578c0168c35e0d",
];

#[test]
fn an_edit_of_one_entry_writes_few_nodes() {
    let (store, shape) = (Counted::default(), usual());
    let mut model = numbered(100_000, 100);
    let tree = built(&store, &shape, &model);
    let stats = stats(&store, tree).unwrap();
    assert_eq!(stats.levels, 3);
    assert!((400..1000).contains(&stats.nodes), "{stats:?}");
    let key = |number: u32| number.to_be_bytes().to_vec();
    let put = |number, byte| Change::put(key(number), [], Content::Inline(vec![byte; 100]));
    let mut total = 0;
    for (edit, change) in [
        ("update", put(50_000, 1)),
        ("first", put(0, 1)),
        ("last", put(99_999, 1)),
        ("append", put(100_000, 1)),
        ("insert", Change::put([0, 0, 77, 7, 7], [], Content::Inline(vec![3; 300]))),
        ("delete", Change::delete(key(60_000))),
        ("delete the last", Change::delete(key(99_999))),
    ] {
        store.counts();
        let edited = edit_(&store, &shape, tree, changes([change]));
        let (reads, writes) = store.counts();
        assert!(reads <= 12 && writes <= 12, "{edit}: {reads} nodes read, {writes} written");
        assert_ne!(edited, tree);
        total += writes;
    }
    assert!(total <= 7 * 6, "{total} nodes written by 7 edits");

    // Ten edits far apart cost ten paths, not the tree.
    let spread = (0..10).map(|i| put(i * 10_000 + 5, 9)).collect::<Vec<_>>();
    let edited = edit_(&store, &shape, tree, changes(spread));
    let (_, writes) = store.counts();
    assert!(writes <= 40, "{writes} nodes written");
    for i in 0..10 {
        model.insert(key(i * 10_000 + 5), (vec![], vec![9; 100]));
    }
    assert_eq!(edited, built(&store, &shape, &model));
}

#[test]
fn an_edit_that_changes_nothing_keeps_the_root_and_the_path_to_it() {
    let (store, shape) = (Counted::default(), usual());
    let model = numbered(20_000, 100);
    let tree = built(&store, &shape, &model);
    store.counts();
    let same = [
        Change::put(5_000_u32.to_be_bytes(), [], Content::Inline(noise(5_000, 100))),
        Change::delete(*b"\0\0\x40\0\0"),
    ];
    assert_eq!(edit_(&store, &shape, tree, changes(same)), tree);
    let (_, writes) = store.counts();
    assert!(writes <= 2, "{writes} nodes written");
    assert_eq!(edit_(&store, &shape, tree, changes([])), tree);
    assert_eq!(store.counts().1, 0);
}

#[test]
fn an_edit_that_changes_nothing_keeps_trees_of_every_height() {
    let (store, shape) = (Counted::default(), tiny());
    for count in [0, 1, 2, 5, 10, 20, 50, 200] {
        let tree = built(&store, &shape, &numbered(count, 20));
        assert_eq!(edit_(&store, &shape, tree, changes([Change::delete([0, 0, 0, 0, 7])])), tree);
        assert_eq!(edit_(&store, &shape, tree, changes([Change::delete([9])])), tree);
        assert_eq!(edit_(&store, &shape, tree, puts(&numbered(count, 20))), tree);
    }
}

#[test]
fn equal_trees_are_compared_without_reading_them() {
    let (store, shape) = (Counted::default(), usual());
    let model = numbered(20_000, 100);
    let tree = built(&store, &shape, &model);
    let changed = edit_(&store, &shape, tree, changes([Change::delete(7_u32.to_be_bytes())]));
    store.counts();
    assert_eq!(differences(&store, Some(tree), Some(tree)).count(), 0);
    assert_eq!(store.counts().0, 0);
    assert_eq!(differences(&store, Some(tree), Some(changed)).count(), 1);
    assert!(store.counts().0 <= 8);
    assert_eq!(differences(&store, None, Some(changed)).count(), 19_999);
    assert_eq!(differences(&store, Some(changed), None).count(), 19_999);
}

#[test]
fn a_tree_can_lose_everything_and_is_then_the_empty_tree() {
    let (store, shape) = (Counted::default(), tiny());
    let model = numbered(500, 20);
    let tree = built(&store, &shape, &model);
    assert!(stats(&store, tree).unwrap().levels > 3);
    let none = edit_(&store, &shape, tree, changes(model.into_keys().map(Change::delete)));
    assert_eq!(none, built(&store, &shape, &Model::new()));
    assert_eq!(none.entries, 0);
    assert_eq!(get(&store, none, b"x").unwrap().map(|value| value.head), None);
    let again = edit_(&store, &shape, none, puts(&numbered(500, 20)));
    assert_eq!(again, tree);
}

#[test]
fn leaves_have_their_target_size_on_average() {
    let store = Counted::default();
    let tree = built(&store, &usual(), &numbered(60_000, 200));
    let nodes = stats(&store, tree).unwrap().nodes;
    let mean = 60_000 * 208 / nodes;
    assert!(mean.abs_diff(16 << 10) < 2_000, "mean leaf {mean}");
}

#[test]
fn keys_and_heads_up_to_their_limit_are_kept_and_longer_ones_refused() {
    let (store, shape) = (Counted::default(), tiny());
    let mut model = numbered(10, 20);
    for length in [0, 1, 127, 128, 65_535, MAX_KEY] {
        model.insert(vec![0xff; length], (vec![1; MAX_KEY], vec![]));
    }
    let tree = built(&store, &shape, &model);
    assert_eq!(contents(&store, tree), model);
    for change in [
        Change::put(vec![0; MAX_KEY + 1], [], Content::empty()),
        Change::put([0], vec![0; MAX_KEY + 1], Content::empty()),
    ] {
        let error = build(&store, &shape, changes([change])).unwrap_err();
        assert!(matches!(error, TreeError::TooLong { .. }), "{error}");
    }
}

#[test]
fn changes_out_of_order_are_refused() {
    let (store, shape) = (Counted::default(), tiny());
    let put = |key: &str| Change::put(key, [], Content::empty());
    for list in [[put("b"), put("a")], [put("a"), put("a")], [put("b"), Change::delete("a")]] {
        let error = build(&store, &shape, changes(list)).unwrap_err();
        assert!(matches!(error, TreeError::Unsorted { .. }), "{error}");
    }
}

#[test]
fn a_failing_source_fails_the_edit_with_its_own_words() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    impl Reading for Broken {}
    let (store, shape) = (Counted::default(), tiny());
    let put = Change::put(b"a.pdf", [], Content::Reader(Box::new(Broken)));
    let failure = Failure::from(build(&store, &shape, changes([put])).unwrap_err());
    assert_eq!(failure.to_string(), "cannot read the content of entry `a.pdf`: the disk is gone");
    let failing = Box::new(std::iter::once_with(|| {
        Err(Failure::message(ErrorKind::Busy, "the database is busy", None))
    }));
    let error = build(&store, &shape, failing).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Busy, "the database is busy")
    );
}

#[test]
fn a_node_that_is_not_what_its_parent_says_is_refused() {
    let (store, mut leaf) = (Counted::default(), node::Builder::new(0));
    let content = node::Stowed::Inline(vec![]);
    leaf.push(b"m", node::Item::Value { head: b"", content: &content });
    let id = store.write_chunk(Class::Node, leaf.finish()).unwrap();
    let tree = |level, key: &[u8], entries| {
        let mut parent = node::Builder::new(level);
        parent.push(key, node::Item::Child(node::Child { id, entries }));
        Tree { root: store.write_chunk(Class::Node, parent.finish()).unwrap(), entries }
    };
    let reason = |tree| match get(&store, tree, b"a") {
        Err(TreeError::BadNode { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(get(&store, tree(1, b"m", 1), b"a").unwrap().is_none());
    assert!(reason(tree(2, b"m", 1)).contains("level"));
    assert!(reason(tree(1, b"n", 1)).contains("key"));
    assert!(reason(tree(1, b"m", 2)).contains("entries"));
    assert!(reason(Tree { entries: 2, ..tree(1, b"m", 1) }).contains("entries"));
}

#[test]
fn a_walk_goes_on_after_damage_and_passes_over_what_is_known() {
    let store = Counted::default();
    let mut model = numbered(300, 20);
    model.insert(b"long".to_vec(), (vec![], noise(1, 50_000)));
    let tree = built(&store, &tiny(), &model);
    let whole = Seen::of(&store, tree);
    assert!(whole.chunks.iter().all(|(_, key)| key == b"long"));
    let break_ = |id| {
        let bytes = Bytes::from_static(b"T1");
        let seen = Seen::of(&Damaged { store: &store.chunks, id, bytes }, tree);
        (seen.broken, whole.ids().len() - seen.ids().len())
    };
    assert_eq!(break_(tree.root), (1, whole.ids().len() - 1));
    assert_eq!(break_(whole.nodes[whole.nodes.len() - 2]), (1, 0));
    let top_list = whole.chunks[0].0;
    assert_eq!(break_(top_list), (1, whole.chunks.len() - 1));

    let mut again = 0;
    walk(&store, tree, &mut |visit| {
        again += 1;
        !matches!(visit, Visit::Node(id) if id == tree.root)
    });
    assert_eq!(again, 1);
}
