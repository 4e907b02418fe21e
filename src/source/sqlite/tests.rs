use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::hint::{ErrorKind, Hint as _};
use crate::source::record::{DatabaseHeader, TableHeader};
use crate::source::testing::{self, Captured, Difference, Tree, apply, later, recorded};
use crate::source::{Applied, Target};

mod unchanged;

/// Everything that has bitten someone.
const SCHEMA: &str = r#"
PRAGMA user_version = 7; PRAGMA application_id = 42;
CREATE TABLE users (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE COLLATE NOCASE, balance REAL,
  data BLOB, boss INTEGER REFERENCES users(id) ON DELETE CASCADE,
  shout TEXT GENERATED ALWAYS AS (upper(name)) VIRTUAL, kept TEXT AS (name || '!') STORED
);
CREATE TABLE log (at TEXT, what);
CREATE TRIGGER users_log AFTER INSERT ON users BEGIN
  INSERT INTO log VALUES (CASE WHEN 1 THEN 'now' END, new.name); SELECT 1;
END;
CREATE INDEX users_rich ON users(balance) WHERE balance > 10;
CREATE TRIGGER users_gone AFTER DELETE ON users BEGIN DELETE FROM log WHERE what = old.name; END;
CREATE TABLE code (code TEXT PRIMARY KEY, "strange ""name" ANY, "order" INT);
CREATE TABLE pair (a INTEGER, b TEXT, c, PRIMARY KEY (b, a)) WITHOUT ROWID;
CREATE TABLE bag (x, y);
CREATE TABLE "rowid" (rowid TEXT, oid INT, n NUMERIC);
CREATE TABLE odd (k BLOB PRIMARY KEY);
CREATE TABLE nullkey (k TEXT PRIMARY KEY, v);
CREATE TABLE strict (id INTEGER PRIMARY KEY, i INT, a ANY) STRICT;
CREATE VIEW rich AS SELECT name FROM users WHERE balance > 10;
CREATE TRIGGER rich_in INSTEAD OF INSERT ON rich BEGIN
  INSERT INTO users(name, balance) VALUES (new.name, 100);
END;
CREATE UNIQUE INDEX code_expr ON code(lower(code), "order");
CREATE VIRTUAL TABLE docs USING fts5(title, body);
CREATE VIRTUAL TABLE names USING fts5(name, content='users', content_rowid='id');
CREATE VIRTUAL TABLE words USING fts5(body, content='');
CREATE VIRTUAL TABLE mail USING fts4(body);
CREATE VIRTUAL TABLE places USING rtree(id, west, east, south, north, +label);
CREATE TABLE totals (
  k TEXT PRIMARY KEY, a INT, b INT, c INT AS (a + b) STORED, d INT AS (a * b) VIRTUAL UNIQUE
) STRICT, WITHOUT ROWID;
"#;

const ROWS: &str = r#"
INSERT INTO users(name, balance, data, boss) VALUES
 ('ada', 0.1, x'00ff', NULL), ('Bob', -1e308, zeroblob(3), 1), ('', 9e999, x'', 2),
 ('a' || char(0) || 'b', -9e999, NULL, 1), (CAST(x'ff41fe' AS TEXT), 12.5, 'text', 1);
