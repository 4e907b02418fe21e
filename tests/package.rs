//! The example application on its way through the package: into stock Django, and back into
//! coeval, by the one map of models and by the other.
#![expect(clippy::disallowed_methods, reason = "a test writes files as applications do")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use coeval::backend::Local;
use coeval::context::Context;
use coeval::export::django::DjangoDatabase;
use coeval::export::package::open::{OpenOptions, Package, Schema};
use coeval::export::package::read::{Extra, Limits};
use coeval::export::package::verify::{Outcome, Verification};
use coeval::export::package::{ExportOptions, Exported, SecretsPolicy, export};
use coeval::export::snapshot::SnapshotContents;
use coeval::repo::{Compression, Repo, Unlocking};
use coeval::snapshot::{self, CaptureOptions, Mode, Parent, Reason, Snapshot};
use coeval::source::{Files, FilesOptions, Kind, Source, Sqlite};

struct Django {
    python: PathBuf,
    home: tempfile::TempDir,
}

impl Django {
    /// An installation of the example with an empty, migrated database.
    fn new(series: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(root.join("scripts/venv.sh")).arg(series).output();
        let output = output.expect("a shell");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let python = String::from_utf8(output.stdout).expect("a path").trim().into();
        let django = Self { python, home: tempfile::tempdir().expect("a folder") };
        django.manage(&["migrate", "--verbosity", "0"], None);
        django
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn manage(&self, arguments: &[&str], input: Option<&Path>) -> String {
        let manage = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/edms/manage.py");
        let stdin =
            input.map_or_else(Stdio::null, |path| fs::File::open(path).expect("a file").into());
        let output = Command::new(&self.python)
            .arg(manage)
            .args(arguments)
            .env("EDMS_HOME", self.home.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(stdin)
            .output()
            .expect("python");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn introspection(&self) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/export/introspect.py");
        let said = self.manage(&["shell"], Some(&script));
        let line = said.lines().find(|line| line.starts_with("{\"django\""));
        line.expect("a line of JSON").to_owned()
    }

    /// The sources, with what the application says about its models.
    fn sources(&self) -> Vec<Box<dyn Source>> {
        let mut sources = self.untold_sources();
        let manage = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/edms/manage.py");
        let python = self.path("python");
        let (home, real) = (self.home.path().display(), self.python.display());
        let script = format!(
            "#!/bin/sh\nEDMS_HOME='{home}' PYTHONDONTWRITEBYTECODE=1 exec '{real}' \"$@\"\n"
        );
        fs::write(&python, script).expect("a script");
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("executable");
        let database = sources.remove(0);
        sources.insert(0, Box::new(DjangoDatabase::new(database, manage, python)));
        sources
    }

    fn untold_sources(&self) -> Vec<Box<dyn Source>> {
        let url = format!("sqlite://{}", self.path("db.sqlite3").display());
        let mut sources: Vec<Box<dyn Source>> =
            vec![Box::new(Sqlite::new("main", &url, Vec::new()).expect("a database"))];
        for name in ["documents", "media"] {
            let path = self.path("storage").join(name);
            if path.exists() {
                let files = Files::new(Kind::Storage, name, path, FilesOptions::default());
                sources.push(Box::new(files.expect("files")));
            }
        }
        sources
    }
}

struct Store {
    folder: tempfile::TempDir,
    repo: Arc<Repo>,
    ctx: Context,
}

impl Store {
    fn new() -> Self {
        let (folder, ctx) = (tempfile::tempdir().expect("a folder"), Context::new());
        let backend = Local::new(folder.path().join("repository"));
        Repo::init(&backend, &[], &ctx).expect("a repository");
        let ask = || unreachable!("the repository is not encrypted");
        let cache = folder.path().join("cache");
        let repo = Repo::open(Arc::new(backend), &Unlocking::Ask(&ask), &cache).expect("it opens");
        Self { folder, repo: Arc::new(repo), ctx }
    }

    fn capture(&self, mut sources: Vec<Box<dyn Source>>) -> Snapshot {
        let mut sources: Vec<&mut dyn Source> =
            sources.iter_mut().map(|source| &mut **source as _).collect();
        let options = CaptureOptions {
            host: "here".into(),
            application: "edms".into(),
            tags: vec![],
            parent: Parent::None,
            reason: Reason::Backup,
            compression: Compression::Auto,
            compare: false,
        };
        let captured =
            snapshot::capture(&self.repo, &mut sources, &options, Mode::Commit, &self.ctx);
        let captured = captured.expect("a snapshot");
        let id = captured.id.expect("committed");
        Snapshot { repo: Arc::clone(&self.repo), id, manifest: captured.manifest }
    }

    fn export(&self, snapshot: Snapshot, secrets: SecretsPolicy) -> (PathBuf, Exported) {
        let contents = SnapshotContents::new(snapshot).expect("contents");
        let path = self.folder.path().join("package.tar.gz");
        let scratch = self.folder.path().to_owned();
        let options = ExportOptions { only: None, secrets, seal: None, level: 6, scratch };
        let mut out = fs::File::create(&path).expect("a file");
        let exported = export(&contents, &mut out, &options, &self.ctx).expect("a package");
        (path, exported)
    }

    fn open(&self, package: &Path) -> (Package, Verification) {
        let options = OpenOptions {
            scratch: self.folder.path().to_owned(),
            limits: Limits::default(),
            extra: Extra::Refuse,
        };
        let mut file = fs::File::open(package).expect("a file");
        let package = Package::open(&mut file, &options, &self.ctx).expect("a package");
        let verification = package.verify(None, &self.ctx).expect("checks");
        (package, verification)
    }

    /// The root of every tree.
    fn roots(snapshot: &Snapshot) -> BTreeMap<String, String> {
        let mut roots = BTreeMap::new();
        for source in &snapshot.manifest.sources {
            for record in snapshot.trees(source).expect("trees") {
                let name = format!("{}/{}/{}", source.kind.as_str(), source.name, record.info.name);
                roots.insert(name, format!("{} {}", record.tree.root, record.tree.entries));
            }
        }
        roots
    }
}

fn differing(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> BTreeSet<String> {
    a.iter()
        .chain(b)
        .map(|(name, _)| name.clone())
        .filter(|name| a.get(name) != b.get(name))
        .collect()
}

fn unpack(package: &Path, into: &Path) {
    fs::create_dir_all(into).expect("a folder");
    let status = Command::new("tar").arg("-xzf").arg(package).arg("-C").arg(into).status();
    assert!(status.expect("tar").success());
}

/// Tables that come back in other bytes: sessions and migrations are no part of a fixture, pairs
/// get new numbers.
const LOSSES: [&str; 8] = [
    "django_session",
    "django_migrations",
    "document_versions",
    "documents",
    "documents_tags",
    "users_user_permissions",
    "workflow_states",
    "workflow_states_next_states",
];

fn round_trip(series: &str) {
    let (store, source) = (Store::new(), Django::new(series));
    source.manage(&["seed"], None);
    let before = store.capture(source.sources());
    let (package, exported) = store.export(before.clone(), SecretsPolicy::Redact);
    assert!(exported.records > 100, "{exported:?}");
    let (_, verification) = store.open(&package);
    assert!(verification.outcome() < Outcome::Warning, "{verification:#?}");

    // Stock Django: twice, because loading again must change nothing.
    let unpacked = store.folder.path().join("unpacked");
    unpack(&package, &unpacked);
    let target = Django::new(series);
    let fixture = unpacked.join("database/database_backup.json");
    for _ in 0..2 {
        let said = target.manage(&["loaddata", &fixture.display().to_string()], None);
        assert!(said.contains(&format!("Installed {} object(s)", exported.records)), "{said}");
    }
    // The application's own comparison, table by table, in one form for all.
    let fingerprint = |django: &Django| {
        django.manage(
            &["fingerprint", "--exclude", "django_session", "--exclude", "django_migrations"],
            None,
        )
    };
    assert_eq!(fingerprint(&source), fingerprint(&target));
    let after = store.capture(target.sources());
    let different = differing(&Store::roots(&before), &Store::roots(&after));
    for table in different.iter().filter_map(|name| name.strip_prefix("database/main/")) {
        assert!(LOSSES.contains(&table), "{table} differs after loaddata");
    }
}

#[test]
fn stock_django_loads_what_is_exported() {
    round_trip("5.2");
}

#[test]
fn an_older_stock_django_loads_it_too() {
    round_trip("4.2");
}

/// The way without coeval, as RESTORE_INSTRUCTIONS.md tells it.
#[test]
fn the_packaged_script_restores_records_and_uploads() {
    let (store, source) = (Store::new(), Django::new("5.2"));
    source.manage(&["seed"], None);
    let before = store.capture(source.sources());
    let (package, _) = store.export(before, SecretsPolicy::Redact);
    let unpacked = store.folder.path().join("unpacked");
    unpack(&package, &unpacked);
    let target = Django::new("5.2");
    let manage = format!(
        "{} {}/examples/edms/manage.py",
        target.python.display(),
        env!("CARGO_MANIFEST_DIR")
    );
    let restore = || {
        let mut command = Command::new("sh");
        command.arg(unpacked.join("scripts/restore.sh")).args(["--manage", &manage, "--storage"]);
        command.arg(target.path("storage")).env("EDMS_HOME", target.home.path());
        command.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("a shell")
    };
    let first = restore();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let compared = ["fingerprint", "--exclude", "django_session", "--exclude", "django_migrations"];
    assert_eq!(source.manage(&compared, None), target.manage(&compared, None));
    let files = |django: &Django| {
        let output = Command::new("sh")
            .args(["-c", "find . -type f -exec sha256sum {} + | sort"])
            .current_dir(django.path("storage"))
            .output()
            .expect("find");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert!(files(&source).lines().count() > 3);
    assert_eq!(files(&source), files(&target));
    let again = restore();
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("the database has records of"));
}

/// What stock `dumpdata` wrote comes back as the rows it was dumped from.
#[test]
fn a_stock_dump_becomes_records_of_the_database_it_belongs_to() {
    let (store, source) = (Store::new(), Django::new("5.2"));
    source.manage(&["seed"], None);
    let before = store.capture(source.sources());
    let dump = source.path("dump.json");
    source.manage(&["dumpdata", "--all", "-o", &dump.display().to_string()], None);
    let mut database = source.sources().remove(0);
    let description = database.begin(None, &store.ctx).expect("a description");
    let schema = Schema {
        name: "main".to_owned(),
        header: description.header,
        trees: description.trees,
        introspection: Some(source.introspection()),
    };
    database.end().expect("the end");
    let options = OpenOptions {
        scratch: store.folder.path().to_owned(),
        limits: Limits::default(),
        extra: Extra::Refuse,
    };
    let mut file = fs::File::open(&dump).expect("a file");
    let package = Package::open(&mut file, &options, &store.ctx).expect("a package");
    let after = store.capture(package.into_sources(Some(&schema), &store.ctx).expect("sources"));
    let counts = |snapshot: &Snapshot| -> BTreeMap<String, u64> {
        let trees = snapshot.trees(&snapshot.manifest.sources[0]).expect("trees").into_iter();
        let trees = trees.filter(|record| record.info.name != "django_migrations");
        trees.map(|record| (record.info.name, record.tree.entries)).collect()
    };
    assert_eq!(counts(&before), counts(&after));
    // Tables without times, files, pairs or row numbers come back to the byte.
    let (before, after) = (Store::roots(&before), Store::roots(&after));
    for table in [
        "roles",
        "departments",
        "auth_group",
        "documents_tag",
        "auth_permission",
        "django_content_type",
    ] {
        let name = format!("database/main/{table}");
        assert_eq!(before[&name], after[&name], "{table}");
    }
}

#[test]
fn an_import_has_the_trees_of_the_snapshot() {
    let (store, source) = (Store::new(), Django::new("5.2"));
    source.manage(&["seed"], None);
    for sources in [source.sources(), source.untold_sources()] {
        let before = store.capture(sources);
        let (package, _) = store.export(before.clone(), SecretsPolicy::Plaintext);
        let (package, _) = store.open(&package);
        let after = store.capture(package.into_sources(None, &store.ctx).expect("sources"));
        assert_eq!(differing(&Store::roots(&before), &Store::roots(&after)), BTreeSet::new());
    }
}
