//! kill -9 at any moment: what was committed is whole, and a database is as before or as asked.
#![expect(clippy::disallowed_methods, reason = "a test writes files and tells the time")]

#[path = "common/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coeval::backend::Local;
use coeval::context::Context;
use coeval::crypto::{KeyFile, Unlock};
use coeval::id::SnapshotId;
use coeval::repo::{ReadData, Repo, Unlocking};
use coeval::snapshot::{self, Filter, Timeline};

use cluster::Cluster;

const BACKUPS: u32 = 100;
const RESTORES: u32 = 100;
const RESTORES_POSTGRES: u32 = 40;

struct World {
    folder: tempfile::TempDir,
    random: blake3::OutputReader,
}

impl World {
    fn new() -> Self {
        let random = blake3::Hasher::new_keyed(&[9; 32]).finalize_xof();
        let mut world = Self { folder: tempfile::tempdir().expect("a folder"), random };
        fs::create_dir_all(world.path("files/deep")).expect("folders");
        world.sql(
            "CREATE TABLE rows (id INTEGER PRIMARY KEY, value TEXT, number REAL);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 3000)
             INSERT INTO rows SELECT i, hex(randomblob(40)), i / 7.0 FROM n;",
        );
        for _ in 0..40 {
            world.change();
        }
        world.finish(&["init"]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.path("db.sqlite3").display())
    }

    fn below(&mut self, limit: u32) -> u32 {
        let mut bytes = [0; 4];
        self.random.fill(&mut bytes);
        u32::from_le_bytes(bytes) % limit
    }

    fn sql(&self, text: &str) -> String {
        sqlite(&self.path("db.sqlite3"), text)
    }