DELETE FROM users WHERE name = '';
INSERT INTO code VALUES ('b', 9223372036854775807, -9223372036854775808), ('ä', 1.5, 1),
 ('a', x'00', NULL), ('', 'é"\' || char(10, 9, 31), 5), ('a' || char(0), 0.30000000000000004, 2);
INSERT INTO pair VALUES (2, 'x', 1), (10, 'x', NULL), (-1, 'x', 2.5), (1, '', 'y'), (1.5, 'x', 0);
INSERT INTO bag VALUES (1, 2), (1, 2), (NULL, NULL), ('1', 1.0), (1, 2);
DELETE FROM bag WHERE rowid = 2;
INSERT INTO "rowid" VALUES ('r', 1, '1e3'), (NULL, 2, 12345678901234567890);
INSERT INTO odd VALUES (x'01'), (1), (1.5), ('1'), (x''), (-7);
INSERT INTO nullkey VALUES (NULL, 1), (NULL, 2), ('k', 3);
INSERT INTO strict VALUES (-5, 1, '5'), (9223372036854775807, NULL, 1e15);
INSERT INTO docs VALUES ('one', 'the quick brown fox'), ('two', 'jumps over');
INSERT INTO names(rowid, name) SELECT id, name FROM users WHERE name = 'ada';
INSERT INTO words(rowid, body) VALUES (5, 'forgotten at once');
INSERT INTO mail VALUES ('dear reader');
INSERT INTO places VALUES (1, 0, 1.5, -2, 3, 'here'), (7, -9, -8, 0, 0, NULL);
INSERT INTO totals VALUES ('x', 3, 4), ('', -1, 5), ('a' || char(0), 1, 1);
"#;

/// What the virtual tables find, and what it is.
const SEARCHES: &str = "
SELECT title FROM docs WHERE docs MATCH 'fox'; SELECT rowid FROM names WHERE names MATCH 'ada';
SELECT rowid FROM words WHERE words MATCH 'once'; SELECT body FROM mail WHERE mail MATCH 'dear';
SELECT id, label FROM places WHERE west >= -1; SELECT k, c, d FROM totals WHERE d = 12;
";
const FOUND: &str = "one\n1\n5\ndear reader\n1|here\nx|7|12\n";

/// Runs the stock shell. Fails where it is not installed: then nothing here would be proved.
fn shell(path: &Path, script: &str) -> String {
    let mut child = Command::new("sqlite3")
        .arg("-bail")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test needs the sqlite3 shell");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn dump(path: &Path) -> String {
    shell(path, ".dump\nPRAGMA user_version; PRAGMA application_id;")
}

fn database(folder: &TempDir, name: &str, script: &str) -> PathBuf {
    let path = folder.path().join(name);
    shell(&path, script);
    path
}

fn source(path: &Path) -> Sqlite {
    Sqlite::new("main", &format!("sqlite://{}", path.display()), Vec::new()).unwrap()
}

fn capture(path: &Path) -> Captured {
    testing::capture_since(&mut source(path), None, &later()).unwrap().0
}

fn restore(path: &Path, wanted: &Captured) -> Applied {
    let mut target = SqliteTarget::new(source(path));
    let applied = apply(&mut target, wanted, &later()).unwrap();
    // As the engine does: look again before the commit.
    let (seen, _) = testing::capture_since(target.as_source(), None, &later()).unwrap();
    assert_eq!(seen.trees, wanted.trees);
    target.commit().unwrap();
    applied
}

#[test]
fn a_wrecked_database_is_restored_to_the_same_dump() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder, "db", &format!("{SCHEMA}{ROWS}"));
    let (before, wanted) = (dump(&path), capture(&path));
    shell(
        &path,
        "UPDATE users SET name = 'x' || id; INSERT INTO users(name) VALUES ('new');
         DELETE FROM users WHERE id = 1; DELETE FROM pair WHERE a = 2; DELETE FROM bag;
         INSERT INTO bag VALUES (3, 4); UPDATE code SET \"order\" = 77; DELETE FROM nullkey WHERE v = 1;
         INSERT INTO odd VALUES (2.5); DELETE FROM odd WHERE k = 1; DELETE FROM docs;
         DELETE FROM mail; UPDATE places SET east = 99; DELETE FROM totals WHERE k = 'x';
         PRAGMA user_version = 8;",
    );
    assert_ne!(dump(&path), before);
    let applied = restore(&path, &wanted);
    assert_eq!(dump(&path), before);
    assert!(applied.inserted > 0 && applied.updated > 0 && applied.deleted > 0, "{applied:?}");
    assert_eq!(shell(&path, SEARCHES), FOUND);
    assert_eq!(shell(&path, "PRAGMA integrity_check;"), "ok\n");
    assert_eq!(restore(&path, &wanted), Applied::default());
}

