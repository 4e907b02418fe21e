//! Restores that nobody notices, through the program as it is called: who is logged in stays so,
//! what cannot be is said before, records come alone or with their relatives, and `undo` goes back.
//!
//! Needs the server's programs (`scripts/install.sh postgres`); without them the tests fail.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(clippy::disallowed_methods, reason = "a server of a test needs a thread")]

#[expect(dead_code, reason = "each file of tests needs a part of it")]
#[path = "common/postgres.rs"]
mod private;
#[path = "common/world.rs"]
mod world;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use private::Database;
use serde_json::Value;
use world::World;

const APPLICATION: &str = "
    CREATE TABLE roles (id serial PRIMARY KEY, name text UNIQUE);
    CREATE TABLE users (id serial PRIMARY KEY, email text NOT NULL UNIQUE, password text,
        role_id integer REFERENCES roles DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE groups (id serial PRIMARY KEY, name text);
    CREATE TABLE users_groups (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users,
        group_id integer NOT NULL REFERENCES groups, UNIQUE (user_id, group_id));
    CREATE TABLE orders (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users,
        total numeric, state text);
    CREATE TABLE lines (order_id integer REFERENCES orders, number integer, what text,
        PRIMARY KEY (order_id, number));
    CREATE TABLE django_session (session_key varchar(40) PRIMARY KEY, session_data text);
    CREATE TABLE authtoken_token (key varchar(40) PRIMARY KEY,
        user_id integer UNIQUE REFERENCES users DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO roles (name) VALUES ('admin'), ('reader');
    INSERT INTO users (email, password, role_id)
        SELECT 'u' || n || '@x', 'old', 1 + n % 2 FROM generate_series(1, 20) n;
    INSERT INTO groups (name) VALUES ('staff'), ('board');
    INSERT INTO users_groups (user_id, group_id) SELECT id, 1 FROM users;
    INSERT INTO orders (user_id, total, state)
        SELECT 1 + n % 20, n * 1.5, CASE WHEN n % 3 = 0 THEN 'open' ELSE 'paid' END
        FROM generate_series(1, 60) n;
    INSERT INTO lines SELECT id, n, 'thing' FROM orders, generate_series(1, 2) n;
    INSERT INTO django_session VALUES ('early', 'then'), ('gone', 'then');
    INSERT INTO authtoken_token VALUES ('t1', 1);";

/// An application on PostgreSQL with one snapshot.
fn application(sql: &str) -> (World, Database) {
    let database = Database::with(sql);
    let world = World::with_database(&database.url, "");
    world.ok(&["backup", "-q", "--tag", "good"]);
    (world, database)
}

fn restore(world: &World, arguments: &[&str]) -> Value {
    world.json(&[&["restore"], arguments].concat()).pop().unwrap()
}

/// The complaint of a command that must fail in this way, and says nothing else.
fn refused(world: &World, code: i32, arguments: &[&str]) -> String {
    world.fails(code, &[arguments, &["-q"]].concat())
}

/// What `pg_dump` says but for the positions of sequences, which never go back.
fn rows(database: &Database) -> String {
    let dump = database.dump();
    dump.lines().filter(|line| !line.contains("setval")).collect::<Vec<_>>().join("\n")
}

#[test]
fn who_is_logged_in_stays_so() {
    let (world, database) = application(APPLICATION);
    database.sql(
        "INSERT INTO roles (name) VALUES ('owner');
        UPDATE users SET password = 'new', role_id = 3 WHERE id = 1;
        UPDATE users SET password = 'wrecked' WHERE id > 1;
        DELETE FROM users_groups WHERE user_id = 1;
        INSERT INTO groups (name) VALUES ('night shift');
        INSERT INTO users_groups (user_id, group_id) VALUES (1, 3), (2, 2);
        INSERT INTO users (email) VALUES ('late@x');
        INSERT INTO authtoken_token VALUES ('t2', 21), ('t3', 2);
        DELETE FROM django_session WHERE session_key = 'gone';
        INSERT INTO django_session VALUES ('late', 'now');",
    );
    let before = rows(&database);
    let plan = world.ok(&["restore", "tag:good", "--in-place", "-n", "--pin-account", "users/1"]);
    assert!(plan.contains("/database/main/users: 0 inserted, 19 updated, 1 deleted"), "{plan}");
    assert_eq!(rows(&database), before);
    let said = restore(&world, &["tag:good", "--in-place", "--pin-account", "users/1"]);
    let kept = |tree: &str| {
        let kept = said["kept"].as_array().unwrap().iter().find(|kept| kept["tree"] == tree);
        kept.map(|kept| (kept["rows"].as_u64().unwrap(), kept["removed"].as_u64().unwrap()))
    };
    assert_eq!(kept("django_session"), Some((2, 0)));
    assert_eq!(kept("authtoken_token"), Some((2, 1)));
    assert_eq!(kept("users"), Some((1, 0)));
    // A pinned row keeps what it refers to.
    assert_eq!((kept("roles"), kept("groups")), (Some((1, 0)), Some((1, 0))));
    let all = "SELECT string_agg(session_key, ' ' ORDER BY 1) FROM django_session";
    assert_eq!(database.sql(all), "early late");
    let account = "SELECT password, role_id FROM users WHERE id = 1";
    assert_eq!(database.sql(account), "new|3");
    assert_eq!(database.sql("SELECT group_id FROM users_groups WHERE user_id = 1"), "3");
    assert_eq!(database.sql("SELECT group_id FROM users_groups WHERE user_id = 2"), "1");
    assert_eq!(database.sql("SELECT count(*) FROM users WHERE password = 'old'"), "19");
    let tokens = "SELECT string_agg(key, ' ' ORDER BY 1) FROM authtoken_token";
    assert_eq!(database.sql(tokens), "t1 t3");
    // No number is given out twice.
    assert_eq!(database.sql("SELECT nextval('users_id_seq')"), "22");
    world.ok(&["undo", "-q", "--no-keep-live"]);
    assert_eq!(rows(&database), before);
    // Turned off, everything is as in the snapshot.
    let config = format!("{}\n[restore]\nkeep-live = []\n", world.read("coeval.toml"));
    world.write("coeval.toml", &config);
    let said = restore(&world, &["tag:good", "--in-place"]);
    assert_eq!(said["kept"].as_array().unwrap().len(), 0, "{said}");
    assert_eq!(database.sql(all), "early gone");
    assert_eq!(database.sql(account), "old|2");
}

#[test]
fn what_a_restore_would_break_is_said_before_and_breaks_nothing() {
    let (world, database) = application(APPLICATION);
    database.sql(
        "UPDATE users SET email = 'x@x' WHERE id = 2; UPDATE users SET email = 'u2@x' WHERE id = 1",
    );
    let before = rows(&database);
    let arguments = ["restore", "tag:good", "--in-place", "--pin", "users/1"];
    let output = world.run(&[&arguments[..], &["--dry-run", "--json"]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", world::text(&output.stderr));
    let summary = world::lines(&world::text(&output.stdout)).pop().unwrap();
    let conflict = summary["conflicts"][0]["reason"].as_str().unwrap();
    assert!(conflict.contains("users_email_key") && conflict.contains("u2@x"), "{conflict}");
    let complaint = refused(&world, 1, &arguments);
    assert!(complaint.contains("users_email_key"), "{complaint}");
    assert_eq!(rows(&database), before);
    let complaint = refused(&world, 2, &["restore", "tag:good", "--in-place", "--pin", "users/99"]);
    assert!(complaint.contains("users/99 is to stay as it is"), "{complaint}");
    let complaint = refused(&world, 2, &["restore", "tag:good", "--in-place", "--pin", "usrs/1"]);
    assert!(complaint.contains("there is no such table"), "{complaint}");
}

#[test]
fn records_come_by_condition_and_in_three_modes() {
    let (world, database) = application(APPLICATION);
    let wrecked = "UPDATE orders SET total = 0 WHERE state = 'open' AND id < 10;
        DELETE FROM lines WHERE order_id >= 50; DELETE FROM orders WHERE id >= 50;
        INSERT INTO orders VALUES (100, 1, 7, 'open'), (101, 1, 7, 'paid');";
    database.sql(wrecked);
    let before = rows(&database);
    let state = "SELECT count(*) FILTER (WHERE total = 0), count(*) FILTER (WHERE id BETWEEN 50
        AND 60), count(*) FILTER (WHERE id >= 100) FROM orders";
    assert_eq!(database.sql(state), "3|0|2");
    let place = "tag:good:/database/main/orders";
    for (mode, after) in
        [("merge-missing", "3|4|2"), ("merge-overwrite", "0|4|2"), ("replace", "0|4|1")]
    {
        let arguments = [place, "--in-place", "--where", "state=open", "--mode", mode];
        world.ok(&[&["restore", "-q"][..], &arguments].concat());
        assert_eq!(database.sql(state), after, "{mode}");
        world.ok(&["undo", "-q"]);
        assert_eq!(rows(&database), before, "undo after {mode}");
    }
    let arguments = [place, "--in-place", "--where", "id>=59", "--where", "total<90"];
    world.ok(&[&["restore", "-q"][..], &arguments].concat());
    // 101 is among what is replaced, and 60 costs 90.
    assert_eq!(
        database.sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM orders WHERE id > 49"),
        "59"
    );
    let complaint = refused(&world, 2, &["restore", place, "--in-place", "--where", "totl<90"]);
    assert!(complaint.contains("no column totl"), "{complaint}");
}

#[test]
fn records_come_with_their_relatives() {
    let (world, database) = application(APPLICATION);
    database.sql(
        "DELETE FROM lines; DELETE FROM orders; DELETE FROM users_groups; DELETE FROM users
        WHERE id > 10; DELETE FROM roles WHERE id = 2 AND false;",
    );
    let before = rows(&database);
    // Order 12 is of user 13, who is gone.
    let order = ["restore", "tag:good:/database/main/orders/12", "--in-place"];
    let complaint = refused(&world, 1, &order);
    assert!(complaint.contains("users/13") && complaint.contains("--with-parents"), "{complaint}");
    assert_eq!(rows(&database), before);
    world.ok(&[&order[..], &["-q", "--with-parents", "--with-children"]].concat());
    let state = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM lines),
        (SELECT count(*) FROM users), (SELECT count(*) FROM users_groups)";
    assert_eq!(database.sql(state), "1|2|11|0");
    world.ok(&["undo", "-q"]);
    assert_eq!(rows(&database), before);
    let user = ["restore", "tag:good:/database/main/users/13", "--in-place", "-q"];
    world.ok(&[&user[..], &["--with-children", "--with-parents"]].concat());
    assert_eq!(database.sql(state), "3|6|11|1");
    world.ok(&["undo", "-q"]);
    assert_eq!(rows(&database), before);
}

#[test]
fn a_trigger_that_changes_what_is_restored_rolls_it_back() {
    let (world, database) = application(
        "CREATE TABLE t (id integer PRIMARY KEY, v text);
        INSERT INTO t SELECT n, 'then' FROM generate_series(1, 9) n;
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
          $$BEGIN NEW.v := NEW.v || ' and now'; RETURN NEW; END$$;
        CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION spoil();
        ALTER TABLE t ENABLE ALWAYS TRIGGER spoil;",
    );
    database.sql("DELETE FROM t WHERE id = 3");
    let before = rows(&database);
    let complaint = refused(&world, 13, &["restore", "tag:good", "--in-place"]);
    assert!(complaint.contains("does not have the snapshot's root hash"), "{complaint}");
    assert_eq!(rows(&database), before);
    database.sql("ALTER TABLE t ENABLE TRIGGER spoil");
    let id = world.backup();
    database.sql("DELETE FROM t WHERE id = 4");
    world.ok(&["restore", &id, "--in-place", "-q"]);
    assert_eq!(database.sql("SELECT string_agg(v, ' ') FROM t WHERE id = 4"), "then");
}

#[test]
fn the_application_is_asked_all_through_the_restore() {
    let (world, database) = application(APPLICATION);
    database.sql("UPDATE users SET password = 'new'");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/profile", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut asked = 0_u64;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> =
                lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            if head[0].contains("/stop") {
                return asked;
            }
            assert!(head.iter().any(|line| line == "cookie: sessionid=hunter2"), "{head:?}");
            asked += 1;
            // The second answer sends to the login page.
            let status = if asked == 2 { "302 Found\r\nLocation: /login" } else { "200 OK" };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    let probe = [
        "--probe-url",
        &url,
        "--probe-header",
        "Cookie: sessionid=hunter2",
        "--probe-every",
        "5ms",
    ];
    let output =
        world.run(&[&["restore", "tag:good", "--in-place", "--json"][..], &probe].concat());
    let (said, complaint) = (world::text(&output.stdout), world::text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{complaint}");
    assert!(!said.contains("hunter2") && !complaint.contains("hunter2"), "{said} {complaint}");
    let probed = world::lines(&said).pop().unwrap()["probe"].clone();
    drop(
        std::net::TcpStream::connect(url[7..].split('/').next().unwrap())
            .unwrap()
            .write_all(b"GET /stop\r\n\r\n"),
    );
    assert_eq!(probed["requests"].as_u64().unwrap() + 1, server.join().unwrap());
    assert_eq!(probed["failures"], 1, "{probed}");
    assert!(probed["longest_gap_ms"].as_u64().unwrap() > 0, "{probed}");
    // Who cannot log in before is told before anything is done.
    let complaint = refused(&world, 2, &["undo", "--probe-url", "http://127.0.0.1:1/"]);
    assert!(complaint.contains("before the restore"), "{complaint}");
    assert_eq!(database.sql("SELECT count(*) FROM users WHERE password = 'old'"), "20");
}

#[test]
fn sqlite_keeps_who_is_logged_in_too() {
    let world = World::new();
    world.sql(
        "CREATE TABLE django_session (session_key TEXT PRIMARY KEY);
        CREATE TABLE authtoken_token (key TEXT PRIMARY KEY, user_id INTEGER REFERENCES users(id));
        INSERT INTO django_session VALUES ('early');",
    );
    world.ok(&["backup", "-q", "--tag", "good"]);
    let before = world.sql(
        "INSERT INTO django_session VALUES ('late'); INSERT INTO users VALUES (4, 'late');
        INSERT INTO authtoken_token VALUES ('t1', 4), ('t2', 1);
        UPDATE users SET name = 'changed';",
    );
    let arguments = ["tag:good:/database", "--in-place", "--pin", "users/2"];
    let said = restore(&world, &arguments);
    let now = world.sql("");
    for there in ["'late')", "'early')", "VALUES(1,'ada')", "VALUES(2,'changed')", "'t2'"] {
        assert!(now.contains(there), "{there}: {now}");
    }
    for gone in ["VALUES(4,", "'t1'"] {
        assert!(!now.contains(gone), "{gone}: {now}");
    }
    assert_eq!(said["kept"].as_array().unwrap().len(), 3, "{said}");
    world.ok(&["undo", "-q", "--no-keep-live"]);
    assert_eq!(world.sql(""), before);
    let missing = ["restore", "tag:good:/database/main/users", "--in-place", "-q"];
    world.ok(&[&missing[..], &["--mode", "merge-overwrite", "--where", "name~^a"]].concat());
    let now = world.sql("");
    for there in
        ["VALUES(1,'ada')", "VALUES(2,'changed')", "VALUES(3,'alan')", "VALUES(4,'changed')"]
    {
        assert!(now.contains(there), "{there}: {now}");
    }
}
