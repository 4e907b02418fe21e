//! What the tests of PostgreSQL need: a private server, its databases, and a repository that is
//! played by maps in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use coeval::context::Context;
use coeval::hint::Failure;
use coeval::source::record::DatabaseHeader;
use coeval::source::{
    Applied, Delta, Description, Fit, Parent, Plan, Postgres, PostgresOptions, Source, Target,
    TreeInfo,
};
use coeval::tree::{Change, Changes, Content, EachRun, Sought, Value};

/// A private cluster, shared by the tests that run at the same time.
pub struct Cluster {
    directory: PathBuf,
    /// Where its first database is.
    pub url: String,
}

impl Cluster {
    pub fn shared() -> Arc<Self> {
        static CLUSTER: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut cluster = CLUSTER.lock().unwrap();
        cluster.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *cluster = Arc::downgrade(&started);
            started
        })
    }

    pub fn script() -> Command {
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres.sh"))
    }

    pub fn start() -> Self {
        let parent = tempfile::Builder::new().prefix("coeval-pg-").tempdir().unwrap().keep();
        // The server may run as another user than the tests.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&parent, open).unwrap();
        let directory = parent.join("cluster");
        let output = Self::script().arg("start").arg(&directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { directory, url: String::from_utf8(output.stdout).unwrap().trim().to_owned() }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stopped = Self::script().arg("stop").arg(&self.directory).status();
        let removed = self.directory.parent().map(std::fs::remove_dir_all);
        if !std::thread::panicking() {
            assert!(stopped.unwrap().success() && removed.unwrap().is_ok());
        }
    }
}

/// A database of its own for one test.
pub struct Database {
    /// Where it is.
    pub url: String,
    _cluster: Arc<Cluster>,
}

impl Database {
    pub fn empty() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cluster = Cluster::shared();
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let admin = Self { url: cluster.url.clone(), _cluster: Arc::clone(&cluster) };
        admin.sql(&format!("CREATE DATABASE {name} TEMPLATE template0"));
        let url = format!("{}/{name}", cluster.url.rsplit_once('/').unwrap().0);
        Self { url, _cluster: cluster }
    }

    pub fn with(sql: &str) -> Self {
        let database = Self::empty();
        database.sql(sql);
        database
    }

    pub fn psql(&self) -> Command {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url]);
        command
    }

    /// What `psql` prints for the statements.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap()
    }

    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let mut psql = self
            .psql()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut psql.stdin.take().unwrap(), sql.as_bytes()).unwrap();
        let output = psql.wait_with_output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// What `pg_dump` prints, with the rows of each table sorted.
    pub fn dump(&self) -> String {
        let output = Command::new("pg_dump").arg(&self.url).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let mut sorted = String::new();
        let mut rows: Option<Vec<&str>> = None;
        for line in text.lines() {
            match &mut rows {
                Some(within) if line == "\\." => {
                    within.sort_unstable();
                    sorted.push_str(&within.join("\n"));
                    sorted.push_str("\n\\.\n");
                    rows = None;
                }
                Some(within) => within.push(line),
                None if line.starts_with("\\restrict") || line.starts_with("\\unrestrict") => {}
                None => {
                    sorted.push_str(line);
                    sorted.push('\n');
                    if line.starts_with("COPY ") {
                        rows = Some(Vec::new());
                    }
                }
            }
        }
        sorted
    }

    pub fn open(&self) -> Postgres {
        self.open_with(PostgresOptions::default())
    }

    pub fn open_with(&self, options: PostgresOptions) -> Postgres {
        Postgres::new("main", &self.url, options).unwrap()
    }

    pub fn capture(&self) -> Captured {
        Captured::of(&mut self.open())
    }
}

pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A source in memory.
#[derive(Clone)]
pub struct Captured {
    /// What the source said of itself.
    pub description: Description,
    /// The rows by table.
    pub trees: BTreeMap<String, Rows>,
}

impl Captured {
    pub fn of(source: &mut dyn Source) -> Self {
        let ctx = Context::new();
        let description = source.begin(None, &ctx).unwrap();
        let mut trees = BTreeMap::new();
        for tree in &description.trees {
            let Delta::Everything(changes) = source.changes(tree, None, &ctx).unwrap() else {
                panic!("a full capture was asked for")
            };
            let mut rows = Rows::new();
            for change in changes {
                let Change { key, value } = change.unwrap();
                let Content::Inline(row) = value.unwrap().content else {
                    panic!("rows are at hand")
                };
                assert!(rows.last_key_value().is_none_or(|(last, _)| *last < key));
                rows.insert(key, row);
            }
            trees.insert(tree.name.clone(), rows);
        }
        source.end().unwrap();
        Self { description, trees }
    }