#[test]
fn a_wrecked_structure_is_made_anew() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder, "db", &format!("{SCHEMA}{ROWS}"));
    let (before, wanted) = (dump(&path), capture(&path));
    shell(
        &path,
        "DROP TABLE users; DROP VIEW rich; CREATE TABLE extra(a); ALTER TABLE bag ADD COLUMN z;
         DROP TABLE docs; CREATE VIEW v AS SELECT 1; DROP TABLE totals; DROP TABLE places;",
    );
    restore(&path, &wanted);
    assert_eq!(dump(&path), before);
    assert_eq!(shell(&path, SEARCHES), FOUND);
}

#[test]
fn a_key_that_holds_null_is_no_key() {
    let folder = TempDir::new().unwrap();
    let script =
        "CREATE TABLE t(k TEXT PRIMARY KEY, v); INSERT INTO t VALUES (NULL, 1), (NULL, 2);";
    let path = database(&folder, "db", script);
    let (before, wanted) = (dump(&path), capture(&path));
    let header = TableHeader::from_json(&wanted.description.trees[0].header).unwrap();
    assert_eq!(header.key_kind, KeyKind::Rowid);
    shell(&path, "DELETE FROM t; INSERT INTO t VALUES ('x', 1);");
    restore(&path, &wanted);
    assert_eq!(dump(&path), before);
}

#[test]
fn a_missing_file_is_made_like_the_one_captured() {
    let folder = TempDir::new().unwrap();
    let settings = "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL;";
    let path = database(&folder, "db", &format!("{settings}{SCHEMA}{ROWS}"));
    let wanted = capture(&path);
    let copy = folder.path().join("copy");
    restore(&copy, &wanted);
    assert_eq!(dump(&copy), dump(&path));
    assert_eq!(shell(&copy, "PRAGMA page_size; PRAGMA journal_mode;"), "8192\nwal\n");
    assert_eq!(capture(&copy).trees, wanted.trees);
}

#[test]
fn text_in_utf_16_comes_back() {
    let folder = TempDir::new().unwrap();
    let script = "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(k TEXT PRIMARY KEY, v);
                  INSERT INTO t VALUES ('ä€😀', 'x'), ('', char(0)), ('z', x'00ff');";
    let path = database(&folder, "db", script);
    let wanted = capture(&path);
    let row = &wanted.trees["t"].values().last().unwrap().1;
    assert_eq!(String::from_utf8_lossy(row), "[\"ä€😀\",\"x\",1]");
    let copy = folder.path().join("copy");
    restore(&copy, &wanted);
    assert_eq!(dump(&copy), dump(&path));
    assert_eq!(shell(&copy, "PRAGMA encoding;"), "UTF-16le\n");
}

#[test]
fn each_value_keeps_its_storage_class() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder, "db", &format!("{SCHEMA}{ROWS}"));
    let captured = capture(&path);
    let rows = |table: &str| -> Vec<String> {
        let tree = &captured.trees[table];
        tree.values().map(|(_, row)| String::from_utf8(row.clone()).unwrap()).collect()
    };
    assert_eq!(
        rows("users"),
        [
            r#"[1,"ada",{"r":"0.1"},{"b":"AP8="},null]"#,
            r#"[2,"Bob",{"r":"-1e308"},{"b":"AAAA"},1]"#,
            r#"[4,{"t":"YQBi"},{"r":"-inf"},null,1]"#,
            r#"[5,{"t":"/0H+"},{"r":"12.5"},"text",1]"#,
        ]
    );
    assert_eq!(rows("bag"), ["[1,2]", "[null,null]", r#"["1",{"r":"1.0"}]"#, "[1,2]"]);
    // The row number follows the columns where it is not the key.
    assert_eq!(rows("odd")[0], "[-7,6]");
    let odd = captured.description.trees.iter().find(|tree| tree.name == "odd").unwrap();
    let header = TableHeader::from_json(&odd.header).unwrap();
    assert_eq!(header.columns.last().unwrap().type_oid_name, "rowid");
    let header = DatabaseHeader::from_json(&captured.description.header).unwrap();
    assert_eq!((header.sequences[0].name.as_str(), header.sequences[0].last_value), ("users", 5));
}

#[test]
fn an_application_goes_on_reading_and_writing_during_a_capture() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder, "db", "PRAGMA journal_mode = WAL; CREATE TABLE t(a);");
    let ctx = later();
    let mut source = source(&path);
    let description = source.begin(None, &ctx).unwrap();
    shell(&path, "INSERT INTO t VALUES (1);");
    let Delta::Everything(mut rows) = source.changes(&description.trees[0], None, &ctx).unwrap()
    else {
        panic!("SQLite cannot tell what changed");
    };
    assert!(rows.next().is_none(), "not of one instant");
    drop(rows);
    source.end().unwrap();
    assert_eq!(capture(&path).trees["t"].len(), 1);
}

