//! What every backend promises, as one suite that each of them runs.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Backend, BackendErrorKind, Created, Deleted, Entry, probe};

/// Tries every promise, each on an empty store.
pub(super) fn run<B: Backend>(make: &dyn Fn() -> B) {
    an_object_reads_back_as_created(&make());
    the_first_create_wins(&make());
    of_many_creators_exactly_one_is_told_new(&make());
    ranges_are_exact_or_refused(&make());
    a_listing_is_complete_sorted_and_recursive(&make());
    deleting_is_final_and_says_what_it_found(&make());
    hostile_names_are_refused_by_every_verb(&make());
    nothing_is_visible_before_it_is_complete(&make());
    probe(&make()).unwrap();
}

fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

fn an_object_reads_back_as_created(store: &dyn Backend) {
    assert!(store.get("config").unwrap_err().is_not_found());
    assert!(store.get_range("config", 0..1).unwrap_err().is_not_found());
    let big: Vec<u8> = (0..70_u32 << 18).flat_map(u32::to_le_bytes).collect();
    for (name, data) in [("config", &b"small"[..]), ("packs/ab/empty", b""), ("big", &big)] {
        assert_eq!(store.create(name, data).unwrap(), Created::New);
        assert!(store.get(name).unwrap() == data, "{name}");
    }
    assert!(store.get_range("big", 60 << 20..70 << 20).unwrap() == big[60 << 20..]);
}

fn the_first_create_wins(store: &dyn Backend) {
    assert_eq!(store.create("snapshots/a", b"first").unwrap(), Created::New);
    assert_eq!(store.create("snapshots/a", b"second").unwrap(), Created::Existed);
    assert_eq!(store.create("snapshots/a", b"first").unwrap(), Created::Existed);
    assert_eq!(store.get("snapshots/a").unwrap().as_ref(), b"first");
    assert_eq!(store.list("").unwrap().len(), 1);
}

fn of_many_creators_exactly_one_is_told_new(store: &dyn Backend) {
    const THREADS: u8 = 8;
    let barrier = Barrier::new(THREADS.into());
    for round in 0..12 {
        let name = format!("sessions/{round}");
        let winners: Vec<u8> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|me| {
                    let (name, barrier) = (&name, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let created = store.create(name, &[me; 4096]).unwrap();
                        // Winner or not: the object is there, and is the winner's for everyone.
                        assert_eq!(store.get(name).unwrap().len(), 4096);
                        (created == Created::New).then_some(me)
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(store.get(&name).unwrap().as_ref(), [winners[0]; 4096]);
    }
}

fn ranges_are_exact_or_refused(store: &dyn Backend) {
    store.create("a", b"0123456789").unwrap();
    store.create("empty", b"").unwrap();
    for (range, expected) in
        [(0..10, "0123456789"), (0..0, ""), (3..5, "34"), (9..10, "9"), (10..10, "")]
    {
        assert_eq!(store.get_range("a", range).unwrap().as_ref(), expected.as_bytes());
    }
    assert_eq!(store.get_range("empty", 0..0).unwrap().len(), 0);
    for range in [0..11, 10..11, 11..11, 5..u64::MAX, u64::MAX - 1..u64::MAX] {
        let error = store.get_range("a", range.clone()).unwrap_err();
        assert_eq!(error.cause(), BackendErrorKind::Damaged, "{range:?}");
    }
}

fn a_listing_is_complete_sorted_and_recursive(store: &dyn Backend) {
    for folder in ["", "packs/", "packs/ab/", "never/"] {
        assert_eq!(store.list(folder).unwrap(), []);
    }
    let objects = ["packs/ab/s-1", "config", "packs/ab/s-0", "packs-not", "packs/00/x", "packs.d"];
    for (size, name) in objects.iter().enumerate() {
        store.create(name, &vec![0; size]).unwrap();
    }
    let packs = store.list("packs/").unwrap();
    assert_eq!(names(&packs), ["packs/00/x", "packs/ab/s-0", "packs/ab/s-1"]);
    assert_eq!(packs.iter().map(|entry| entry.size).collect::<Vec<_>>(), [4, 2, 0]);
    assert_eq!(names(&store.list("packs/ab/").unwrap()), ["packs/ab/s-0", "packs/ab/s-1"]);
    assert_eq!(store.list("config/").unwrap(), []);
    let mut all = objects.to_vec();
    all.sort_unstable();
    assert_eq!(names(&store.list("").unwrap()), all);
}

fn deleting_is_final_and_says_what_it_found(store: &dyn Backend) {
    assert_eq!(store.delete("gc/1").unwrap(), Deleted::Absent);
    store.create("gc/1", b"x").unwrap();
    store.create("gc/2", b"x").unwrap();
    assert_eq!(store.delete("gc/1").unwrap(), Deleted::Gone);
    assert_eq!(store.delete("gc/1").unwrap(), Deleted::Absent);
    assert!(store.get("gc/1").unwrap_err().is_not_found());
    assert_eq!(names(&store.list("gc/").unwrap()), ["gc/2"]);
    assert_eq!(store.create("gc/1", b"again").unwrap(), Created::New);
}

fn hostile_names_are_refused_by_every_verb(store: &dyn Backend) {
    let long = "x".repeat(201);
    let hostile = [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a/.",
        ".tmp-1",
        "a/.hidden",
        "a\\b",
        "a b",
        "a\0b",
        "a\nb",
        "A",
        "ä",
        "c:",
        &long,
    ];
    for name in hostile {
        let causes = [
            store.create(name, b"x").unwrap_err().cause(),
            store.get(name).unwrap_err().cause(),
            store.get_range(name, 0..1).unwrap_err().cause(),
            store.delete(name).unwrap_err().cause(),
        ];
        assert_eq!(causes, [BackendErrorKind::BadName; 4], "{name:?}");
    }
    for folder in ["/", "../", "a", "a//", "./", "a/../"] {
        let cause = store.list(folder).unwrap_err().cause();
        assert_eq!(cause, BackendErrorKind::BadName, "{folder:?}");
    }
    assert_eq!(store.list("").unwrap(), []);
}

fn nothing_is_visible_before_it_is_complete(store: &dyn Backend) {
    const SIZE: usize = 4 << 20;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) || looks == 0 {
                for entry in store.list("packs/").unwrap() {
                    assert_eq!(entry.size, SIZE as u64, "{}", entry.name);
                    assert_eq!(store.get(&entry.name).unwrap().len(), SIZE);
                }
                if let Ok(bytes) = store.get("packs/ab/5") {
                    assert_eq!(bytes.len(), SIZE);
                }
                looks += 1;
            }
        });
        for number in 0..6 {
            store.create(&format!("packs/ab/{number}"), &vec![7; SIZE]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(store.list("packs/").unwrap().len(), 6);
}