    /// Changes a file and some rows.
    fn change(&mut self) {
        let folder = if self.below(2) == 0 { "files" } else { "files/deep" };
        let name = format!("{folder}/{}", self.below(60));
        let length = usize::try_from(self.below(60_000)).expect("short");
        let mut content = vec![0; length];
        self.random.fill(&mut content);
        fs::write(self.path(&name), content).expect("a file");
        let (id, value) = (self.below(3000), self.below(u32::MAX));
        self.sql(&format!("UPDATE rows SET value='{value}' WHERE id BETWEEN {id} AND {id}+9"));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coeval"));
        command
            .args(arguments)
            .env("COEVAL_REPOSITORY", self.path("repository"))
            .env("COEVAL_KEY_FILE", self.path("key"))
            .env("COEVAL_CACHE_DIR", self.path("cache"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn finish(&self, arguments: &[&str]) -> Duration {
        let start = Instant::now();
        let output = self.command(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        start.elapsed()
    }

    /// Starts a command and kills it at a random moment within a window; says whether it had
    /// finished well.
    fn kill(&mut self, arguments: &[&str], window: Duration) -> bool {
        let mut child: Child = self.command(arguments).spawn().expect("it runs");
        let micros = self.below(u32::try_from(window.as_micros()).expect("short").max(1));
        std::thread::sleep(Duration::from_micros(micros.into()));
        child.kill().expect("killed");
        child.wait().expect("it ended").success()
    }

    fn open(&self) -> Arc<Repo> {
        let text = fs::read_to_string(self.path("key")).expect("the key file");
        let key = Unlock::KeyFile(KeyFile::parse(&text).expect("a key"));
        let backend = Arc::new(Local::new(self.path("repository")));
        let cache = self.path("other-cache");
        Arc::new(Repo::open(backend, &Unlocking::Given(&key), &cache).expect("it opens"))
    }

    fn committed(&self) -> Vec<SnapshotId> {
        let timeline = Timeline::load(&self.open()).expect("a timeline");
        timeline.iter(&Filter::default()).map(|(id, _)| *id).collect()
    }

    fn assert_sound(&self) {
        let report = snapshot::check(&self.open(), ReadData::Everything, &Context::new());
        assert_eq!(report.expect("a check").findings, []);
    }
}

/// The window for the next kill: wider after one that came too early, narrower after one that came
/// too late, so that both happen however busy the machine is.
fn adjust(window: Duration, killed: Killed) -> Duration {
    match killed {
        Killed::Early => window * 6 / 5,
        Killed::Late => window * 4 / 5,
    }
}

/// Whether a kill came before the work was committed, or after.
#[derive(Clone, Copy)]
enum Killed {
    Early,
    Late,
}

fn sqlite(database: &Path, text: &str) -> String {
    let output = Command::new("sqlite3").arg(database).arg(text).output();
    let output = output.expect("sqlite3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Every file with its content, by name.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below").to_owned();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

#[test]
fn every_snapshot_committed_before_a_kill_restores() {
    let mut world = World::new();
    let url = world.url();
    let backup = ["backup", "files", "--database", url.as_str()];
    world.finish(&backup);
    world.change();
    let mut window = world.finish(&backup);
    let mut known = world.committed();
    let mut ledger = BTreeMap::new();
    for _ in 0..BACKUPS {
        world.change();
        let finished = world.kill(&backup, window);
        let new: Vec<_> = world.committed().into_iter().filter(|id| !known.contains(id)).collect();
        assert!(new.len() <= 1 && (!finished || new.len() == 1), "{new:?}");
        window = adjust(window, if new.is_empty() { Killed::Early } else { Killed::Late });
        for id in new {
            known.push(id);
            ledger.insert(id, (files(&world.path("files")), world.sql(".dump")));
        }
    }
    assert!(!ledger.is_empty() && ledger.len() < BACKUPS as usize, "{} committed", ledger.len());
    world.assert_sound();
    for (id, (wanted, dump)) in &ledger {
        let target = world.path(&format!("restored-{id}"));
        let folder = target.to_str().expect("UTF-8");
        world.finish(&["restore", &id.to_string(), "--target", folder]);
        assert!(files(&target.join("storage/files")) == *wanted, "the files of {id}");
        let database = format!("sqlite://{folder}/db.sqlite3");
        let path = format!("{id}:/database");
        world.finish(&["restore", &path, "--database", &database]);
        assert!(sqlite(&target.join("db.sqlite3"), ".dump") == *dump, "the database of {id}");
    }
}

/// A database that is wrecked and restored.
trait Database {
    fn url(&self) -> String;

    /// Everything in it, in a form that tells any difference.
    fn dump(&self) -> Vec<String>;

    /// Changes it in a way of its own each time.
    fn wreck(&self, world: &mut World);

    /// Waits until whatever a killed client left behind has ended.
    fn settle(&self);
}

/// The database file of a world.
struct Sqlite(PathBuf);

impl Database for Sqlite {
    fn url(&self) -> String {
        format!("sqlite://{}", self.0.display())
    }

    fn dump(&self) -> Vec<String> {
        vec![sqlite(&self.0, ".dump")]
    }

    fn wreck(&self, world: &mut World) {
        world.change();
    }

    fn settle(&self) {}
}

impl Database for Cluster {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn dump(&self) -> Vec<String> {
        self.dump()
    }

    fn wreck(&self, world: &mut World) {
        let first = world.below(200);
        self.sql(&format!(
            "DELETE FROM rows WHERE owner = {first}; DELETE FROM people WHERE id = {first};
             UPDATE rows SET value = 'wrecked' WHERE id % 97 = {};
             INSERT INTO people VALUES ({}, 'intruder');",
            first % 97,
            1000 + first
        ));
    }

    /// The server ends the transaction of a client that is gone when it next looks.
    fn settle(&self) {
        self.sql("BEGIN; LOCK TABLE rows, people IN ACCESS EXCLUSIVE MODE; COMMIT");
    }
}

/// Wrecks a database and kills its restore, again and again, at all moments.
fn restores_wholly_or_not_at_all(world: &mut World, database: &dyn Database, restores: u32) {
    let url = database.url();
    world.finish(&["backup", "--database", &url]);
    let wanted = database.dump();
    let id = world.committed().pop().expect("a snapshot").to_string();
    let restore = ["restore", id.as_str(), "--database", url.as_str()];
    database.wreck(world);
    let mut window = world.finish(&restore);
    assert!(database.dump() == wanted, "a restore that is left alone");
    let (mut before_count, mut after_count) = (0, 0);
    for _ in 0..restores {
        database.wreck(world);
        let before = database.dump();
        let finished = world.kill(&restore, window);
        database.settle();
        let after = database.dump();
        window = adjust(window, if after == wanted { Killed::Late } else { Killed::Early });
        if after == wanted {
            after_count += 1;
            continue;
        }
        assert!(after == before, "the database is neither as before nor as asked");
        assert!(!finished, "the restore said that it was done");
        before_count += 1;
        // From a known state, so that no wreck meets the traces of another.
        world.finish(&restore);
    }
    assert!(before_count > 0 && after_count > 0, "{before_count} before, {after_count} after");
    world.assert_sound();
}

#[test]
fn a_sqlite_database_is_as_before_or_as_asked_whenever_the_restore_is_killed() {
    let mut world = World::new();
    let database = Sqlite(world.path("db.sqlite3"));
    restores_wholly_or_not_at_all(&mut world, &database, RESTORES);
}

#[test]
fn a_postgresql_database_is_as_before_or_as_asked_whenever_the_restore_is_killed() {
    let mut world = World::new();
    let cluster = Cluster::start(world.folder.path());
    cluster.sql(
        "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL);
         CREATE TABLE rows (id int PRIMARY KEY, owner int REFERENCES people, value text);
         INSERT INTO people SELECT i, 'person ' || i FROM generate_series(1, 200) i;
         INSERT INTO rows SELECT i, 1 + i % 200, md5(i::text) FROM generate_series(1, 20000) i;",
    );
    restores_wholly_or_not_at_all(&mut world, &cluster, RESTORES_POSTGRES);
}
