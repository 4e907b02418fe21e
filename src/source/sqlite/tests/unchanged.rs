//! What is said to be unchanged is unchanged.

use std::thread;
use std::time::Duration;

use super::*;

const MODES: [&str; 2] = ["DELETE", "WAL"];

fn filled(folder: &TempDir, mode: &str) -> PathBuf {
    let rows = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(k TEXT PRIMARY KEY);
                INSERT INTO t(v) VALUES (1), (2), (3); INSERT INTO u VALUES ('k');";
    database(folder, "db", &format!("PRAGMA journal_mode = {mode}; {rows}"))
}

/// Captures after `parent`; says also whether the source could tell that nothing had changed. What
/// it gives is compared with what is there.
fn after(source: &mut Sqlite, parent: &Captured, ctx: &Context) -> (Captured, bool) {
    let captured = testing::capture_since(source, Some(parent), ctx).unwrap().0;
    let token = |captured: &Captured| captured.description.notes.get(POSITION).cloned();
    let unchanged = token(&captured).is_some() && token(&captured) == token(parent);
    let there = capture(&source.path);
    assert_eq!(captured.trees, there.trees, "unchanged: {unchanged}");
    let header = |captured: &Captured| captured.description.header.clone();
    assert_eq!(header(&captured), header(&there));
    (captured, unchanged)
}

#[test]
fn nothing_is_read_where_nothing_changed() {
    for mode in MODES {
        let folder = TempDir::new().unwrap();
        let path = filled(&folder, mode);
        let mut kept = source(&path);
        let (first, puts) = testing::capture_since(&mut kept, None, &later()).unwrap();
        assert_eq!(puts, 4);
        let (second, unchanged) = after(&mut kept, &first, &later());
        assert!(unchanged, "by the connection, {mode}");
        let (_, unchanged) = after(&mut source(&path), &second, &later());
        assert!(unchanged, "by the files, {mode}");
        drop(kept);
        let (_, unchanged) = after(&mut source(&path), &second, &later());
        assert!(unchanged, "by the files when nobody has them open, {mode}");
    }
}

#[test]
fn what_an_application_has_open_is_found_unchanged() {
    let folder = TempDir::new().unwrap();
    let path = filled(&folder, "WAL");
    let mut application = Connection::open(&path, Access::Restore).unwrap();
    application.execute("INSERT INTO t(v) VALUES (4)").unwrap();
    let first = capture(&path);
    assert!(folder.path().join("db-wal").metadata().unwrap().len() > 0);
    let (second, unchanged) = after(&mut source(&path), &first, &later());
    assert!(unchanged);
    application.execute("UPDATE t SET v = 5 WHERE id = 4").unwrap();
    assert!(!after(&mut source(&path), &second, &later()).1);
}

#[test]
fn every_change_is_seen() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 8] = [
        ("a commit", |path| drop(shell(path, "UPDATE t SET v = 9 WHERE id = 1;"))),
        ("a commit that ends in the log", |path| {
            shell(path, ".dbconfig no_ckpt_on_close on\nUPDATE t SET v = 9 WHERE id = 1;");
        }),
        ("a table", |path| drop(shell(path, "CREATE TABLE more(a);"))),
        ("a setting", |path| drop(shell(path, "PRAGMA user_version = 3;"))),
        ("another file", |path| {
            let other = path.with_extension("other");
            drop(shell(path, &format!(".clone {}", other.display())));
            shell(&other, "DELETE FROM u;");
            for suffix in ["", "-wal", "-shm"] {
                drop(fs::remove_file(format!("{}{suffix}", path.display())));
            }
            fs::copy(other, path).unwrap();
        }),
        ("other content in the same file", |path| {
            let other = path.with_extension("other");
            drop(shell(path, &format!(".clone {}", other.display())));
            shell(&other, "DELETE FROM u;");
            fs::copy(other, path).unwrap();
        }),
        ("VACUUM", |path| drop(shell(path, "DELETE FROM t WHERE id = 2; VACUUM;"))),
        ("a commit from elsewhere", |path| {
            let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                          c.execute('INSERT INTO t(v) VALUES (7)'); c.commit()";
            let done = Command::new("python3").args(["-c", script]).arg(path).status().unwrap();
            assert!(done.success());
        }),
    ];
    for (name, change) in changes {
        for mode in MODES {
            if name == "a commit that ends in the log" && mode == "DELETE" {
                continue;
            }
            let folder = TempDir::new().unwrap();
            let path = filled(&folder, mode);
            let (by_files, mut by_connection) = (capture(&path), source(&path));
            let (parent, _) = testing::capture_since(&mut by_connection, None, &later()).unwrap();
            change(&path);
            assert!(!after(&mut source(&path), &by_files, &later()).1, "{name}, {mode}");
            if name != "other content in the same file" {
                assert!(!after(&mut by_connection, &parent, &later()).1, "{name}, {mode}");
            }
        }
    }
}

#[test]
fn tables_that_are_left_out_are_no_part_of_what_was_seen() {
    let folder = TempDir::new().unwrap();
    let path = filled(&folder, "DELETE");
    let all = capture(&path);
    let mut fewer = Sqlite::new("main", path.to_str().unwrap(), vec!["u".to_owned()]).unwrap();
    let (captured, _) = testing::capture_since(&mut fewer, Some(&all), &later()).unwrap();
    assert_eq!(captured.trees.keys().collect::<Vec<_>>(), ["t"]);
}

