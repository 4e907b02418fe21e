//! A PostgreSQL database goes through capture, wreck and restore, and `pg_dump`, which knows
//! nothing of us, says the same before and after. The repository is played by maps in memory.
//!
//! Needs the server's programs (`scripts/install.sh postgres`); without them the tests fail.
#![expect(clippy::disallowed_methods, reason = "tests measure time")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "common/postgres.rs"]
mod private;

use std::collections::BTreeMap;
use std::sync::Arc;

use coeval::context::Context;
use coeval::hint::Failure;
use coeval::report::Recorder;
use coeval::source::record::{KeyKind, Schema, TableHeader};
use coeval::source::{Applied, Delta, Fit, Postgres, PostgresOptions, Source, Target, key};
use private::{Captured, Cluster, Database, Difference, assert_same_text, restore};

const TYPES: &str = include_str!("fixtures/types.sql");

const CHANGES: &str = r#"
    SET session_replication_role = replica;
    UPDATE types SET c_text = 'changed', c_numeric = 1.1, c_jsonb = '{}' WHERE id = 4;
    UPDATE types SET c_double = 0, c_texts = '{}', c_hstore = NULL WHERE id = 2;
    DELETE FROM types WHERE id = 3;
    INSERT INTO types (id, c_text) OVERRIDING SYSTEM VALUE VALUES (99, 'new');
    UPDATE workflow_state SET rank = 109 - rank;
    UPDATE workflow_state SET rank = rank - 100;
    DELETE FROM workflow_state WHERE code = 'zulu';
    UPDATE by_number SET n = 1.1 WHERE v = 'a';
    DELETE FROM by_time WHERE v IN ('a', 'c');
    UPDATE by_uuid SET v = 1501 - v WHERE v BETWEEN 200 AND 301;
    UPDATE by_uuid SET v = v - 1000 WHERE v > 1000;
    DELETE FROM by_pair WHERE tenant = 3;
    UPDATE by_german SET w = 'ärger' WHERE w = 'Ärger';
    DELETE FROM by_mood WHERE m <> 'sad';
    DELETE FROM no_key WHERE ctid IN (SELECT min(ctid) FROM no_key GROUP BY a);
    INSERT INTO no_key VALUES (3, 'x', 'NaN'), (3, 'x', 'NaN'), (77, NULL, 0);
    INSERT INTO no_columns DEFAULT VALUES;
    DELETE FROM only_generated;
    DELETE FROM "Users" WHERE "Id" % 3 = 0;
    UPDATE "Users" SET "E-Mail" = 'x' || "E-Mail", boss = NULL WHERE "Id" % 5 = 1;
    DELETE FROM "weird ""name"".with/dots" WHERE part = 2;
    DELETE FROM event WHERE id BETWEEN 100 AND 310;
    DELETE FROM event_note;
    UPDATE animal SET name = upper(name);
    TRUNCATE cache, booking, "Archiv".types;
    DELETE FROM "Archiv".note;"#;

#[test]
fn a_wrecked_database_comes_back_to_the_last_byte() {
    let database = Database::with(TYPES);
    let before = database.dump();
    let captured = database.capture();
    database.sql(CHANGES);
    database.sql(
        r#"DROP TABLE "weird ""name"".with/dots" CASCADE;
        DROP TABLE by_time, no_key;
        TRUNCATE types RESTART IDENTITY;
        ALTER TABLE by_uuid ADD COLUMN more integer DEFAULT 5;
        ALTER TABLE workflow_state RENAME COLUMN label TO caption;
        ALTER TYPE mood ADD VALUE 'new';
        ALTER DOMAIN positive DROP CONSTRAINT positive_check;
        CREATE SCHEMA more;
        CREATE EXTENSION pg_trgm SCHEMA more;
        CREATE TABLE more.things (id serial PRIMARY KEY);
        CREATE FUNCTION more.f() RETURNS integer LANGUAGE sql AS 'SELECT 1';
        CREATE PUBLICATION another FOR ALL TABLES;
        DROP EXTENSION ltree CASCADE;
        REVOKE SELECT ON "Users" FROM PUBLIC;
        DROP VIEW active;
        SELECT nextval('used');"#,
    );
    assert!(database.capture().trees != captured.trees);
    let (fit, applied) = restore(&mut database.open(), &captured).unwrap();
    assert_eq!(fit, Fit::Rebuilt);
    let rows: usize = captured.trees.values().map(BTreeMap::len).sum();
    assert_eq!(applied, Applied { inserted: rows as u64, updated: 0, deleted: 0 });
    assert_same_text(&before, &database.dump());
    database.capture().assert_same(&captured);
}

