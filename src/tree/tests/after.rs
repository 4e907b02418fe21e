//! Trees that are made in the place of others.

use std::sync::Mutex;

use super::*;

/// Notes for each chunk what it was said to take the place of.
#[derive(Default)]
struct Offered(MemoryChunks, Mutex<Vec<(Vec<u8>, Option<ChunkId>)>>);

impl ChunkWriter for Offered {
    fn write_chunk(&self, class: Class, bytes: &[u8]) -> Result<ChunkId, RepoError> {
        self.write_successor(class, bytes, None)
    }

    fn write_successor(
        &self,
        class: Class,
        bytes: &[u8],
        predecessor: Option<ChunkId>,
    ) -> Result<ChunkId, RepoError> {
        self.1.lock().unwrap().push((bytes.to_vec(), predecessor));
        self.0.write_chunk(class, bytes)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_built_after_another_tree_is_what_is_built_without(
        before in prop::option::weighted(0.9, model()), after in model(),
    ) {
        let (store, shape) = (Counted::default(), tiny());
        let old = before.map(|before| built(&store, &shape, &before));
        let tree = build_after(&store, &store, &shape, old, puts(&after)).unwrap();
        prop_assert_eq!(tree, built(&store, &shape, &after));
    }
}

#[test]
fn nodes_take_the_place_of_those_that_held_their_keys_also_when_all_is_read_again() {
    let (store, shape, mut model) = (Counted::default(), tiny(), numbered(2000, 10));
    let old = built(&store, &shape, &model);
    let (key, _) = model.iter().nth(1234).expect("an entry");
    model.insert(key.clone(), (Vec::new(), b"another".to_vec()));
    let writer = Offered::default();
    store.counts();
    let new = build_after(&store, &writer, &shape, Some(old), puts(&model)).unwrap();
    let (reads, _) = store.counts();
    assert_eq!(new, built(&store, &shape, &model));
    let offered = writer.1.into_inner().unwrap();
    // What is as it was is looked up; what is not, is on the way to what changed.
    let changed: Vec<_> = offered.iter().filter_map(|(new, old)| Some((new, (*old)?))).collect();
    assert!((2..9).contains(&changed.len()), "{}", changed.len());
    for (new, old) in changed {
        let old = store.chunks.read_chunk(&old).unwrap();
        assert_eq!(old[2], new[2], "of the same level");
        assert_ne!(old, new);
    }
    assert!(reads * 2 < offered.len(), "leaves are not read: {reads} of {}", offered.len());
}

#[test]
fn what_cannot_be_read_of_the_tree_before_is_no_reason_to_fail() {
    let (store, other, shape) = (Counted::default(), Counted::default(), tiny());
    let old = built(&other, &shape, &numbered(500, 10));
    let model = numbered(600, 10);
    let tree = build_after(&store, &store, &shape, Some(old), puts(&model)).unwrap();
    assert_eq!(tree, built(&store, &shape, &model));
}
