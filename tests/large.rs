//! Large objects of PostgreSQL, through the program as it is called: `pg_dump`, which knows nothing
//! of us, says the same of them before and after.
//!
//! Needs the server's programs (`scripts/install.sh postgres`); without them the tests fail.
#![expect(clippy::disallowed_methods, reason = "tests measure time")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "each file of tests needs a part of it")]
#[path = "common/postgres.rs"]
mod private;
#[path = "common/world.rs"]
mod world;

use private::{Database, assert_same_text};
use serde_json::json;
use world::World;

/// Empty ones, holes, pages that are short in the middle, zeros at the end, owners and rights.
const OBJECTS: &str = "
    DO $$ BEGIN CREATE ROLE large_owner; CREATE ROLE large_reader;
      EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
    CREATE TABLE picture (id integer PRIMARY KEY, content oid);
    GRANT ALL ON picture TO large_owner;
    SELECT lo_create(100), lo_from_bytea(101, 'hello'),
      lo_from_bytea(102, decode(repeat('00ff10', 3000), 'hex')),
      lo_from_bytea(103, decode(repeat('00', 5000), 'hex')),
      lo_from_bytea(104, 'short'), lo_put(104, 10000, 'behind a hole'),
      lo_from_bytea(4000000000, decode(repeat('ab', 2048), 'hex'));
    INSERT INTO picture VALUES (1, 101), (2, 102);
    ALTER LARGE OBJECT 101 OWNER TO large_owner;
    GRANT SELECT ON LARGE OBJECT 102 TO PUBLIC;
    GRANT SELECT, UPDATE ON LARGE OBJECT 103 TO large_reader WITH GRANT OPTION;
    REVOKE UPDATE ON LARGE OBJECT 104 FROM postgres;";

const CHANGES: &str = "
    SELECT lo_put(100, 5000, 'no longer empty'), lo_put(102, 4096, 'x'), lo_put(103, 2100, 'x'),
      lo_put(104, 2048, decode(repeat('77', 2048), 'hex')), lo_unlink(4000000000),
      lo_from_bytea(105, 'one more');
    SELECT lo_truncate(lo_open(101, x'20000'::int), 2);
    ALTER LARGE OBJECT 101 OWNER TO postgres;
    REVOKE ALL ON LARGE OBJECT 102 FROM PUBLIC;
    GRANT UPDATE ON LARGE OBJECT 104 TO large_reader;";

const TREE: &str = "pg_catalog.pg_largeobject";

#[test]
fn large_objects_come_back_as_they_were() {
    let database = Database::with(OBJECTS);
    let world = World::with_database(&database.url, "");
    let before = database.dump();
    world.backup();
    let then = format!("latest:/database/main/{TREE}");
    assert!(world.ok(&["ls", "latest:/database/main"]).contains(TREE));
    let head = world.json(&["cat", &format!("{then}/104,-1")]).pop().unwrap();
    assert_eq!((&head["size"], &head["owner"]), (&json!(10013), &json!("postgres")), "{head}");
    database.sql(CHANGES);
    let after = database.dump();

    let plan = world.ok(&["restore", "latest", "--in-place", "--dry-run"]);
    assert!(plan.contains(TREE) && !plan.contains("picture"), "{plan}");
    assert_same_text(&after, &database.dump());
    world.ok(&["restore", "latest", "--in-place"]);
    assert_same_text(&before, &database.dump());
    world.ok(&["undo"]);
    assert_same_text(&after, &database.dump());

    // One byte in an object of a megabyte is one page.
    database.sql("SELECT lo_from_bytea(200, decode(repeat('5a', 1000000), 'hex'))");
    world.backup();
    database.sql("SELECT lo_put(200, 500000, 'x')");
    world.backup();
    let log = world.ok(&["diff", "latest~1", "latest"]);
    assert!(log.contains(TREE), "{log}");
    assert_eq!(world.json(&["log", &format!("/database/main/{TREE}/200,244")]).len(), 2);
    // What is alone asked for comes alone, and an object of then is not needed for another.
    database.sql("SELECT lo_put(200, 0, 'x'), lo_unlink(101)");
    world.ok(&["restore", &format!("{then}/101,-1"), "--in-place"]);
    let size = "SELECT length(lo_get(101)), get_byte(lo_get(200, 0, 1), 0)";
    assert_eq!(database.sql(size), "2|120");
}

