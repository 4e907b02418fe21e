//! Trees beside each other, and places within one.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_a_tree_needs_follows_from_what_the_one_before_needs(
        before in prop::option::weighted(0.9, model()),
        edit in edits(),
        fresh in prop::option::weighted(0.2, model()),
    ) {
        let (store, shape) = (Counted::default(), tiny());
        let mut after = fresh.or_else(|| before.clone()).unwrap_or_default();
        let edit = flatten(edit, &after);
        apply(&mut after, &edit);
        let old = before.as_ref().map(|before| built(&store, &shape, before));
        let new = built(&store, &shape, &after);
        let (mut chunks, mut bytes) = (BTreeMap::<ChunkId, i64>::new(), 0_i128);
        for id in old.map(|old| needed(&store, old)).unwrap_or_default() {
            *chunks.entry(id).or_default() += 1;
        }
        for (_, content) in before.iter().flat_map(BTreeMap::values) {
            bytes += content.len() as i128;
        }
        compare(&store, old, Some(new), &mut |side, part| {
            let sign = if side == Side::New { 1 } else { -1 };
            match part {
                Part::Chunk(id) => *chunks.entry(id).or_default() += sign,
                Part::Entry { length, .. } => bytes += i128::from(sign) * i128::from(length),
            }
            Ok(())
        })
        .unwrap();
        chunks.retain(|_, count| *count != 0);
        let mut expected = BTreeMap::<ChunkId, i64>::new();
        for id in needed(&store, new) {
            *expected.entry(id).or_default() += 1;
        }
        prop_assert_eq!(chunks, expected);
        prop_assert_eq!(bytes, after.values().map(|(_, content)| content.len() as i128).sum::<i128>());
    }

    #[test]
    fn differences_below_a_key_are_those_of_all_that_begin_with_it(
        before in model(),
        edit in edits(),
        prefix in key(),
    ) {
        let (store, shape) = (Counted::default(), tiny());
        let mut after = before.clone();
        apply(&mut after, &flatten(edit, &before));
        let (a, b) = (built(&store, &shape, &before), built(&store, &shape, &after));
        let keys = |differences: Differences<'_>| -> Vec<Key> {
            differences.map(|difference| difference.unwrap().key).collect()
        };
        let mut expected = keys(differences(&store, Some(a), Some(b)));
        expected.retain(|key| key.starts_with(&prefix));
        prop_assert_eq!(keys(differences_below(&store, Some(a), Some(b), &prefix)), expected);
    }

    #[test]
    fn each_entry_has_a_number_and_each_number_an_entry(model in model(), absent in key()) {
        let (store, shape) = (Counted::default(), tiny());
        let tree = built(&store, &shape, &model);
        for (number, (key, content)) in (0..).zip(&model) {
            let (found, value) = place(&store, tree, key).unwrap().unwrap();
            prop_assert_eq!((found, &whole(&store, (vec![], value)).1), (number, content));
            let (found, value) = nth(&store, tree, number).unwrap().unwrap();
            prop_assert_eq!((&found, &whole(&store, (vec![], value)).1), (key, content));
        }
        let below = model.range(..absent.clone()).count() as u64;
        prop_assert_eq!(rank(&store, tree, &absent).unwrap(), below);
        prop_assert!(nth(&store, tree, model.len() as u64).unwrap().is_none());
        prop_assert_eq!(
            place(&store, tree, &absent).unwrap().is_some(),
            model.contains_key(&absent)
        );
    }
}

/// Every chunk that a tree needs, as often as it needs it.
fn needed(store: &Counted, tree: Tree) -> Vec<ChunkId> {
    let Seen { nodes, chunks, .. } = Seen::of(store, tree);
    nodes.into_iter().chain(chunks.into_iter().map(|(id, _)| id)).collect()
}

#[test]
fn comparing_a_folder_reads_nothing_of_the_others() {
    let (store, shape) = (Counted::default(), usual());
    let model = numbered(20_000, 40);
    let tree = built(&store, &shape, &model);
    let edit = model.keys().step_by(50).map(|key| (key.clone(), None)).collect();
    let edited = edit_(&store, &shape, tree, as_changes(&edit));
    store.counts();
    let prefix = model.keys().nth(10_000).unwrap();
    assert_eq!(differences_below(&store, Some(tree), Some(edited), prefix).count(), 1);
    let (reads, _) = store.counts();
    assert!(reads <= 10, "{reads} nodes were read");
}