#[test]
fn writes_within_one_tick_are_told_apart() {
    let folder = TempDir::new().unwrap();
    for mode in MODES {
        let path = filled(&folder, mode);
        let mut last = testing::capture_since(&mut source(&path), None, &Context::new()).unwrap().0;
        for value in 0..5 {
            shell(&path, &format!("UPDATE t SET v = {value};"));
            let (next, unchanged) = after(&mut source(&path), &last, &Context::new());
            assert!(!unchanged);
            // The stamps are new: another write may leave them as they are.
            let (_, unchanged) = after(&mut source(&path), &next, &Context::new());
            assert!(!unchanged);
            last = next;
        }
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_table_that_cannot_be_captured_is_told_every_time() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder, "db", "CREATE TABLE t(rowid, oid, _rowid_);");
    let mut kept = source(&path);
    let (first, _) = testing::capture_since(&mut kept, None, &later()).unwrap();
    let (ctx, recorder) = recorded();
    testing::capture_since(&mut kept, Some(&first), &ctx).unwrap();
    let skipped = |event: &Event| matches!(event, Event::Skipped { .. });
    assert!(recorder.events().iter().any(skipped));
}

#[test]
fn a_writer_at_any_moment_breaks_no_invariant() {
    let folder = TempDir::new().unwrap();
    let path = database(
        &folder,
        "db",
        "PRAGMA journal_mode = WAL; CREATE TABLE a(id INTEGER PRIMARY KEY, n INT);
         CREATE TABLE b(id INTEGER PRIMARY KEY, n INT);
         INSERT INTO a VALUES (1, 1000); INSERT INTO b VALUES (1, 0);",
    );
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut db = Connection::open(&path, Access::Restore).unwrap();
            for commits in 0..600 {
                let more = commits % 90 + 1;
                db.execute(&format!(
                    "BEGIN IMMEDIATE; UPDATE a SET n = n - {more}; UPDATE b SET n = n + {more};
                     COMMIT;"
                ))
                .unwrap();
                // Now and then a pause, in which nothing changes.
                if commits % 40 == 0 {
                    thread::sleep(Duration::from_millis(30));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        let (mut kept, mut last) = (source(&path), Captured::default());
        let mut captures = 0_u64;
        while !done.load(Ordering::Relaxed) {
            let fresh = captures.is_multiple_of(3);
            let mut new = source(&path);
            let by = if fresh { &mut new } else { &mut kept };
            last = testing::capture_since(by, Some(&last), &later()).unwrap().0;
            let n = |table: &str| -> i64 {
                let (_, row) = last.trees[table].values().next().unwrap();
                serde_json::from_slice::<(i64, i64)>(row).unwrap().1
            };
            assert_eq!(n("a") + n("b"), 1000);
            captures += 1;
        }
        writer.join().unwrap();
        assert!(captures > 10, "{captures} captures");
        // A note that told of more than was read would make this the state before.
        after(&mut source(&path), &last, &later());
        after(&mut kept, &last, &later());
    });
}

/// What an application, or someone who looks after it, may do between two captures.
fn deed() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        4 => (0..4_i64, 0..5_i64).prop_map(|(id, v)| format!("INSERT OR REPLACE INTO t VALUES ({id}, {v});")),
        2 => (0..4_i64).prop_map(|id| format!("DELETE FROM t WHERE id = {id};")),
        1 => (0..4_i64).prop_map(|id| format!("BEGIN; DELETE FROM t WHERE id = {id}; ROLLBACK;")),
        1 => Just("PRAGMA wal_checkpoint(PASSIVE);".to_owned()),
        1 => Just("PRAGMA wal_checkpoint(TRUNCATE);".to_owned()),
        1 => Just("VACUUM;".to_owned()),
        1 => prop_oneof![Just("WAL"), Just("DELETE"), Just("TRUNCATE"), Just("PERSIST")]
            .prop_map(|mode| format!("PRAGMA journal_mode = {mode};")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_happens_a_capture_gives_what_is_there(
        steps in prop::collection::vec((deed(), any::<bool>(), any::<bool>()), 1..12),
        mode in prop_oneof![Just("WAL"), Just("DELETE")],
    ) {
        let folder = TempDir::new().unwrap();
        let path = filled(&folder, mode);
        let mut kept = source(&path);
        let mut application = Some(Connection::open(&path, Access::Restore).unwrap());
        let mut last = testing::capture_since(&mut kept, None, &later()).unwrap().0;
        for (deed, by_application, fresh) in steps {
            match &mut application {
                // Changing the mode needs the file for itself.
                Some(db) if by_application && !deed.contains("journal_mode") => db.execute(&deed).unwrap(),
                _ if deed.contains("journal_mode") => {
                    application.take().map(Connection::close).transpose().unwrap();
                    kept = source(&path);
                    shell(&path, &deed);
                }
                _ => drop(shell(&path, &deed)),
            }
            let mut new = source(&path);
            let (captured, unchanged) =
                after(if fresh { &mut new } else { &mut kept }, &last, &later());
            prop_assert!(deed.is_empty() || !unchanged || captured.trees == last.trees);
            last = captured;
        }
    }
}