    /// The same source again, where it may say only what changed since. Says of which tables it
    /// said all.
    pub fn since(source: &mut dyn Source, before: &Self) -> Result<(Self, Vec<String>), Failure> {
        let ctx = Context::new();
        let mut after =
            Self { description: source.begin(None, &ctx)?, trees: before.trees.clone() };
        let mut read = Vec::new();
        for tree in after.description.trees.clone() {
            let rows = after.trees.entry(tree.name.clone()).or_default();
            let changes = match source.changes(&tree, Some(before), &ctx)? {
                Delta::Everything(changes) => {
                    read.push(tree.name.clone());
                    rows.clear();
                    changes
                }
                Delta::SinceParent(changes) => changes,
            };
            for change in changes {
                let Change { key, value } = change?;
                match value.map(|value| value.content) {
                    Some(Content::Inline(row)) => drop(rows.insert(key, row)),
                    Some(_) => panic!("rows are at hand"),
                    None => drop(rows.remove(&key)),
                }
            }
        }
        source.end()?;
        let is_there = |name: &str| after.description.trees.iter().any(|tree| tree.name == name);
        after.trees.retain(|name, _| is_there(name));
        Ok((after, read))
    }

    pub fn header(&self) -> DatabaseHeader {
        DatabaseHeader::from_json(&self.description.header).unwrap()
    }

    /// All but the estimates of how many rows there are.
    pub fn assert_same(&self, other: &Self) {
        let text = |header: &[u8]| String::from_utf8(header.to_vec()).unwrap();
        assert_eq!(text(&self.description.header), text(&other.description.header));
        for (tree, other) in self.description.trees.iter().zip(&other.description.trees) {
            assert_eq!((&tree.name, text(&tree.header)), (&other.name, text(&other.header)));
        }
        for (tree, rows) in &self.trees {
            assert!(*rows == other.trees[tree], "table {tree}");
        }
        assert_eq!(self.trees.len(), other.trees.len());
    }

    pub fn rows(&self, tree: &str) -> Vec<&str> {
        self.trees[tree].values().map(|row| str::from_utf8(row).unwrap()).collect()
    }
}

impl Parent for Captured {
    fn description(&self) -> Result<Description, Failure> {
        Ok(self.description.clone())
    }

    fn entries(&self, _tree: &str) -> Result<Option<Changes<'_>>, Failure> {
        unreachable!("a database does not read what it wrote")
    }

    fn count(&self, tree: &str) -> Result<Option<u64>, Failure> {
        Ok(self.trees.get(tree).map(|rows| rows.len() as u64))
    }
}

/// The way from one state to another.
pub struct Difference<'a> {
    /// `None` is the empty one.
    pub from: Option<&'a Captured>,
    /// What is wanted.
    pub to: &'a Captured,
}

impl Plan for Difference<'_> {
    fn wanted(&self) -> &Description {
        &self.to.description
    }

    fn trees(&self) -> &[TreeInfo] {
        &self.to.description.trees
    }

    fn changes<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure> {
        self.opened(tree)
    }

    fn present(&self, _: &TreeInfo, _: &[u8]) -> Result<Option<Value>, Failure> {
        unreachable!("the database knows its rows")
    }

    fn fetch(&self, _: &[Sought<'_>], _: &Context, _: &EachRun<'_>) -> Result<(), Failure> {
        unreachable!("rows are read one after the other")
    }

    fn is_left(&self, _: &[u8], _: &Content) -> Result<bool, Failure> {
        Ok(false)
    }

    fn opened<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure> {
        let empty = Rows::new();
        let from = self.from.map_or(&empty, |from| &from.trees[&tree.name]);
        let to = &self.to.trees[&tree.name];
        let mut changes: BTreeMap<&[u8], Change> = BTreeMap::new();
        for key in from.keys().filter(|key| !to.contains_key(*key)) {
            changes.insert(key, Change::delete(key.clone()));
        }
        for (key, row) in to.iter().filter(|(key, row)| from.get(*key) != Some(row)) {
            let content = Content::Reader(Box::new(std::io::Cursor::new(row.clone())));
            changes.insert(key, Change::put(key.clone(), Vec::new(), content));
        }
        Ok(Box::new(changes.into_values().map(Ok).collect::<Vec<_>>().into_iter()))
    }
}

/// Restores as `snapshot` will: read, fit, apply the difference, read again, commit.
pub fn restore(target: &mut dyn Target, wanted: &Captured) -> Result<(Fit, Applied), Failure> {
    let ctx = Context::new();
    target.begin(&ctx)?;
    let before = Captured::of(target.as_source());
    let fit = target.fit(&wanted.description, &ctx)?;
    let from = (fit == Fit::Kept).then_some(&before);
    let applied = target.apply(&Difference { from, to: wanted }, &ctx)?;
    let after = Captured::of(target.as_source());
    assert!(after.trees == wanted.trees, "the rows are those of the snapshot");
    let (proven, _) = Captured::since(target.as_source(), &before)?;
    assert!(proven.trees == wanted.trees, "what was written proves the same");
    target.commit()?;
    Ok((fit, applied))
}

pub fn assert_same_text(before: &str, after: &str) {
    let first = before.lines().zip(after.lines()).find(|(before, after)| before != after);
    assert!(
        before == after,
        "first difference: {first:#?}, {} to {} bytes",
        before.len(),
        after.len()
    );
}