#[test]
fn readers_never_wait_for_a_restore() {
    let folder = TempDir::new().unwrap();
    let script = format!("PRAGMA journal_mode = WAL; {SCHEMA}{ROWS}");
    let path = database(&folder, "db", &script);
    let wanted = capture(&path);
    shell(&path, "DELETE FROM bag;");
    let mut target = SqliteTarget::new(source(&path));
    apply(&mut target, &wanted, &later()).unwrap();
    // `-bail` and no busy timeout: a lock would be an error at once.
    assert_eq!(shell(&path, "SELECT count(*) FROM bag;"), "0\n");
    target.commit().unwrap();
    assert_eq!(shell(&path, "SELECT count(*) FROM bag;"), "4\n");
}

#[test]
fn without_a_log_readers_wait_only_for_the_commit() {
    let folder = TempDir::new().unwrap();
    // More pages than the cache holds by default.
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)";
    let path = database(
        &folder,
        "db",
        &format!(
            "PRAGMA journal_mode = DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY, v);
             {rows} INSERT INTO t SELECT i, hex(zeroblob(500)) FROM n;"
        ),
    );
    let wanted = capture(&path);
    shell(&path, "UPDATE t SET v = 'new' || v;");
    let mut target = SqliteTarget::new(source(&path));
    apply(&mut target, &wanted, &later()).unwrap();
    assert_eq!(shell(&path, "SELECT substr(v, 1, 3) FROM t WHERE id = 6000;"), "new\n");
    target.commit().unwrap();
    assert_eq!(shell(&path, "SELECT substr(v, 1, 3) FROM t WHERE id = 6000;"), "000\n");
}

#[test]
fn a_reader_misses_nothing_during_a_restore() {
    let folder = TempDir::new().unwrap();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)";
    let path = database(
        &folder,
        "db",
        &format!(
            "PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v);
             {rows} INSERT INTO t SELECT i, 'old' FROM n;"
        ),
    );
    let wanted = capture(&path);
    shell(&path, "UPDATE t SET v = 'new'; DELETE FROM t WHERE id % 7 = 3;");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut db = Connection::open(&path, Access::Read).unwrap();
            db.execute("PRAGMA busy_timeout = 0").unwrap();
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                // One statement, one state: a row that is always there, and how many there are.
                let row = db.rows("SELECT (SELECT v FROM t WHERE id = 1), count(*) FROM t", &[]);
                let row = row.unwrap().remove(0);
                seen.push((row.text(0), row.integer(1)));
            }
            seen
        });
        restore(&path, &wanted);
        done.store(true, Ordering::Relaxed);
        let seen = reader.join().unwrap();
        let (before, after) = (("new".to_owned(), 4286), ("old".to_owned(), 5000));
        assert!(seen.contains(&before), "{seen:?}");
        assert!(seen.iter().all(|state| *state == before || *state == after), "{seen:?}");
    });
}

#[test]
fn a_restore_that_is_taken_back_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder, "db", &format!("{SCHEMA}{ROWS}"));
    let wanted = capture(&path);
    shell(&path, "DELETE FROM bag; ALTER TABLE code ADD COLUMN z;");
    let before = dump(&path);
    let mut target = SqliteTarget::new(source(&path));
    apply(&mut target, &wanted, &later()).unwrap();
    target.rollback().unwrap();
    assert_eq!(dump(&path), before);

    let copy = folder.path().join("copy");
    let mut target = SqliteTarget::new(source(&copy));
    apply(&mut target, &wanted, &later()).unwrap();
    target.rollback().unwrap();
    assert!(!copy.exists());
}

