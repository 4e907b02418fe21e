//! What the commands share: configuration, output, context, and the way to the repository.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::args::Globals;
use super::config::{Config, dereference};
use super::environment::Environment;
use super::error::usage;
use super::output::{Output, Verbosity};
use super::progress::Progress;
use super::unlock::{self, Secret};
use crate::backend::{self, Backend, Limited, Limits};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::repo::{Repo, Unlocking};
use crate::report::{Event, Reporter};
use crate::snapshot::{self, Filter, Skipped, Snapshot, Timeline, Until};

/// The program as it was called.
pub struct App {
    globals: Globals,
    environment: Environment,
    config: OnceCell<Config>,
    /// Where results go.
    pub output: Arc<Output>,
    /// Where progress goes.
    pub progress: Arc<Progress>,
    /// For every operation of the library.
    pub ctx: Context,
}

impl App {
    /// Looks at the environment; the configuration file and the repository are opened by those
    /// who need them.
    pub fn new(globals: Globals) -> Result<Self, Failure> {
        let verbosity = match (globals.quiet, globals.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, _) => Verbosity::Verbose,
        };
        let output = Arc::new(Output::new(globals.format(), verbosity));
        let progress = Arc::new(Progress::new(Arc::clone(&output)));
        let mut ctx = Context::new();
        ctx.reporter = Arc::clone(&progress) as Arc<dyn Reporter>;
        ctx.jobs = globals.jobs.map_or(ctx.jobs, usize::from);
        ctx.start_threads()?;
        let environment = Environment::read()?;
        Ok(Self { globals, environment, config: OnceCell::new(), output, progress, ctx })
    }

    /// The configuration file; empty where there is none.
    pub fn config(&self) -> Result<&Config, Failure> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let config = Config::find(self.globals.config.as_deref(), &self.environment)?;
        Ok(self.config.get_or_init(|| config))
    }

    /// Where the repository is.
    pub fn place(&self) -> Result<String, Failure> {
        if let Some(place) = self.globals.repo.as_ref().or(self.environment.repository.as_ref()) {
            return Ok(place.clone());
        }
        match &self.config()?.repository.url {
            Some(url) => dereference(url, "[repository] url"),
            None => Err(usage(
                "no repository is named",
                "name one with --repo PLACE, COEVAL_REPOSITORY or `url` in [repository] of \
                 coeval.toml",
            )),
        }
    }

    /// The pattern that leaves the repository out of a directory that it lies in. It is no part of
    /// the application, and a restore that takes it for one deletes every snapshot since.
    pub fn repository_below(&self, root: &Path) -> Result<Option<String>, Failure> {
        let place = self.place()?;
        let place = place.strip_prefix("file://").unwrap_or(&place);
        // What is not there yet is not in the way.
        let (Ok(place), Ok(root)) = (std::fs::canonicalize(place), std::fs::canonicalize(root))
        else {
            return Ok(None);
        };
        let Ok(below) = place.strip_prefix(&root) else { return Ok(None) };
        let Some(below) = below.to_str().filter(|below| !below.is_empty()) else {
            return Ok(None);
        };
        let mut pattern = String::from("/");
        for c in below.chars() {
            if matches!(c, '\\' | '*' | '?' | '[' | ' ') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('/');
        Ok(Some(pattern))
    }

    /// The backend at that place.
    pub fn backend(&self) -> Result<Arc<dyn Backend>, Failure> {
        self.backend_keeping(self.globals.cache_size)
    }

    fn backend_keeping(&self, cache: u64) -> Result<Arc<dyn Backend>, Failure> {
        let mut settings = self.environment.stores.clone();
        settings.patience = Duration::from_secs(self.globals.retry_for);
        settings.cache = cache;
        settings.cold_class.clone_from(&self.globals.content_class);
        let backend = backend::open(&self.place()?, &settings)?;
        let (upload, download) = (self.globals.limit_upload, self.globals.limit_download);
        if upload.is_none() && download.is_none() {
            return Ok(backend);
        }
        Ok(Arc::new(Limited::new(backend, Limits { upload, download })))
    }

    /// Where the key or password is that was given: flags before the environment before the
    /// configuration file.
    pub fn secret(&self) -> Result<Option<Secret>, Failure> {
        let (flags, environment) = (&self.globals, &self.environment);
        let key = |path: &Option<PathBuf>| path.clone().map(Secret::KeyFile);
        let file = |path: &Option<PathBuf>| path.clone().map(Secret::PasswordFile);
        let by_flag = unlock::only(vec![
            ("--key-file", key(&flags.key_file)),
            ("--password-file", file(&flags.password_file)),
        ])?;
        if by_flag.is_some() {
            return Ok(by_flag);
        }
        let command = environment.password_command.clone().map(Secret::PasswordCommand);
        let by_environment = unlock::only(vec![
            ("COEVAL_KEY_FILE", key(&environment.key_file)),
            ("COEVAL_PASSWORD", environment.password.clone().map(Secret::Password)),
            ("COEVAL_PASSWORD_FILE", file(&environment.password_file)),
            ("COEVAL_PASSWORD_COMMAND", command),
        ])?;
        if by_environment.is_some() {
            return Ok(by_environment);
        }
        Ok(key(&self.config()?.repository.key_file))
    }

    /// Where the password of a package is: the flag before the environment.
    pub fn package_secret(&self, file: Option<&Path>) -> Result<Option<Secret>, Failure> {
        if let Some(file) = file {
            return Ok(Some(Secret::PasswordFile(file.to_owned())));
        }
        let environment = &self.environment;
        let file = environment.package_password_file.clone().map(Secret::PasswordFile);
        let command = environment.package_password_command.clone().map(Secret::PasswordCommand);
        unlock::only(vec![
            ("COEVAL_PACKAGE_PASSWORD", environment.package_password.clone().map(Secret::Password)),
            ("COEVAL_PACKAGE_PASSWORD_FILE", file),
            ("COEVAL_PACKAGE_PASSWORD_COMMAND", command),
        ])
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Arc<Repo>, Failure> {
        self.open_at(self.backend()?)
    }

    /// The same for who wants to know what the store has, not what was kept of it on this host.
    pub fn open_afresh(&self) -> Result<Arc<Repo>, Failure> {
        self.open_at(self.backend_keeping(0)?)
    }

    fn open_at(&self, backend: Arc<dyn Backend>) -> Result<Arc<Repo>, Failure> {
        let cache = self.cache_dir()?;
        let ask = || unlock::ask(&self.ctx.cancel);
        let repo = match self.secret()? {
            None => Repo::open(backend, &Unlocking::Ask(&ask), &cache)?,
            Some(secret) => match secret.read() {
                Ok(unlock) => Repo::open(backend, &Unlocking::Given(&unlock), &cache)?,
                Err(unreadable) => {
                    // Where there is no repository, that is what the user must know first.
                    let nothing = || Err(usage("no key", ""));
                    let opened = Repo::open(backend, &Unlocking::Ask(&nothing), &cache);
                    let absent =
                        opened.err().filter(|error| error.kind() == ErrorKind::NoRepository);
                    return Err(absent.unwrap_or(unreadable));
                }
            },
        };
        repo.refresh_telling(&self.ctx)?;
        Ok(Arc::new(repo))
    }

    fn cache_dir(&self) -> Result<PathBuf, Failure> {
        let named = self.globals.cache_dir.clone().or_else(|| self.environment.cache_dir.clone());
        let user = || self.environment.user_cache.as_ref().map(|folder| folder.join("coeval"));
        named.or_else(user).ok_or_else(|| {
            usage(
                "there is no place for the cache: HOME is not set",
                "name one with --cache-dir DIR or COEVAL_CACHE_DIR",
            )
        })
    }

    /// A folder for large temporary files, which `/tmp` may have no room for.
    pub fn scratch_dir(&self) -> Result<PathBuf, Failure> {
        let folder = self.cache_dir()?;
        backend::create_private_dir(&folder).map_err(|error| {
            usage(
                format!("cannot make the cache directory {}: {error}", folder.display()),
                "name another one with --cache-dir DIR or COEVAL_CACHE_DIR",
            )
        })?;
        Ok(folder)
    }

    /// The snapshots that belong to the configured application, or all.
    pub fn filter(&self) -> Result<Filter, Failure> {
        let application = self.config()?.application.name.clone();
        Ok(Filter { application, ..Filter::default() })
    }

    /// The application that a new snapshot belongs to.
    pub fn application(&self) -> Result<String, Failure> {
        Ok(self.config()?.application.name.clone().unwrap_or_default())
    }

    /// All snapshots; warns of those that cannot be read or went missing.
    pub fn timeline(&self, repo: &Repo) -> Result<Timeline, Failure> {
        let timeline = Timeline::load(repo)?;
        timeline.warn(&self.ctx);
        Ok(timeline)
    }

    /// The snapshot that the user means.
    pub fn snapshot(&self, repo: &Arc<Repo>, text: &str) -> Result<Snapshot, Failure> {
        let timeline = self.timeline(repo)?;
        let (id, manifest) = timeline.select(text, &self.filter()?, &self.ctx)?;
        Ok(Snapshot { repo: Arc::clone(repo), id: *id, manifest: manifest.clone() })
    }
}

impl App {
    /// The state at a moment: a snapshot that holds it already, or one that is made of the
    /// snapshot before and the transactions since, where those were followed.
    pub fn moment(&self, repo: &Arc<Repo>, text: &str, until: &Until) -> Result<Snapshot, Failure> {
        let timeline = self.timeline(repo)?;
        let filter = self.filter()?;
        let Some(between) = snapshot::between(repo, &timeline, &filter, until)? else {
            if matches!(until, Until::Time(_)) {
                return self.snapshot(repo, text);
            }
            return Err(usage(
                "no snapshot holds the transactions around this one",
                "`coeval snapshots` lists what there is; `coeval database setup` makes later \
                 snapshots hold them",
            ));
        };
        self.ctx.phase("making the state of that moment", None);
        let state = between.derive(&self.ctx)?;
        for skipped in &state.manifest.skipped {
            let Skipped { item, reason } = skipped.clone();
            self.ctx.report(Event::Skipped { item, reason });
        }
        self.ctx.report(Event::Note(format!(
            "snapshot {} is {} with the {} transactions after it",
            state.id.short(),
            between.earlier.id.short(),
            between.transactions()
        )));
        Ok(state)
    }
}

/// The name of this machine.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
