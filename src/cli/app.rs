//! What the commands share: configuration, output, context, and the way to the repository.

use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Done;
use super::args::Globals;
use super::audited::{self, Audited};
use super::config::{Config, dereference};
use super::environment::Environment;
use super::error::{failed, usage};
use super::output::{Output, Verbosity};
use super::progress::Progress;
use super::unlock::{self, Secret};
use crate::backend::{self, Backend, Limited, Limits};
use crate::context::Context;
use crate::crypto::{KdfCost, KeyFile, Unlock};
use crate::hint::{ErrorKind, Failure};
use crate::repo::format::audit::{Entry, Outcome};
use crate::repo::{Heads, NewKey, Repo, Unlocking};
use crate::report::{Event, Reporter};
use crate::snapshot::{self, Filter, Skipped, Snapshot, Timeline, Until};

/// A repository that is gone when the program ends. Its key is nowhere but in memory.
struct StandIn {
    repo: Arc<Repo>,
    // Removed after the repository is closed.
    _folder: tempfile::TempDir,
}

/// The program as it was called.
pub struct App {
    globals: Globals,
    environment: Environment,
    config: OnceCell<Config>,
    audited: Option<Audited>,
    /// The entries of the audit log that say that this command has begun.
    begun: RefCell<Vec<(Arc<Repo>, u64)>>,
    stand_in: OnceCell<StandIn>,
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
    pub fn new(globals: Globals, audited: Option<Audited>) -> Result<Self, Failure> {
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
        Ok(Self {
            globals,
            environment,
            config: OnceCell::new(),
            audited,
            begun: RefCell::default(),
            stand_in: OnceCell::new(),
            output,
            progress,
            ctx,
        })
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
        self.backend_keeping(&self.place()?, self.globals.cache_size)
    }

    /// The backend at another place, of which nothing is kept on this host.
    pub fn backend_at(&self, place: &str) -> Result<Arc<dyn Backend>, Failure> {
        self.backend_keeping(place, 0)
    }

    fn backend_keeping(&self, place: &str, cache: u64) -> Result<Arc<dyn Backend>, Failure> {
        let mut settings = self.environment.stores.clone();
        settings.patience = Duration::from_secs(self.globals.retry_for);
        settings.cache = cache;
        settings.cold_class.clone_from(&self.globals.content_class);
        let backend = backend::open(place, &settings)?;
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

    /// Where the key or password of a second repository is that was given: flags before the
    /// environment, and else that of the first.
    pub fn second_secret(
        &self,
        key_file: Option<&Path>,
        password_file: Option<&Path>,
    ) -> Result<Option<Secret>, Failure> {
        let by_flag = unlock::only(vec![
            ("--to-key-file", key_file.map(|path| Secret::KeyFile(path.to_owned()))),
            ("--to-password-file", password_file.map(|path| Secret::PasswordFile(path.to_owned()))),
        ])?;
        if by_flag.is_some() {
            return Ok(by_flag);
        }
        let second = &self.environment.second;
        let by_environment = unlock::only(vec![
            ("COEVAL_TO_KEY_FILE", second.key_file.clone().map(Secret::KeyFile)),
            ("COEVAL_TO_PASSWORD", second.password.clone().map(Secret::Password)),
            ("COEVAL_TO_PASSWORD_FILE", second.password_file.clone().map(Secret::PasswordFile)),
            (
                "COEVAL_TO_PASSWORD_COMMAND",
                second.password_command.clone().map(Secret::PasswordCommand),
            ),
        ])?;
        if by_environment.is_some() { Ok(by_environment) } else { self.secret() }
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Arc<Repo>, Failure> {
        if let Some(stand_in) = self.stand_in.get() {
            return Ok(Arc::clone(&stand_in.repo));
        }
        self.open_at(self.backend()?, self.secret()?)
    }

    /// Opens a second repository.
    pub fn open_second(&self, place: &str, secret: Option<Secret>) -> Result<Arc<Repo>, Failure> {
        self.open_at(self.backend_at(place)?, secret)
    }

    /// Puts an empty repository in the place of the configured one, until the program ends: for
    /// a dry run of what stores something and then looks at it.
    pub fn open_stand_in(&self) -> Result<(), Failure> {
        let folder = tempfile::Builder::new().prefix(".dry-run-").tempdir_in(self.scratch_dir()?);
        let folder = folder.map_err(|error| failed(format!("cannot make a folder: {error}")))?;
        let (place, cache) = (folder.path().join("repository"), folder.path().join("cache"));
        let Some(place) = place.to_str() else {
            return Err(usage("the cache's name is not UTF-8", "name another with --cache-dir"));
        };
        let backend = backend::open(place, &self.environment.stores)?;
        let key = KeyFile::generate()?.to_text();
        let unlock = || Ok::<_, Failure>(Unlock::KeyFile(KeyFile::parse(&key)?));
        let label = "a dry run".to_owned();
        let new = NewKey { unlock: unlock()?, label, cost: KdfCost::DEFAULT };
        Repo::init(&*backend, &[new], &self.ctx)?;
        let repo = Arc::new(Repo::open(backend, &Unlocking::Given(&unlock()?), &cache)?);
        self.stand_in.get_or_init(|| StandIn { repo, _folder: folder });
        Ok(())
    }

    /// The same for who wants to know what the store has, not what was kept of it on this host.
    pub fn open_afresh(&self) -> Result<Arc<Repo>, Failure> {
        self.open_at(self.backend_at(&self.place()?)?, self.secret()?)
    }

    fn open_at(
        &self,
        backend: Arc<dyn Backend>,
        secret: Option<Secret>,
    ) -> Result<Arc<Repo>, Failure> {
        let cache = self.cache_dir()?;
        let ask = || unlock::ask(&self.ctx.cancel);
        let repo = match secret {
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
        let repo = Arc::new(repo);
        self.audit_begin(&repo);
        repo.refresh_telling(&self.ctx)?;
        Ok(repo)
    }

    /// Writes into the audit log that the command begins, before it can do anything. Where that is
    /// not possible, it is told: a repository that cannot be written to can still be restored from.
    fn audit_begin(&self, repo: &Arc<Repo>) {
        let Some(audited) = &self.audited else { return };
        let entry = self.entry(audited, Outcome::Begun);
        match entry.and_then(|entry| Ok(repo.audit(&entry, audited.heads)?)) {
            Ok(number) => self.begun.borrow_mut().push((Arc::clone(repo), number)),
            Err(failure) => self.not_audited(&failure),
        }
    }

    /// Writes into the audit log how the command ended.
    pub fn audit_end(&self, result: &Result<Done, Failure>) {
        let Some(audited) = &self.audited else { return };
        for (repo, number) in self.begun.take() {
            let ended = self.entry(audited, audited::outcome(number, result));
            let written = ended.and_then(|entry| Ok(repo.audit(&entry, Heads::Usual)?));
            if let Err(failure) = written {
                self.not_audited(&failure);
            }
        }
    }

    fn not_audited(&self, failure: &Failure) {
        let text = format!("this command is not in the audit log of the repository: {failure}");
        self.ctx.report(Event::Warning(text));
    }

    fn entry(&self, audited: &Audited, outcome: Outcome) -> Result<Entry, Failure> {
        let user = crate::source::effective_user();
        Ok(Entry {
            time: self.ctx.clock.now(),
            host: host(),
            user: user.map_err(|error| failed(format!("who you are is unknown: {error}")))?,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            command: audited.line.clone(),
            outcome,
        })
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