#[test]
fn rows_that_exchange_unique_values_do_not_collide() {
    let folder = TempDir::new().unwrap();
    let script = "CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT UNIQUE);
                  CREATE TABLE k(k TEXT PRIMARY KEY);
                  INSERT INTO t VALUES (1, 'a'), (2, 'b'); INSERT INTO k VALUES ('a'), ('b');";
    let path = database(&folder, "db", script);
    let (before, wanted) = (dump(&path), capture(&path));
    shell(
        &path,
        "DELETE FROM t; INSERT INTO t VALUES (1, 'b'), (2, 'a');
         DELETE FROM k; INSERT INTO k VALUES ('b'), ('a');",
    );
    let applied = restore(&path, &wanted);
    assert_eq!((applied.inserted, applied.updated, applied.deleted), (0, 4, 0));
    assert_eq!(dump(&path), before);
}

#[test]
fn a_single_record_comes_back_though_its_row_number_is_taken() {
    let folder = TempDir::new().unwrap();
    let path = database(
        &folder,
        "db",
        "CREATE TABLE k(k TEXT PRIMARY KEY, v);
         INSERT INTO k VALUES ('lost', 1);",
    );
    let old = capture(&path);
    shell(&path, "DELETE FROM k; INSERT INTO k VALUES ('new', 2);");
    let now = capture(&path);
    let mut wanted = now.clone();
    let tree: &mut Tree = wanted.trees.get_mut("k").unwrap();
    tree.extend(old.trees["k"].clone());
    let mut target = SqliteTarget::new(source(&path));
    target.begin(&later()).unwrap();
    target.fit(&wanted.description, &later()).unwrap();
    target.apply(&Difference { now: &now, wanted: &wanted }, &later()).unwrap();
    target.commit().unwrap();
    assert_eq!(shell(&path, "SELECT * FROM k ORDER BY v;"), "lost|1\nnew|2\n");
}

#[test]
fn excluded_tables_keep_their_rows() {
    let folder = TempDir::new().unwrap();
    let script = "CREATE TABLE t(a); CREATE TABLE session(a); INSERT INTO session VALUES (1);";
    let path = database(&folder, "db", script);
    let new = || Sqlite::new("main", path.to_str().unwrap(), vec!["session".to_owned()]).unwrap();
    let (wanted, _) = testing::capture_since(&mut new(), None, &later()).unwrap();
    assert_eq!(wanted.trees.keys().collect::<Vec<_>>(), ["t"]);
    let mut target = SqliteTarget::new(new());
    apply(&mut target, &wanted, &later()).unwrap();
    target.commit().unwrap();
    assert_eq!(shell(&path, "SELECT a FROM session;"), "1\n");
}

#[test]
fn a_hostile_snapshot_cannot_attach_other_files() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder, "db", "CREATE TABLE t(a);");
    let mut wanted = capture(&path);
    let header = String::from_utf8(wanted.description.header).unwrap();
    let evil = folder.path().join("evil");
    let sql = format!("CREATE TABLE t(a); ATTACH '{}' AS e; CREATE TABLE e.x(a)", evil.display());
    wanted.description.header = header.replace("CREATE TABLE t(a)", &sql).into_bytes();
    let mut target = SqliteTarget::new(source(&path));
    let error = apply(&mut target, &wanted, &later()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damage, "{error}");
    target.rollback().unwrap();
    assert!(!evil.exists());
}

#[test]
fn dangling_references_are_told() {
    let folder = TempDir::new().unwrap();
    let script = "CREATE TABLE p(id INTEGER PRIMARY KEY);
                  CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p(id));
                  INSERT INTO c VALUES (1, 99);";
    let path = database(&folder, "db", script);
    let wanted = capture(&path);
    shell(&path, "DELETE FROM c;");
    let (ctx, recorder) = recorded();
    let mut target = SqliteTarget::new(source(&path));
    apply(&mut target, &wanted, &ctx).unwrap();
    target.commit().unwrap();
    let told = Event::Note("1 rows of c refer to rows of p that are not there".to_owned());
    assert!(recorder.events().contains(&told), "{:?}", recorder.events());
}

