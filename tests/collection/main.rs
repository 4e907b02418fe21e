//! Collection, proven: the protocol as a model, and the program itself under the same conditions.
#![expect(clippy::print_stdout, reason = "how much was explored belongs into the output")]
#![expect(clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::struct_excessive_bools, reason = "a state is what happened and what did not")]

mod model;
mod simulation;
mod state;

use std::collections::BTreeSet;

use coeval::backend::Backend as _;
use coeval::context::Context;
use coeval::repo::Writers;
use model::{Break, With, World};
use state::{A, B, C};
use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _};

/// One writer beside two collectors that resume each other's work.
fn two_collectors() -> World {
    World {
        writers: 1,
        collectors: 2,
        rounds: 2,
        wants: [A | C, 0],
        packs: [(A | B, 0), (0, 0)],
        snapshots: [A, B],
        with: With::default(),
        broken: Break::Nothing,
    }
}

/// Two writers beside a collector, one of which takes over from a snapshot that may be forgotten.
fn two_writers() -> World {
    let with = With { parent: true, late: true, ..With::default() };
    World { writers: 2, collectors: 1, wants: [A, A | C], with, ..two_collectors() }
}

/// A writer, a collector, compaction of the index, and a reader.
fn compaction() -> World {
    let with = With { compaction: true, reader: true, late: true, ..With::default() };
    World { collectors: 1, with, ..two_collectors() }
}

/// A snapshot that cannot be read at times, beside a writer and two collectors.
fn unreadable() -> World {
    World { with: With { damage: true, ..With::default() }, ..two_collectors() }
}

/// Collections of which nobody can read any more what they removed, beside writers that come later.
fn replaced() -> World {
    let with = With { replace: true, late: true, ..With::default() };
    World { writers: 2, collectors: 1, wants: [A, A | C], with, ..two_collectors() }
}

/// Chunks that are stored as differences to each other.
fn differences() -> World {
    let with = With { delta: true, ..With::default() };
    World {
        writers: 2,
        collectors: 1,
        wants: [B, C],
        packs: [(B, 0), (0, C)],
        snapshots: [C, 0],
        with,
        ..two_collectors()
    }
}

/// Explores a world, up to so many states, and says how much was seen. The properties that say that
/// something can happen hold too: what never happens proves nothing.
fn holds(name: &str, world: &World, most: usize) {
    let most = most * scale();
    let checker = world.clone().checker().threads(2).target_state_count(most).spawn_bfs().join();
    let complete = if checker.state_count() < most { "all" } else { "the first" };
    let states = checker.unique_state_count();
    println!("{name}: {complete} {states} states, up to {} steps", checker.max_depth());
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        let always = property.expectation == Expectation::Always;
        println!("  {} {}", if always { "always:" } else { "sometimes:" }, property.name);
        match found {
            Some(path) if always => {
                panic!("{name}: not {}: {:#?}", property.name, path.into_actions())
            }
            None if !always => panic!("{name}: never {}", property.name),
            _ => {}
        }
    }
}

/// How much more than usual is explored.
#[expect(clippy::disallowed_methods, reason = "a test that runs for longer when it is told to")]
fn scale() -> usize {
    std::env::var("COEVAL_MODEL_SCALE").map_or(1, |scale| scale.parse().expect("a number"))
}

/// What goes wrong when a rule is broken.
fn breaks(world: &World, broken: Break) {
    let world = World { broken, ..world.clone() };
    let failures = HasDiscoveries::AnyFailures;
    let checker = world.checker().threads(2).finish_when(failures).spawn_bfs().join();
    let failed = checker.model().properties().into_iter().find_map(|property| {
        let path = checker.discovery(property.name)?;
        (property.expectation == Expectation::Always).then_some((property.name, path))
    });
    let states = checker.unique_state_count();
    let (property, path) =
        failed.unwrap_or_else(|| panic!("{broken:?} is not noticed in {states} states"));
    let steps = path.into_actions().len();
    println!("{broken:?}: not {property:?} after {steps} steps, one of {states} states");
}

#[test]
fn one_writer_beside_two_collectors_loses_nothing() {
    holds("two collectors", &two_collectors(), 2_000_000);
}

#[test]
fn two_writers_beside_a_collector_lose_nothing() {
    holds("two writers", &two_writers(), 2_000_000);
}

#[test]
fn compaction_and_readers_lose_nothing() {
    holds("compaction", &compaction(), 2_000_000);
}

#[test]
fn differences_keep_their_bases() {
    holds("differences", &differences(), 2_000_000);
}

#[test]
fn a_snapshot_that_cannot_be_read_at_times_loses_nothing_and_is_got_rid_of() {
    holds("unreadable", &unreadable(), 2_000_000);
}

#[test]
fn replaced_collections_lose_nothing() {
    holds("replaced", &replaced(), 2_000_000);
}

/// What is too much to explore is gone through at random, from the beginning to the end, or as far
/// as it takes all others to end: a snapshot may be unreadable and readable again for ever.
#[test]
fn everything_at_once_loses_nothing_at_random() {
    const STEPS: usize = 400;
    let with = With {
        parent: true,
        delta: true,
        late: true,
        compaction: true,
        reader: true,
        damage: true,
        replace: true,
    };
    let packs = [(A | B, 0), (0, C)];
    let (wants, snapshots) = ([A | B, C], [A | C, B]);
    let world = World { collectors: 2, wants, packs, snapshots, with, ..differences() };
    let (mut random, mut steps) = (0, 0);
    let (mut actions, mut taken) = (Vec::new(), Vec::new());
    let properties = world.properties();
    for _ in 0..10_000 * scale() {
        let mut state = world.init_states().remove(0);
        taken.clear();
        while taken.len() < STEPS {
            actions.clear();
            world.actions(&state, &mut actions);
            let next = std::iter::repeat_with(|| {
                let action = (!actions.is_empty()).then(|| pick(&mut actions, &mut random))?;
                Some((action, world.next_state(&state, action)))
            });
            let Some((action, next)) = next.map_while(|next| next).find(|(_, n)| n.is_some())
            else {
                break;
            };
            taken.push(action);
            state = next.expect("found");
            steps += 1;
            for property in properties.iter().filter(|p| p.expectation == Expectation::Always) {
                assert!((property.condition)(&world, &state), "{}: {taken:#?}", property.name);
            }
        }
    }
    println!("at random: {steps} steps");
}

