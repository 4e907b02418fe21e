//! A whole application, its life and its return: files and an SQLite database.
#![expect(clippy::disallowed_methods, reason = "tests write files as applications do")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use coeval::backend::Local;
use coeval::context::Context;
use coeval::hint::Failure;
use coeval::id::SnapshotId;
use coeval::repo::{Compression, ReadData, Repo, Unlocking};
use coeval::snapshot::{
    self, CaptureOptions, Destination, Mode, Overwrite, Parent, Reason, RecordRules, Scope,
    Selection, Snapshot, Timeline,
};
use coeval::source::{
    Directory, Extras, Files, FilesOptions, Kind, PathFilter, Source, Sqlite, SqliteTarget, Target,
};

struct App {
    folder: tempfile::TempDir,
    ctx: Context,
}

impl App {
    fn new() -> Self {
        let app = Self { folder: tempfile::tempdir().expect("a folder"), ctx: Context::new() };
        Repo::init(&app.backend(), &[], &app.ctx).expect("a repository");
        fs::create_dir_all(app.path("storage/documents/deep")).expect("folders");
        fs::write(app.path("storage/documents/deep/a.pdf"), vec![7; 700_000]).expect("a file");
        fs::write(app.path("storage/documents/b.txt"), "b").expect("a file");
        app.sql(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
             CREATE TABLE notes (code TEXT PRIMARY KEY, user INTEGER REFERENCES users(id), body);
             INSERT INTO users VALUES (1,'ann'),(2,'bob'),(3,'zoë');
             INSERT INTO notes VALUES ('x',1,NULL),('y',2,x'00ff'),('z',3,1.5);",
        );
        app
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn backend(&self) -> Local {
        Local::new(self.path("repository"))
    }

    fn sql(&self, text: &str) -> String {
        let output = Command::new("sqlite3").arg(self.path("db.sqlite3")).arg(text).output();
        let output = output.expect("sqlite3 is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn repo(&self) -> Arc<Repo> {
        let ask = || unreachable!("the repository is not encrypted");
        let opened =
            Repo::open(Arc::new(self.backend()), &Unlocking::Ask(&ask), &self.path("cache"));
        Arc::new(opened.expect("it opens"))
    }

    fn sqlite(&self) -> Sqlite {
        let url = format!("sqlite://{}", self.path("db.sqlite3").display());
        Sqlite::new("main", &url, Vec::new()).expect("a database")
    }

    fn files(&self) -> Files {
        let root = self.path("storage/documents");
        Files::new(Kind::Storage, "documents", root, FilesOptions::default()).expect("files")
    }

    fn backup(&self, repo: &Arc<Repo>) -> SnapshotId {
        let (mut sqlite, mut files) = (self.sqlite(), self.files());
        let mut sources: [&mut dyn Source; 2] = [&mut files, &mut sqlite];
        let options = options(Reason::Backup);
        let captured = snapshot::capture(repo, &mut sources, &options, Mode::Commit, &self.ctx);
        let captured = captured.expect("a snapshot");
        assert_eq!(captured.manifest.skipped, []);
        captured.id.expect("committed")
    }

    fn open(repo: &Arc<Repo>, id: SnapshotId) -> Snapshot {
        let timeline = Timeline::load(repo).expect("a timeline");
        let manifest = timeline.get(id).expect("the snapshot").clone();
        Snapshot { repo: Arc::clone(repo), id, manifest }
    }

    fn restore(&self, repo: &Arc<Repo>, id: SnapshotId) -> Result<snapshot::Restored, Failure> {
        let snapshot = Self::open(repo, id);
        let mut database = SqliteTarget::new(self.sqlite());
        let mut storage = Directory::new(self.files());
        let mut destinations = [
            to(Kind::Database, "main", &mut database),
            to(Kind::Storage, "documents", &mut storage),
        ];
        let options = options(Reason::BeforeRestore { of: id, into: Vec::new() });
        snapshot::restore(&snapshot, &mut destinations, &options, &self.ctx)
    }

    /// Everything that can be seen of the application.
    fn state(&self) -> (String, String) {
        let listing = Command::new("sh")
            .arg("-c")
            .arg("find . -printf '%P %m %s %T@ %l\\n' | sort; find . -type f -exec sha256sum {} + | sort")
            .current_dir(self.path("storage/documents"))
            .output()
            .expect("find is installed");
        (self.sql(".dump"), String::from_utf8_lossy(&listing.stdout).into_owned())
    }
}

fn to<'a>(kind: Kind, name: &str, target: &'a mut dyn Target) -> Destination<'a> {
    Destination {
        kind,
        name: name.to_owned(),
        target,
        selection: Selection::Everything,
        extras: Extras::Delete,
        overwrite: Overwrite::Always,
        paths: PathFilter::default(),
        records: RecordRules::default(),
        owners: None,
    }
}

fn options(reason: Reason) -> CaptureOptions {
    CaptureOptions {
        host: "here".into(),
        application: "app".into(),
        tags: vec![],
        parent: Parent::Newest,
        reason,
        compression: Compression::Auto,
        compare: false,
    }
}

fn damage(app: &App) {
    app.sql(
        "DELETE FROM notes WHERE code='x'; DELETE FROM users WHERE id=1;
             UPDATE users SET name='eve' WHERE id=2; INSERT INTO users VALUES (9,'mallory');",
    );
    fs::write(app.path("storage/documents/deep/a.pdf"), "garbage").expect("overwritten");
    fs::remove_file(app.path("storage/documents/b.txt")).expect("removed");
    fs::write(app.path("storage/documents/extra"), "extra").expect("added");
}