#[test]
fn a_database_is_made_anew_with_its_large_objects() {
    let database = Database::with(OBJECTS);
    let world = World::with_database(&database.url, "");
    world.backup();
    let before = database.dump();
    let other = Database::with("SELECT lo_from_bytea(101, 'mine'), lo_create(7)");
    world.ok(&["restore", "latest", "--database", &other.url]);
    assert_same_text(&before, &other.dump());
    // And where the structure is another.
    database.sql(CHANGES);
    database.sql("ALTER TABLE picture ADD COLUMN more integer");
    world.ok(&["restore", "latest", "--in-place"]);
    assert_same_text(&before, &database.dump());
    // A snapshot of a time without any knows that there were none.
    let empty = Database::with("CREATE TABLE a (id integer PRIMARY KEY)");
    let world = World::with_database(&empty.url, "");
    world.backup();
    assert!(!world.ok(&["ls", "latest:/database/main"]).contains(TREE));
    empty.sql("SELECT lo_create(5)");
    world.ok(&["restore", "latest", "--in-place"]);
    assert_eq!(empty.sql("SELECT count(*) FROM pg_largeobject_metadata"), "0");
}

#[test]
fn a_slot_that_knows_nothing_of_large_objects_hides_none() {
    let database = Database::with(OBJECTS);
    let world = World::with_database(&database.url, "");
    world.backup();
    world.ok(&["database", "setup", "main"]);
    world.backup();
    database.sql("INSERT INTO picture VALUES (3, 103)");
    for change in [
        "SELECT lo_put(102, 4096, 'x')",
        "SELECT lo_unlink(100)",
        "GRANT ALL ON LARGE OBJECT 101 TO PUBLIC",
        "UPDATE picture SET content = 104 WHERE id = 1",
    ] {
        database.sql(change);
        world.backup();
        world.ok(&["backup", "-q", "--force"]);
        let difference = world.ok(&["diff", "latest~1", "latest"]);
        assert!(difference.contains("no difference"), "{change}: {difference}");
    }
    // A state between two snapshots says that it does not know them.
    database.sql("SELECT lo_put(102, 0, 'y')");
    database.sql("INSERT INTO picture VALUES (8, 8)");
    let between = database.sql("SELECT pg_current_wal_insert_lsn()");
    database.sql("INSERT INTO picture VALUES (9, 9)");
    world.backup();
    let output = world.run(&["restore", "--at-lsn", &between, "--in-place"]);
    let said = world::text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(TREE), "{said}");
}

#[test]
fn an_application_reads_its_own_large_objects_and_others_are_named() {
    let database = Database::with(
        "DROP ROLE IF EXISTS large_app; CREATE ROLE large_app LOGIN;
         CREATE TABLE a (id integer PRIMARY KEY); ALTER TABLE a OWNER TO large_app;
         SET ROLE large_app;
         SELECT lo_from_bytea(300, decode(repeat('00ff10', 3000), 'hex')), lo_create(301),
           lo_put(301, 9000, 'behind a hole'), lo_create(302);",
    );
    let as_owner = database.url.replace("postgres@", "large_app@");
    let owner = World::with_database(&as_owner, "");
    let all = World::with_database(&database.url, "");
    owner.backup();
    all.backup();
    let rows = |world: &World| world.ok(&["cat", &format!("latest:/database/main/{TREE}")]);
    assert_eq!(rows(&owner), rows(&all));
    let before = database.dump();
    database.sql("SET ROLE large_app; SELECT lo_unlink(300), lo_put(301, 2, 'x'), lo_create(303)");
    owner.ok(&["restore", "latest", "--in-place"]);
    assert_same_text(&before, &database.dump());

    database.sql("SELECT lo_create(400)");
    let complaint = owner.fails(1, &["backup"]);
    assert!(complaint.contains("large object 400"), "{complaint}");
    assert!(complaint.contains("exclude-tables"), "{complaint}");
    let config = owner.read("coeval.toml");
    owner.write("coeval.toml", &format!("{config}exclude-tables = [\"{TREE}\"]\n"));
    owner.backup();
    assert!(!owner.ok(&["ls", "latest:/database/main"]).contains(TREE));
    // Left out of the snapshot, left alone by a restore.
    database.sql("INSERT INTO a VALUES (1)");
    owner.ok(&["restore", "latest", "--in-place"]);
    assert_eq!(database.sql("SELECT count(*) FROM pg_largeobject_metadata"), "4");
    assert_eq!(database.sql("SELECT count(*) FROM a"), "0");
}

#[test]
fn roles_that_are_not_there_do_not_stop_a_restore() {
    let database = Database::with(
        "DROP ROLE IF EXISTS large_gone; CREATE ROLE large_gone;
         SELECT lo_from_bytea(500, 'x'), lo_from_bytea(501, 'y');
         ALTER LARGE OBJECT 500 OWNER TO large_gone; GRANT ALL ON LARGE OBJECT 501 TO large_gone;",
    );
    let world = World::with_database(&database.url, "");
    world.backup();
    database.sql("SELECT lo_unlink(500), lo_unlink(501); DROP ROLE large_gone;");
    let output = world.run(&["restore", "latest", "--in-place"]);
    let said = world::text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("large_gone"), "{said}");
    assert_eq!(database.sql("SELECT lo_get(500), lo_get(501)"), r"\x78|\x79");
}
