//! The whole way through the program, on what is hard: every type that PostgreSQL has, and several
//! processes at once.
#![expect(clippy::disallowed_methods, reason = "a test writes files as applications do")]

#[path = "common/cluster.rs"]
mod cluster;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use cluster::Cluster;

struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().expect("a folder"));
        world.finish(&["init"]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coeval"));
        command
            .args(arguments)
            .env("COEVAL_REPOSITORY", self.path("repository"))
            .env("COEVAL_KEY_FILE", self.path("key"))
            .env("COEVAL_CACHE_DIR", self.path("cache"))
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn finish(&self, arguments: &[&str]) -> String {
        said(self.command(arguments).output().expect("it runs"))
    }
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_type_of_postgresql_survives_backup_wreck_and_restore() {
    let world = World::new();
    let cluster = Cluster::start(world.0.path());
    cluster.sql(include_str!("fixtures/types.sql"));
    let before = cluster.dump();
    world.finish(&["backup", "--database", &cluster.url]);
    let restore = ["restore", "latest", "--database", cluster.url.as_str()];

    cluster.sql(
        r#"SET session_replication_role = replica;
           DELETE FROM "Users" WHERE "Id" % 3 = 0; UPDATE by_uuid SET v = v + 100000;
           DELETE FROM animal; TRUNCATE booking; INSERT INTO cache VALUES ('new', '');
           INSERT INTO by_mood SELECT * FROM by_mood LIMIT 0; DELETE FROM by_pair;"#,
    );
    assert!(cluster.dump() != before);
    world.finish(&restore);
    assert!(cluster.dump() == before, "rows were wrecked, and came back by difference");

    cluster.sql(
        r#"DROP TABLE by_uuid CASCADE; DROP SCHEMA "Archiv" CASCADE; DROP TYPE mood CASCADE;
           ALTER TABLE "Users" ADD COLUMN intruder int; CREATE TABLE extra (id int);"#,
    );
    assert!(cluster.dump() != before);
    world.finish(&restore);
    assert!(cluster.dump() == before, "the structure was wrecked, and everything was made anew");
    world.finish(&["check", "--read-data"]);
}

#[test]
fn backups_restores_and_lists_run_side_by_side() {
    let world = World::new();
    for name in ["one", "two"] {
        fs::create_dir_all(world.path(name)).expect("a folder");
        for n in 0..300_u32 {
            let mut content = vec![0; 40_000];
            let seed = [name.as_bytes(), &n.to_le_bytes()].concat();
            blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut content);
            fs::write(world.path(name).join(n.to_string()), content).expect("a file");
        }
    }
    let first = world.finish(&["-q", "backup", "one"]);
    for round in 0..3 {
        let target = format!("restored-{round}");
        let runs = [
            world.command(&["backup", "one", "--force"]).spawn(),
            world.command(&["backup", "two", "--force"]).spawn(),
            world.command(&["snapshots"]).spawn(),
            world.command(&["restore", first.trim(), "--target", &target]).spawn(),
            world.command(&["check", "--read-data"]).spawn(),
        ];
        for run in runs {
            said(run.expect("it runs").wait_with_output().expect("it ended"));
        }
        for n in 0..300 {
            let name = n.to_string();
            let restored = fs::read(world.path(&target).join("storage/one").join(&name));
            assert!(
                restored.expect("a file")
                    == fs::read(world.path("one").join(&name)).expect("a file")
            );
        }
    }
    let listed = world.finish(&["snapshots", "--json"]);
    assert_eq!(listed.lines().filter(|line| line.contains("\"id\"")).count(), 7, "{listed}");
    world.finish(&["check", "--read-data"]);
}