#[test]
fn an_application_comes_back_as_it_was_and_the_restore_can_be_undone() {
    let app = App::new();
    let repo = app.repo();
    let good = app.backup(&repo);
    let before = app.state();
    damage(&app);
    let damaged = app.state();
    assert_ne!(before, damaged);

    let restored = app.restore(&repo, good).expect("restored");
    assert_eq!(app.state(), before);
    assert_eq!(restored.verified.len(), 3);

    let undo = restored.before.expect("a snapshot was taken before");
    app.restore(&repo, undo).expect("undone");
    assert_eq!(app.state(), damaged);

    let report = snapshot::check(&repo, ReadData::Everything, &app.ctx).expect("a check");
    assert_eq!(report.findings, []);
}

#[test]
fn an_unchanged_application_adds_only_a_manifest() {
    let app = App::new();
    let repo = app.repo();
    // Files younger than two seconds are read again, by the racy-timestamp rule.
    for name in ["deep/a.pdf", "b.txt"] {
        let file = fs::File::options().write(true).open(app.path("storage/documents").join(name));
        let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        file.expect("a file").set_modified(past).expect("set");
    }
    let first = App::open(&repo, app.backup(&repo));
    let second = App::open(&repo, app.backup(&repo));
    assert_eq!(first.manifest.root_hash(), second.manifest.root_hash());
    assert!(second.manifest.written.stored < 20_000, "{:?}", second.manifest.written);
}

#[test]
fn a_diff_names_what_changed_and_nothing_else() {
    let app = App::new();
    let repo = app.repo();
    let old = App::open(&repo, app.backup(&repo));
    damage(&app);
    let new = App::open(&repo, app.backup(&repo));
    let mut changed = Vec::new();
    snapshot::diff(Some(&old), &new, &Scope::default(), &mut |item| {
        changed.push((item.kind, item.tree.name.clone()));
        Ok(())
    })
    .expect("a diff");
    let count = |kind, tree: &str| changed.iter().filter(|c| **c == (kind, tree.into())).count();
    assert_eq!(count(Kind::Database, "users"), 3);
    assert_eq!(count(Kind::Database, "notes"), 1);
    // Two files, one new one, and the folders whose times changed.
    assert!((3..=5).contains(&count(Kind::Storage, "")), "{changed:?}");
}

#[test]
fn a_plan_changes_nothing_and_counts_right() {
    let app = App::new();
    let repo = app.repo();
    let good = app.backup(&repo);
    damage(&app);
    let state = app.state();
    let snapshot = App::open(&repo, good);
    let mut database = SqliteTarget::new(app.sqlite());
    let mut destinations = [to(Kind::Database, "main", &mut database)];
    let plan = snapshot::plan(&snapshot, &mut destinations, &app.ctx).expect("a plan");
    let users = plan.trees.iter().find(|tree| tree.tree == "users").expect("the table");
    let changes = users.changes;
    assert_eq!((changes.inserted, changes.updated, changes.deleted), (1, 1, 1));
    assert_eq!(app.state(), state);
    assert_eq!(
        Timeline::load(&repo).expect("a timeline").iter(&snapshot::Filter::default()).count(),
        1
    );
}

#[test]
fn a_snapshot_is_restored_into_empty_places() {
    let app = App::new();
    let repo = app.repo();
    let good = app.backup(&repo);
    let before = app.state();
    fs::remove_file(app.path("db.sqlite3")).expect("removed");
    fs::remove_dir_all(app.path("storage")).expect("removed");
    fs::create_dir_all(app.path("storage")).expect("made");
    let restored = app.restore(&repo, good).expect("restored");
    assert!(restored.before.is_none(), "there was nothing to save");
    assert_eq!(app.state(), before);
}

fn truncate(path: &Path) {
    let length = fs::metadata(path).expect("a pack").len();
    let mut permissions = fs::metadata(path).expect("a pack").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(path, permissions).expect("writable");
    let file = fs::File::options().write(true).open(path).expect("a pack");
    file.set_len(length / 2).expect("truncated");
}

#[test]
fn a_truncated_pack_fails_only_its_own_files() {
    let app = App::new();
    let repo = app.repo();
    app.backup(&repo);
    let old: Vec<_> = packs(&app);
    let big: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(app.path("storage/documents/big"), &big).expect("a file");
    app.backup(&repo);
    let biggest = packs(&app)
        .into_iter()
        .filter(|pack| !old.contains(pack))
        .max_by_key(|pack| fs::metadata(pack).expect("a pack").len())
        .expect("a new pack");
    truncate(&biggest);
    let fresh = app.repo();
    let report = snapshot::check(&fresh, ReadData::Everything, &app.ctx).expect("a check");
    let files: Vec<_> = report
        .findings
        .iter()
        .map(|finding| finding.object.as_str())
        .filter(|o| o.starts_with("snapshot"))
        .collect();
    assert!(!files.is_empty(), "{report:?}");
    assert!(
        files.iter().all(|object| object.ends_with("documents/big") || object.ends_with("/big")),
        "{files:?}"
    );
}

fn packs(app: &App) -> Vec<PathBuf> {
    let folders = fs::read_dir(app.path("repository/packs")).expect("packs");
    folders
        .flat_map(|folder| fs::read_dir(folder.expect("a folder").path()).expect("packs"))
        .map(|pack| pack.expect("a pack").path())
        .collect()
}