#[test]
fn changed_rows_come_back_and_others_are_not_touched() {
    let database = Database::with(TYPES);
    let before = database.dump();
    let captured = database.capture();
    database.sql(CHANGES);
    let untouched = "SELECT string_agg(xmin::text, ',' ORDER BY id) FROM by_uuid WHERE v NOT BETWEEN 200 AND 301";
    let versions = database.sql(untouched);
    let (fit, applied) = restore(&mut database.open(), &captured).unwrap();
    assert_eq!(fit, Fit::Kept);
    assert!(applied.inserted > 0 && applied.updated > 0 && applied.deleted > 0, "{applied:?}");
    assert_eq!(database.sql(untouched), versions);
    assert_same_text(&before, &database.dump());
    // With nothing to do, nothing is done.
    let (_, applied) = restore(&mut database.open(), &captured).unwrap();
    assert_eq!(applied, Applied::default());
}

/// What the catalogue does not let one write down.
const EVENT_TRIGGER: &str = "
    CREATE FUNCTION quiet() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER quiet ON sql_drop EXECUTE FUNCTION quiet();";

#[test]
fn without_pg_dump_a_database_is_made_anew_all_the_same() {
    for (structure, rows) in [(TYPES, true), (include_str!("fixtures/structure.sql"), false)] {
        let database = Database::with(structure);
        let before = database.dump();
        let options =
            || PostgresOptions { pg_dump: Some("/nonexistent".into()), ..Default::default() };
        let captured = Captured::of(&mut database.open_with(options()));
        assert!(matches!(captured.header().schema, Schema::Catalogue { .. }));
        let other = Database::empty();
        let (fit, _) = restore(&mut other.open_with(options()), &captured).unwrap();
        assert_eq!(fit, Fit::Rebuilt);
        assert_same_text(&before, &other.dump());
        // Where there is a pg_dump, it is known all the same that the structure fits.
        let (fit, applied) = restore(&mut database.open(), &captured).unwrap();
        assert_eq!((fit, applied), (Fit::Kept, Applied::default()));
        if rows {
            database.sql("ALTER TABLE by_uuid ADD COLUMN more integer; DROP VIEW active;");
            database.sql("DELETE FROM no_key WHERE a = 3");
            let (fit, _) = restore(&mut database.open(), &captured).unwrap();
            assert_eq!(fit, Fit::Rebuilt);
            assert_same_text(&before, &database.dump());
        }
    }
}

#[test]
fn a_database_moves_into_an_empty_one() {
    let database = Database::with(TYPES);
    let captured = database.capture();
    let other = Database::empty();
    let (fit, _) = restore(&mut other.open(), &captured).unwrap();
    assert_eq!(fit, Fit::Rebuilt);
    assert_same_text(&database.dump(), &other.dump());
}

