//! References that lead nowhere are found, and no others.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use serde_json::Value;

use self::world::World;

const FILES: &str = r#"files = ["documents.path -> documents", { rule = "users.photo -> documents", strip = "/media/" }]"#;

/// An application whose records name files and each other, with all that they refer to.
fn application() -> World {
    let world = World::bare();
    let configuration = world.read("coeval.toml");
    let url = r#"url = "sqlite://app.sqlite3""#;
    world.write("coeval.toml", &configuration.replace(url, &format!("{url}\n{FILES}")));
    world.ok(&["init", "-q"]);
    world.sql(
        "ALTER TABLE users ADD COLUMN photo TEXT;
         CREATE TABLE kinds (code TEXT, year INT, price NUMERIC UNIQUE, PRIMARY KEY (code, year));
         CREATE TABLE documents (id INTEGER PRIMARY KEY, path TEXT,
           owner INT REFERENCES users(id), second REFERENCES USERS, year INT, code TEXT, price,
           FOREIGN KEY (code, year) REFERENCES kinds(code, year),
           FOREIGN KEY (price) REFERENCES kinds(price));
         INSERT INTO kinds VALUES ('a', 2024, 1.5), ('b', 2025, 2);
         INSERT INTO documents VALUES
           (1, 'a.txt', 1, 1, 2024, 'a', 1.5), (2, 'sub/b.txt', 2, NULL, 2025, 'b', 2.0),
           (3, '', NULL, 3, NULL, 'gone', NULL), (4, 'a.txt', 3, 3, NULL, NULL, NULL);
         UPDATE users SET photo = '/media/sub/b.txt' WHERE id = 1;",
    );
    world
}

fn findings(output: &[Value]) -> Vec<String> {
    let findings = output.iter().filter(|line| line["message_type"] == "finding");
    findings.map(|line| line["problem"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_whole_is_called_whole() {
    let world = application();
    let output = world.backup();
    assert!(!output.contains("not in the snapshot"), "{output}");
    let output = world.json(&["check", "--refs"]);
    assert_eq!(findings(&output), Vec::<String>::new());
    let found = &output.last().unwrap()["references"];
    assert_eq!(found["named"], 4);
    assert_eq!(found["references"], 10);
    assert_eq!(found["unchecked"], serde_json::json!([]));
}

#[test]
fn every_reference_that_leads_nowhere_is_named() {
    let world = application();
    world.write("docs/nobody.txt", "here");
    world.sql(
        "UPDATE documents SET path = 'gone.txt' WHERE id = 4;
         UPDATE users SET photo = '../../etc/passwd' WHERE id = 2;
         UPDATE documents SET owner = 99, price = 3 WHERE id = 2;
         UPDATE documents SET code = 'b' WHERE id = 1;",
    );
    let run = world.run(&["backup"]);
    assert!(run.status.success(), "a backup of what there is");
    let said = format!("{}{}", world::text(&run.stdout), world::text(&run.stderr));
    assert!(said.contains("/storage/documents/gone.txt, which is not in the snapshot"), "{said}");
    assert!(said.contains("records name 2 files that are not in the snapshot"), "{said}");

    let run = world.run(&["check", "--refs", "latest", "--json", "-v"]);
    assert_eq!(run.status.code(), Some(13));
    let mut found = findings(&world::lines(&world::text(&run.stdout)));
    found.sort();
    assert_eq!(
        found,
        [
            "/database/main/documents/1: code, year refers to /database/main/kinds/b,2024, \
             which is not in the snapshot",
            "/database/main/documents/2: owner refers to /database/main/users/99, which is not in \
             the snapshot",
            "/database/main/documents/2: price refers to /database/main/kinds/3, which is not in \
             the snapshot",
            "/database/main/documents/4: path names /storage/documents/gone.txt, which is not in \
             the snapshot",
            "/database/main/users/2: photo names /storage/documents/..\\x2f..\\x2fetc\\x2fpasswd, which is \
             not in the snapshot",
            "/storage/documents/nobody.txt: no record names it",
        ]
    );
    // The same files again: nothing new is to be said.
    let run = world.run(&["backup"]);
    let said = format!("{}{}", world::text(&run.stdout), world::text(&run.stderr));
    assert!(!said.contains("not in the snapshot"), "{said}");
}

#[test]
fn what_the_snapshot_leaves_out_is_no_fault() {
    let world = application();
    let configuration = world.read("coeval.toml");
    let excluded = configuration.replace(FILES, &format!("{FILES}\nexclude-tables = [\"kinds\"]"));
    world.write("coeval.toml", &excluded);
    world.backup();
    let output = world.json(&["check", "--refs"]);
    assert_eq!(findings(&output), Vec::<String>::new());
    let unchecked = output.last().unwrap()["references"]["unchecked"].as_array().unwrap().clone();
    assert_eq!(unchecked.len(), 2, "{unchecked:?}");
}

#[test]
fn a_rule_that_fits_nothing_is_refused() {
    let world = application();
    let configuration = world.read("coeval.toml");
    world.write("coeval.toml", &configuration.replace("documents.path ->", "documents.pfad ->"));
    world.ok(&["backup", "-q", "--database", world.path("app.sqlite3").to_str().unwrap()]);
    world.fails(2, &["backup"]);
}