#[test]
fn what_is_no_database_is_an_error_that_helps() {
    let folder = TempDir::new().unwrap();
    let missing = source(&folder.path().join("gone")).begin(None, &later()).unwrap_err();
    assert!(missing.to_string().contains("gone") && missing.hint().is_some());
    let path = folder.path().join("text");
    fs::File::create(&path).unwrap().write_all(&[b'x'; 5000]).unwrap();
    assert!(source(&path).begin(None, &later()).is_err());
    assert!(Sqlite::new("main", "postgres://x/y", Vec::new()).is_err());
    assert!(Sqlite::new("main", "sqlite::memory:", Vec::new()).is_err());
    let path = |url: &str| Sqlite::new("main", url, Vec::new()).unwrap().path.clone();
    assert_eq!(path("sqlite:///a/b.db?mode=ro"), Path::new("/a/b.db"));
    assert_eq!(path("sqlite://b.db"), Path::new("b.db"));
    assert_eq!(path("/a/b.db"), Path::new("/a/b.db"));
}

#[test]
fn a_locked_database_is_busy_not_broken() {
    let busy = |code: i32| {
        let folder = TempDir::new().unwrap();
        let path = database(&folder, "db", "CREATE TABLE t(a);");
        let mut first = SqliteTarget::new(source(&path));
        first.begin(&later()).unwrap();
        let mut db = Connection::open(&path, Access::Restore).unwrap();
        db.execute(&format!("PRAGMA busy_timeout = {code}")).unwrap();
        db.execute("BEGIN IMMEDIATE").unwrap_err()
    };
    let error = busy(1);
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.hint().is_some());
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("NULL".to_owned()),
        any::<i64>().prop_map(|value| if value == i64::MIN {
            "0".into()
        } else {
            value.to_string()
        }),
        (-3..3_i64).prop_map(|value| value.to_string()),
        any::<f64>()
            .prop_filter("has no literal", |f| f.is_finite())
            .prop_map(|f| format!("{f:e}")),
        any::<Vec<u8>>().prop_map(|b| format!("x'{}'", crate::id::hex(&b))),
        any::<Vec<u8>>().prop_map(|b| format!("CAST(x'{}' AS TEXT)", crate::id::hex(&b))),
        "[a-zA-Z]{0,2}".prop_map(|text| format!("'{text}'")),
    ]
}

fn inserts() -> impl Strategy<Value = String> {
    prop::collection::vec((0..4_usize, values(), values(), values()), 0..25).prop_map(|rows| {
        let insert = |(table, a, b, c): (usize, String, String, String)| {
            format!("INSERT OR REPLACE INTO t{table} VALUES ({a}, {b}, {c});")
        };
        rows.into_iter().map(insert).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_rows_are_restored_over_any_others(first in inserts(), second in inserts()) {
        let schema = "CREATE TABLE t0(a, b, c);
                      CREATE TABLE t1(a TEXT PRIMARY KEY, b NUMERIC, c REAL);
                      CREATE TABLE t2(a TEXT COLLATE NOCASE, b, c, PRIMARY KEY(a, b));
                      CREATE TABLE t3(a INT, b ANY, c, UNIQUE(a), PRIMARY KEY(b));";
        let folder = TempDir::new().unwrap();
        let path = database(&folder, "db", &format!("{schema}BEGIN;{first}COMMIT;"));
        let (before, wanted) = (dump(&path), capture(&path));
        let tables = "DELETE FROM t0; DELETE FROM t1; DELETE FROM t2 WHERE rowid % 2;";
        shell(&path, &format!("BEGIN;{tables}{second}COMMIT;"));
        restore(&path, &wanted);
        prop_assert_eq!(dump(&path), before);
    }
}
