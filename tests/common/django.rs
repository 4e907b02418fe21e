//! Stock Django, and a repository that its databases are captured into: what the tests of fixtures
//! and packages need.
#![allow(dead_code, reason = "each file of tests needs a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use coeval::backend::Local;
use coeval::context::Context;
use coeval::export::django::DjangoDatabase;
use coeval::export::package::open::{OpenOptions, Package, Schema};
use coeval::export::package::read::{Extra, Limits};
use coeval::export::package::verify::Verification;
use coeval::export::package::{ExportOptions, Exported, SecretsPolicy, export};
use coeval::export::snapshot::SnapshotContents;
use coeval::repo::{Compression, Repo, Unlocking};
use coeval::snapshot::{self, CaptureOptions, Mode, Parent, Reason, Snapshot};
use coeval::source::{Files, FilesOptions, Kind, Postgres, PostgresOptions, Source, Sqlite};

/// A project with every kind of field and relation.
pub const EVERY: &str = "tests/every";
/// The example application.
pub const EDMS: &str = "examples/edms";

/// A project of stock Django with a database of its own.
pub struct Django {
    pub python: PathBuf,
    manage: PathBuf,
    /// Its PostgreSQL; without one it has SQLite.
    server: Option<String>,
    pub home: tempfile::TempDir,
}

impl Django {
    /// An installation of the example with an empty, migrated database.
    pub fn new(series: &str) -> Self {
        let django = Self::bare(series, EDMS, None);
        django.manage(&["migrate", "--verbosity", "0"]);
        django
    }

    /// A project without tables.
    pub fn bare(series: &str, project: &str, server: Option<String>) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(root.join("scripts/venv.sh")).arg(series).output();
        let output = output.expect("a shell");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let python = String::from_utf8(output.stdout).expect("a path").trim().into();
        let manage = root.join(project).join("manage.py");
        Self { python, manage, server, home: tempfile::tempdir().expect("a folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        let file = || format!("sqlite://{}", self.path("db.sqlite3").display());
        self.server.clone().unwrap_or_else(file)
    }

    fn try_manage(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.python);
        command.arg(&self.manage).args(arguments).stdin(Stdio::null());
        command.env("EDMS_HOME", self.home.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        match &self.server {
            Some(url) => command.env("DATABASE_URL", url),
            None => command.env_remove("DATABASE_URL"),
        };
        command.output().expect("python")
    }

    /// What a command prints.
    pub fn manage(&self, arguments: &[&str]) -> String {
        let output = self.try_manage(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// How a command complains that must fail.
    pub fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.try_manage(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A program that is its python with its environment, and its `manage.py`.
    pub fn application(&self) -> (PathBuf, PathBuf) {
        let python = self.path("python");
        let (home, real) = (self.home.path().display(), self.python.display());
        let server =
            self.server.as_ref().map_or(String::new(), |url| format!("DATABASE_URL='{url}' "));
        let script = format!(
            "#!/bin/sh\n{server}EDMS_HOME='{home}' PYTHONDONTWRITEBYTECODE=1 exec '{real}' \"$@\"\n"
        );
        fs::write(&python, script).expect("a script");
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("executable");
        (python, self.manage.clone())
    }

    pub fn introspection(&self) -> String {
        let (python, manage) = self.application();
        let said = coeval::export::django::introspect(&manage, &python).expect("an answer");
        String::from_utf8(said.models).expect("UTF-8")
    }

    /// The sources, with what the application says about its models.
    pub fn sources(&self) -> Vec<Box<dyn Source>> {
        let mut sources = self.untold_sources();
        let (python, manage) = self.application();
        let database = sources.remove(0);
        sources.insert(0, Box::new(DjangoDatabase::new(database, manage, python)));
        sources
    }

    pub fn untold_sources(&self) -> Vec<Box<dyn Source>> {
        let url = self.url();
        let mut sources: Vec<Box<dyn Source>> = vec![if self.server.is_some() {
            let options = PostgresOptions::default();
            Box::new(Postgres::new("main", &url, options).expect("a database"))
        } else {
            Box::new(Sqlite::new("main", &url, Vec::new()).expect("a database"))
        }];
        for name in ["documents", "media"] {
            let path = self.path("storage").join(name);
            if path.exists() {
                let files = Files::new(Kind::Storage, name, path, FilesOptions::default());
                sources.push(Box::new(files.expect("files")));
            }
        }
        sources
    }

    /// The structure of its database, for a fixture of others.
    pub fn schema(&self) -> Schema {
        let mut database = self.untold_sources().remove(0);
        let introspection = Some(self.introspection());
        Schema::of(&mut *database, introspection, &Context::new()).expect("a structure")
    }
}

/// A repository, and a folder for what is taken out of it.
pub struct Store {
    pub folder: tempfile::TempDir,
    pub repo: Arc<Repo>,
    pub ctx: Context,
}

impl Store {
    pub fn new() -> Self {
        let (folder, ctx) = (tempfile::tempdir().expect("a folder"), Context::new());
        let backend = Local::new(folder.path().join("repository"));
        Repo::init(&backend, &[], &ctx).expect("a repository");
        let ask = || unreachable!("the repository is not encrypted");
        let cache = folder.path().join("cache");
        let repo = Repo::open(Arc::new(backend), &Unlocking::Ask(&ask), &cache).expect("it opens");
        Self { folder, repo: Arc::new(repo), ctx }
    }

    pub fn capture(&self, mut sources: Vec<Box<dyn Source>>) -> Snapshot {
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

    pub fn export(&self, snapshot: Snapshot, secrets: SecretsPolicy) -> (PathBuf, Exported) {
        let contents = SnapshotContents::new(snapshot).expect("contents");
        let path = self.folder.path().join("package.tar.gz");
        let scratch = self.folder.path().to_owned();
        let options = ExportOptions::new(secrets, scratch);
        let mut out = fs::File::create(&path).expect("a file");
        let exported = export(&contents, &mut out, &options, &self.ctx).expect("a package");
        (path, exported)
    }

    /// A package or a fixture, not verified.
    pub fn read(&self, package: &Path) -> Package {
        let options = OpenOptions {
            scratch: self.folder.path().to_owned(),
            limits: Limits::default(),
            extra: Extra::Refuse,
        };
        let mut file = fs::File::open(package).expect("a file");
        Package::open(&mut file, &options, &self.ctx).expect("a package")
    }

    pub fn open(&self, package: &Path) -> (Package, Verification) {
        let package = self.read(package);
        let verification = package.verify(None, &self.ctx).expect("checks");
        (package, verification)
    }

    /// The root of every tree.
    pub fn roots(snapshot: &Snapshot) -> BTreeMap<String, String> {
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

/// The names of what is in one of the two, or in both and not the same.
pub fn differing(
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
) -> std::collections::BTreeSet<String> {
    let names = a.keys().chain(b.keys());
    names.filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

pub fn unpack(package: &Path, into: &Path) {
    fs::create_dir_all(into).expect("a folder");
    let status = Command::new("tar").arg("-xzf").arg(package).arg("-C").arg(into).status();
    assert!(status.expect("tar").success());
}
