//! A copy for a staging system says nothing about anybody, and still hangs together.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use self::world::World;

fn application() -> World {
    let world = World::new();
    world.sql(
        "ALTER TABLE users ADD COLUMN email VARCHAR(24);
         CREATE UNIQUE INDEX emails ON users(email);
         ALTER TABLE users ADD COLUMN phone TEXT;
         ALTER TABLE users ADD COLUMN born DATE;
         UPDATE users SET email = name || '@firm.org', phone = '+43 1 23', born = '1815-12-10';
         CREATE TABLE mails (recipient TEXT, body TEXT, user INT REFERENCES users(id));
         INSERT INTO mails VALUES ('ada@firm.org', 'secret', 1), ('ada@firm.org', 'more', 1),
           (NULL, NULL, 2);
         CREATE TABLE codes (code TEXT PRIMARY KEY);",
    );
    world.backup();
    world
}

#[test]
fn nothing_of_what_was_is_left_and_joins_still_work() {
    let world = application();
    world.write(
        "rules.toml",
        "users.name = \"fake-name\"\nusers.email = \"fake-email\"\nusers.phone = \"fake-phone\"
         users.born = \"null\"\nmails.recipient = \"fake-email\"\nmails.body = \"text:lorem\"\n",
    );
    let copy = world.path("copy.sqlite3");
    let restore = ["restore", "latest", "--database", copy.to_str().unwrap(), "--anonymise"];
    let rules = world.path("rules.toml");
    world.ok(&[&restore[..], &[rules.to_str().unwrap()]].concat());
    let sql = |statements: &str| {
        let output = std::process::Command::new("sqlite3").arg(&copy).arg(statements).output();
        world::text(&output.unwrap().stdout)
    };
    let dump = sql(".dump");
    for secret in ["firm.org", "secret", "'ada'", "+43", "1815"] {
        assert!(!dump.contains(secret), "{secret} in {dump}");
    }
    assert_eq!(sql("SELECT count(DISTINCT email), max(length(email)) FROM users"), "3|24\n");
    assert_eq!(sql("SELECT count(*) FROM users WHERE phone LIKE '+1 555 _______'"), "3\n");
    assert_eq!(sql("SELECT count(*), count(body) FROM mails WHERE body = 'lorem'"), "2|2\n");
    assert_eq!(sql("SELECT count(DISTINCT recipient), count(recipient) FROM mails"), "1|2\n");
    assert_eq!(sql("SELECT count(born) FROM users; PRAGMA foreign_key_check"), "0\n");
    // The live system is as it was, and the next backup follows the last one.
    assert!(world.sql("").contains("ada@firm.org"));
    let snapshots = world.json(&["snapshots"]);
    assert!(snapshots.iter().any(|one| one["reason"]["kind"] == "anonymised"), "{snapshots:?}");
}

#[test]
fn what_holds_the_tables_together_stays() {
    let world = application();
    let copy = world.path("copy.sqlite3");
    for (rule, why) in [
        ("users.id = \"hash\"", "primary key"),
        ("mails.user = \"null\"", "refers to another table"),
        ("codes.code = \"fake-name\"", "primary key"),
        ("users.email = \"text:x\"", "unique"),
        ("users.name = \"null\"", "must not be NULL"),
        ("users.born = \"hash\"", "not of text"),
        ("users.nothing = \"hash\"", "no column users.nothing"),
        ("users.name = \"sha1\"", "none of null, hash"),
        ("users = \"hash\"", "no line like"),
        ("", "no rules"),
    ] {
        world.write("rules.toml", rule);
        let rules = world.path("rules.toml");
        let (copy, rules) = (copy.to_str().unwrap(), rules.to_str().unwrap());
        let error =
            world.fails(2, &["restore", "latest", "--database", copy, "--anonymise", rules]);
        assert!(error.contains(why), "{rule}: {error}");
    }
    assert!(!copy.exists());
    world.fails(2, &["restore", "latest", "--in-place", "--anonymise", "rules.toml"]);
}

#[test]
fn a_table_is_printed_as_csv() {
    let world = World::new();
    world.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, \"a,b\" TEXT, c);
         INSERT INTO t VALUES (1, 'plain', 2.5), (2, 'a \"quote\", and' || char(10) || 'a line', 7),
           (3, '', NULL);",
    );
    world.backup();
    let all = world.ok(&["cat", "latest:/database/main/t", "--csv"]);
    let lines =
        "id,\"a,b\",c\r\n1,plain,2.5\r\n2,\"a \"\"quote\"\", and\na line\",7\r\n3,\"\",\r\n";
    assert_eq!(all, lines);
    let one = world.ok(&["cat", "latest:/database/main/t/1", "--csv"]);
    assert_eq!(one, "id,\"a,b\",c\r\n1,plain,2.5\r\n");
    world.fails(2, &["cat", "latest:/configuration/.env", "--csv"]);
}