#[test]
fn a_capture_says_what_is_there() {
    let database = Database::with(TYPES);
    let captured = database.capture();
    let names: Vec<&str> = captured.trees.keys().map(String::as_str).collect();
    for name in ["Archiv.types", "types", "weird \"name\"%2Ewith%2Fdots", "event_2024_1", "dog"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(!names.contains(&"event"), "a partitioned table has no rows of its own");
    assert_eq!(captured.rows("no_columns"), ["[]", "[]"]);
    assert_eq!(captured.rows("animal"), [r#"[1,"cat"]"#]);
    assert_eq!(captured.rows("cache"), [r#"["k","\\xdeadbeef"]"#]);
    let header = |name: &str| {
        let tree = captured.description.trees.iter().find(|tree| tree.name == name).unwrap();
        TableHeader::from_json(&tree.header).unwrap()
    };
    let users = header("Users");
    assert_eq!((users.key.as_slice(), users.key_kind), (&["Id".to_owned()][..], KeyKind::Primary));
    assert_eq!(users.foreign_keys.len(), 3);
    assert_eq!(users.columns[1].declared_type, "public.email");
    assert_eq!(users.columns[1].type_oid_name, "public.citext");
    let columns = header("types").columns;
    assert!(columns.len() > 40);
    assert_eq!(columns[0].identity, "a");
    assert!(columns.iter().any(|column| column.name == "c_generated" && column.generated));
    assert_eq!(header("no_key").key_kind, KeyKind::Hash);
    assert_eq!(header("by_pair").key, ["name", "tenant"]);
    for tree in &captured.description.trees {
        let header = TableHeader::from_json(&tree.header).unwrap();
        for key in captured.trees[&tree.name].keys() {
            let text = key::format_key(&header, key).unwrap();
            assert_eq!(key::parse_key(&header, &text).unwrap(), *key);
        }
    }
    let header = captured.header();
    let used = header.sequences.iter().find(|sequence| sequence.name == "used").unwrap();
    assert_eq!((used.last_value, used.is_called), (2, true));
    let owned = header.sequences.iter().find(|s| s.name == "Users_Id_seq").unwrap();
    assert_eq!(owned.owned_by_table.as_deref(), Some("Users"));
    assert!(matches!(&header.schema, Schema::PgDump { pre_data, post_data }
        if pre_data.contains("CREATE TABLE") && post_data.contains("PRIMARY KEY")));
    // The order and the text do not depend on the moment.
    database.capture().assert_same(&captured);
}

#[test]
fn text_keys_are_in_byte_order_whatever_the_collation() {
    let database = Database::with(
        r#"CREATE TABLE t (k text COLLATE "de-x-icu" PRIMARY KEY);
        INSERT INTO t VALUES ('b'), ('B'), ('ä'), ('a'), ('Z'), ('');"#,
    );
    assert_eq!(
        database.capture().rows("t"),
        [r#"[""]"#, r#"["B"]"#, r#"["Z"]"#, r#"["a"]"#, r#"["b"]"#, r#"["ä"]"#]
    );
}

#[test]
fn readers_are_not_kept_waiting_and_see_nothing_before_the_end() {
    let database = Database::with(
        "CREATE TABLE t (id integer PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'then');",
    );
    let captured = database.capture();
    database.sql("UPDATE t SET v = 'now'");
    let ctx = Context::new();
    let mut target = database.open();
    Target::begin(&mut target, &ctx).unwrap();
    let before = Captured::of(target.as_source());
    target.fit(&captured.description, &ctx).unwrap();
    target.apply(&Difference { from: Some(&before), to: &captured }, &ctx).unwrap();
    let read = "SET statement_timeout = '5s'; SELECT v FROM t";
    assert_eq!(database.sql(read), "now");
    let write = database.try_sql("SET lock_timeout = '200ms'; DELETE FROM t").unwrap_err();
    assert!(write.contains("lock timeout"), "a writer must wait: {write}");
    target.commit().unwrap();
    assert_eq!(database.sql(read), "then");
}

#[test]
fn a_rollback_leaves_everything_as_it_was() {
    let database = Database::with(TYPES);
    let captured = database.capture();
    database.sql(CHANGES);
    database.sql("CREATE TABLE another ()");
    let before = database.dump();
    let ctx = Context::new();
    let mut target = database.open();
    Target::begin(&mut target, &ctx).unwrap();
    assert_eq!(target.fit(&captured.description, &ctx).unwrap(), Fit::Rebuilt);
    target.apply(&Difference { from: None, to: &captured }, &ctx).unwrap();
    target.rollback().unwrap();
    assert_same_text(&before, &database.dump());
    // A plan that fails on the way, and a commit all the same.
    Target::begin(&mut target, &ctx).unwrap();
    target.fit(&captured.description, &ctx).unwrap();
    let mut broken = captured.clone();
    broken.trees.get_mut("by_uuid").unwrap().insert(vec![6, 255, 0, 0], b"[\"x\"]".to_vec());
    target.apply(&Difference { from: None, to: &broken }, &ctx).unwrap_err();
    target.commit().unwrap_err();
    assert_same_text(&before, &database.dump());
}

#[test]
fn a_role_that_is_no_superuser_can_capture_and_restore() {
    let database = Database::with(
        "CREATE TABLE parent (id integer PRIMARY KEY, name text UNIQUE);
        CREATE TABLE child (id serial PRIMARY KEY, parent integer NOT NULL
          REFERENCES parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, v text);
        INSERT INTO parent SELECT n, 'p' || n FROM generate_series(1, 20) n;
        INSERT INTO child (parent, v) SELECT 1 + n % 20, n FROM generate_series(1, 100) n;
        DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN;
        GRANT ALL ON ALL TABLES IN SCHEMA public TO plain;
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO plain;",
    );
    let url = database.url.replace("postgres@", "plain@");
    let open = || Postgres::new("main", &url, PostgresOptions::default()).unwrap();
    let before = database.dump();
    let captured = Captured::of(&mut open());
    database.sql(
        "DELETE FROM parent WHERE id < 5; UPDATE child SET parent = 7, v = 'x' WHERE parent = 6;
        DELETE FROM parent WHERE id = 6; INSERT INTO parent VALUES (6, 'other'), (50, 'p4');
        INSERT INTO child (id, parent) VALUES (1000, 50);",
    );
    let (fit, _) = restore(&mut open(), &captured).unwrap();
    assert_eq!(fit, Fit::Kept);
    assert_same_text(&before, &database.dump());
    // What it may not read, it says.
    database.sql("CREATE TABLE secret (id integer)");
    let error = open_error(&mut open());
    assert!(error.to_string().contains("permission denied for table secret"), "{error}");
    assert!(error.hint().unwrap().contains("exclude-tables"), "{:?}", error.hint());
}

#[test]
fn a_role_that_may_only_read_captures_everything() {
    let database = Database::with(
        "CREATE TABLE a (id serial PRIMARY KEY, v text);
        CREATE TABLE keyless (v text);
        INSERT INTO a (v) SELECT n FROM generate_series(1, 20) n;
        INSERT INTO keyless VALUES ('x'), ('x');
        DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN;
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
        GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader;
        REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC;",
    );
    let everything = Captured::of(&mut database.open());
    let url = database.url.replace("postgres@", "reader@");
    let mut reader = Postgres::new("main", &url, PostgresOptions::default()).unwrap();
    let read = Captured::of(&mut reader);
    assert_eq!(read.trees, everything.trees);
    assert_eq!(read.description.header, everything.description.header);
}

#[test]
fn rows_that_a_policy_hides_are_refused_and_not_missed() {
    let database = Database::with(
        "DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN;
        CREATE TABLE t (id integer PRIMARY KEY, who text); INSERT INTO t VALUES (1, 'x'), (2, 'y');
        ALTER TABLE t OWNER TO limited;
        ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY own ON t USING (who = 'x');",
    );
    let url = database.url.replace("postgres@", "limited@");
    let mut source = Postgres::new("main", &url, PostgresOptions::default()).unwrap();
    let ctx = Context::new();
    let description = Source::begin(&mut source, None, &ctx).unwrap();
    let error = source.changes(&description.trees[0], None, &ctx).err().unwrap();
    assert!(error.hint().unwrap().contains("BYPASSRLS"), "{error}");
    assert_eq!(database.capture().rows("t").len(), 2);
}

fn open_error(source: &mut dyn Source) -> Failure {
    source.begin(None, &Context::new()).unwrap_err()
}

#[test]
fn rows_may_exchange_unique_values_and_refer_in_circles() {
    let database = Database::with(
        "CREATE TABLE a (id integer PRIMARY KEY, u integer UNIQUE, b integer,
           n integer GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE b (id integer PRIMARY KEY, a integer NOT NULL REFERENCES a);
        ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;
        INSERT INTO a (id, u) VALUES (1, 1), (2, 2), (3, 3);
        INSERT INTO b VALUES (1, 2), (2, 1); UPDATE a SET b = 3 - id WHERE id < 3;",
    );
    let before = database.dump();
    let captured = database.capture();
    database.sql(
        "SET session_replication_role = replica; UPDATE a SET u = 10 + u; UPDATE a SET u = 14 - u;
        DELETE FROM b; UPDATE a SET n = DEFAULT WHERE id = 2; DELETE FROM a WHERE id = 1;
        INSERT INTO a (id, u) VALUES (9, 9);",
    );
    restore(&mut database.open(), &captured).unwrap();
    // The sequence has moved on by what was handed out in between, and stays there.
    let without_sequence = |dump: String| {
        dump.lines().filter(|l| !l.contains("setval")).collect::<Vec<_>>().join("\n")
    };
    assert_same_text(&without_sequence(before), &without_sequence(database.dump()));
}

#[test]
fn sequences_never_go_back_in_a_database_that_is_kept() {
    let database = Database::with(
        "CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE fresh;
        SELECT setval('up', 10), setval('down', -10);",
    );
    let captured = database.capture();
    database.sql("SELECT setval('up', 20), setval('down', -5), nextval('fresh');");
    restore(&mut database.open(), &captured).unwrap();
    let now = "SELECT up.last_value, down.last_value, fresh.is_called FROM up, down, fresh";
    assert_eq!(database.sql(now), "20|-10|t");
}

#[test]
fn a_row_that_would_refer_to_nothing_stops_the_restore() {
    let database = Database::with(
        "CREATE TABLE kept (id integer PRIMARY KEY);
        CREATE TABLE session (id integer PRIMARY KEY, kept integer REFERENCES kept);",
    );
    let options =
        || PostgresOptions { exclude_tables: vec!["sess*".to_owned()], ..Default::default() };
    let captured = Captured::of(&mut database.open_with(options()));
    assert_eq!(captured.trees.keys().collect::<Vec<_>>(), ["kept"]);
    assert_eq!(captured.header().excluded_tables, ["session"]);
    database.sql("INSERT INTO kept VALUES (1); INSERT INTO session VALUES (1, 1)");
    let before = database.dump();
    let error = restore(&mut database.open_with(options()), &captured).unwrap_err();
    assert!(error.to_string().contains("1 rows of public.session would refer"), "{error}");
    // Nor are the rows of an excluded table lost when the structure must be made anew.
    database.sql("ALTER TABLE kept ADD COLUMN v text");
    let error = restore(&mut database.open_with(options()), &captured).unwrap_err();
    assert!(error.to_string().contains("rows of the excluded session"), "{error}");
    database.sql("ALTER TABLE kept DROP COLUMN v");
    assert_same_text(&before, &database.dump());
}

#[test]
fn without_a_schema_rows_are_captured_and_restored_where_the_tables_exist() {
    let database = Database::with("CREATE TABLE t (id integer PRIMARY KEY, v text)");
    database.sql("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    database.sql(EVENT_TRIGGER);
    let options = || PostgresOptions { pg_dump: Some("/nonexistent".into()), ..Default::default() };
    let ctx = Context::new();
    let recorder = Arc::new(Recorder::default());
    let listening = Context { reporter: Arc::<Recorder>::clone(&recorder), ..Context::new() };
    let mut source = database.open_with(options());
    Source::begin(&mut source, None, &listening).unwrap();
    source.end().unwrap();
    let events = format!("{:?}", recorder.events());
    assert!(events.contains("only pg_dump can write down event trigger quiet"), "{events}");
    let captured = Captured::of(&mut source);
    database.sql("DELETE FROM t WHERE id = 1");
    restore(&mut database.open_with(options()), &captured).unwrap();
    assert_eq!(database.sql("SELECT count(*) FROM t"), "2");
    database.sql("ALTER TABLE t ADD COLUMN w text; CREATE TABLE u ()");
    let mut target = database.open();
    Target::begin(&mut target, &ctx).unwrap();
    let error = target.fit(&captured.description, &ctx).unwrap_err();
    assert!(error.to_string().contains("structure of t, u differs"), "{error}");
}

#[test]
fn what_is_left_out_is_listed() {
    let database = Database::with("CREATE TABLE t (id integer PRIMARY KEY); SELECT lo_create(7);");
    let recorder = Arc::new(Recorder::default());
    let ctx = Context { reporter: Arc::<Recorder>::clone(&recorder), ..Context::new() };
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/broken-pg_dump.sh");
    let broken = PostgresOptions { pg_dump: Some(program.into()), ..Default::default() };
    let mut source = database.open_with(broken);
    Source::begin(&mut source, None, &ctx).unwrap();
    source.end().unwrap();
    assert_eq!(recorder.skipped(), Vec::<String>::new());
    assert!(format!("{:?}", recorder.events()).contains("the schema is taken from the catalogue"));
    database.sql(EVENT_TRIGGER);
    Source::begin(&mut source, None, &ctx).unwrap();
    source.end().unwrap();
    assert_eq!(recorder.skipped(), ["database/main: schema"]);
}

#[test]
fn a_restore_does_not_need_the_roles_of_the_snapshot() {
    let database = Database::with(
        "DROP ROLE IF EXISTS \"Gone for good\"; CREATE ROLE \"Gone for good\";
        CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1);
        ALTER TABLE t OWNER TO \"Gone for good\"; GRANT SELECT ON t TO PUBLIC;",
    );
    let captured = database.capture();
    database.sql("DROP TABLE t; DROP ROLE \"Gone for good\"");
    restore(&mut database.open(), &captured).unwrap();
    assert_eq!(database.sql("SELECT tableowner FROM pg_tables WHERE tablename = 't'"), "postgres");
}

#[test]
fn errors_say_what_to_do_and_no_password() {
    let cluster = Cluster::shared();
    let error_of = |url: String| {
        open_error(&mut Postgres::new("main", &url, PostgresOptions::default()).unwrap())
    };
    let missing = error_of(format!("{}/nowhere", cluster.url.rsplit_once('/').unwrap().0));
    let text = format!("{missing} {missing:?} {:?}", missing.hint());
    assert!(text.contains("createdb"), "{text}");
    let refused = error_of("postgres://u:secret@127.0.0.1:1/db".to_owned());
    let text = format!("{refused} {refused:?} {:?}", refused.hint());
    assert!(text.contains("cannot connect to database db on 127.0.0.1"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_capture_waits_for_a_migration_to_end() {
    let database = Database::with("CREATE TABLE t (id integer PRIMARY KEY)");
    let mut other = database.psql();
    other.args(["-c", "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(2)"]);
    let mut other = other.spawn().unwrap();
    while database.sql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'") == "0" {}
    let started = std::time::Instant::now();
    let captured = database.capture();
    assert!(started.elapsed().as_millis() > 300, "the capture waits for its turn");
    assert!(captured.trees["t"].is_empty());
    other.wait().unwrap();
}

#[test]
fn a_capture_is_of_one_instant() {
    let database = Database::with(
        "CREATE TABLE a (id integer PRIMARY KEY); CREATE TABLE b (id integer PRIMARY KEY);",
    );
    let ctx = Context::new();
    let mut source = database.open();
    let description = Source::begin(&mut source, None, &ctx).unwrap();
    database.sql("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)");
    let truncation = database.try_sql("SET lock_timeout = '100ms'; TRUNCATE a").unwrap_err();
    assert!(truncation.contains("lock timeout"), "a truncation must wait: {truncation}");
    for tree in &description.trees {
        let Delta::Everything(mut rows) = source.changes(tree, None, &ctx).unwrap() else {
            panic!()
        };
        assert!(rows.next().is_none());
    }
    source.end().unwrap();
    database.sql("SET lock_timeout = '5s'; TRUNCATE a");
}