/// Takes out one at random, by the generator of Steele, Lea and Flood (SplitMix64, 2014).
fn pick<T: Copy>(from: &mut Vec<T>, random: &mut u64) -> T {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let count = u64::try_from(from.len()).expect("few");
    from.swap_remove(usize::try_from((z ^ (z >> 31)) % count).expect("few"))
}

#[test]
fn every_broken_rule_is_noticed() {
    let simple = World { collectors: 1, rounds: 1, ..two_collectors() };
    let parent = World { writers: 1, rounds: 1, ..two_writers() };
    let late = World { writers: 1, wants: [C, 0], ..two_writers() };
    let compaction = World { rounds: 1, ..compaction() };
    let one_round = World { rounds: 1, ..differences() };
    let damage = World { with: With { damage: true, ..With::default() }, ..simple.clone() };
    for (world, broken) in [
        (&replaced(), Break::OldViews),
        (&replaced(), Break::ReplaceBesideWriters),
        (&replaced(), Break::ReplaceBesideCollector),
        (&damage, Break::UnreadableNeedsNothing),
        (&damage, Break::ForgottenNeedsNothing),
        (&simple, Break::ListBeforeSession),
        (&simple, Break::DedupAgainstCondemned),
        (&simple, Break::NoWaiting),
        (&simple, Break::CommitOverwrites),
        (&simple, Break::NoConfirmation),
        (&simple, Break::MarkSessionsFirst),
        (&simple, Break::NoCopy),
        (&simple, Break::HeldByCondemned),
        (&simple, Break::TombstoneFirst),
        (&simple, Break::DeleteBeforePublish),
        (&late, Break::SnapshotBeforeSession),
        (&parent, Break::AnyParent),
        (&compaction, Break::CompactUnfinished),
        (&compaction, Break::CompactDeletesFirst),
        (&compaction, Break::ReadSessionsFirst),
        (&differences(), Break::DedupWithoutBase),
        (&differences(), Break::HeldWithoutBase),
        (&one_round, Break::NoPin),
    ] {
        breaks(world, broken);
    }
}

/// Nobody needs the bases themselves.
#[test]
fn differences_outlive_the_snapshots_of_their_bases() {
    let world = simulation::World::new();
    let (_cache, repo) = world.open_plainly();
    let first = world.write(&repo, &[4, 8, 12]).expect("it commits");
    world.write(&repo, &[5, 9, 13, 100]).expect("it commits");
    world.forget(&repo, first).expect("forgotten");
    let second = world.write(&repo, &[6, 10, 14, 100]).expect("it commits");
    assert_eq!(world.assert_whole("before"), 6);
    simulation::collect(&repo).expect("a collection");
    assert_eq!(world.assert_whole("collected"), 6);
    world.forget(&repo, second).expect("forgotten");
    let done = simulation::collect(&repo).expect("a collection");
    assert!(done.deleted > 0, "{done:?}");
    assert_eq!(world.assert_whole("collected again"), 3);
}

#[test]
fn repairing_any_pack_keeps_differences_and_their_bases() {
    let world = simulation::World::new();
    let (_cache, repo) = world.open_plainly();
    world.write(&repo, &[4, 8, 12]).expect("it commits");
    world.write(&repo, &[5, 9, 13]).expect("it commits");
    for entry in world.store.list("packs/").expect("packs") {
        let (_, id) = entry.name.rsplit_once('/').expect("a name");
        let packs = BTreeSet::from([id.parse().expect("an id")]);
        let done = repo.repair_packs(&packs, Writers::GiveUp, &Context::new()).expect("repaired");
        assert_eq!((done.packs, done.lost, done.findings.len()), (1, 0, 0), "{done:?}");
        assert_eq!(world.assert_whole(id), 3);
    }
}

#[test]
fn a_collection_that_dies_at_any_call_loses_nothing_and_is_finished_by_the_next() {
    let (calls, happened) = simulation::dies_at_every_call();
    println!("died at each of {calls} calls: {happened:?}");
    assert!(calls > 40 && happened.deleted > 0 && happened.copied > 0);
    assert!(happened.differences > 0);
}

#[test]
fn a_collection_that_nobody_can_read_any_more_is_replaced_and_nothing_is_lost() {
    let replaced = simulation::is_lost_after_every_call();
    println!("replaced after each of {replaced} calls");
    assert!(replaced > 20);
}

/// `COEVAL_SCHEDULES=100000` for as many as a release deserves.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test that runs for longer when it is told to")]
fn writers_and_collectors_in_any_order_lose_nothing() {
    let count = std::env::var("COEVAL_SCHEDULES").map_or(100, |n| n.parse().expect("a number"));
    let mut happened = simulation::Happened::default();
    for seed in 0..count {
        happened.add(simulation::schedule(seed));
    }
    println!("{count} schedules: {happened:?}");
    assert!(happened.committed > 0 && happened.failed > 0 && happened.given_up > 0);
    assert!(happened.collected > 0 && happened.deleted > 0 && happened.copied > 0);
    assert!(happened.differences > 0);
}
