//! `coeval.toml`: what an application consists of, where its snapshots go, and how long they are
//! kept.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::environment::{self, Environment};
use super::error::usage;
use super::excludes::{Excludes, parse_size};
use super::named::{Lists, Piped};
use crate::export::django;
use crate::hint::Failure;
use crate::snapshot::Policy;
use crate::source::{Files, FilesOptions, Kind, Source};
use crate::time::{Period, Timestamp, parse_time};

/// The configuration file. Relative paths in it are relative to its folder; [`Config::load`]
/// makes them absolute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Where the snapshots are kept.
    pub repository: Repository,
    /// What the application is called.
    pub application: Application,
    /// The databases, by name.
    pub database: BTreeMap<String, Database>,
    /// The directories of files, by name.
    pub storage: BTreeMap<String, Storage>,
    /// The configuration files.
    pub configuration: Configuration,
    /// What a restore leaves as it is.
    pub restore: Restore,
    /// Which snapshots `watch` keeps.
    pub retention: Retention,
    /// Commands that run before and after a backup.
    pub hooks: Hooks,
    /// What must be true of a snapshot that was restored.
    pub drill: Drill,
    /// The file that this was read from.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// `[repository]`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Repository {
    /// A path or a URL.
    pub url: Option<String>,
    /// The file with the key that opens it.
    pub key_file: Option<PathBuf>,
}

/// `[application]`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Application {
    /// Snapshots of one application form one timeline.
    pub name: Option<String>,
}

/// `[database.NAME]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Database {
    /// `postgres://…` or `sqlite://…`, or `env:VARIABLE`, which holds it.
    pub url: String,
    /// Tables whose rows are left out.
    #[serde(default)]
    pub exclude_tables: Vec<String>,
    /// The replication slot to follow the changes with, if it is not `coeval_DATABASE`.
    pub slot: Option<String>,
    /// The Django project whose models these tables belong to.
    pub django: Option<Django>,
    /// Columns whose values name files: `TABLE.COLUMN -> STORAGE`.
    #[serde(default)]
    pub files: Vec<FileRule>,
}

/// `TABLE.COLUMN -> STORAGE`, or the same as a table with what the names begin with and paths in
/// the storage do not.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "FileRuleText")]
pub struct FileRule {
    pub table: String,
    pub column: String,
    pub storage: String,
    pub strip: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FileRuleText {
    Plain(String),
    Stripped { rule: String, strip: String },
}

impl TryFrom<FileRuleText> for FileRule {
    type Error = String;

    fn try_from(text: FileRuleText) -> Result<Self, String> {
        let (rule, strip) = match text {
            FileRuleText::Plain(rule) => (rule, String::new()),
            FileRuleText::Stripped { rule, strip } => (rule, strip),
        };
        let parts = rule.split_once("->").and_then(|(from, storage)| {
            let (table, column) = from.trim().rsplit_once('.')?;
            Some((table.to_owned(), column.to_owned(), storage.trim().to_owned()))
        });
        let (table, column, storage) =
            parts.ok_or_else(|| format!("`{rule}` is not of the form TABLE.COLUMN -> STORAGE"))?;
        Ok(Self { table, column, storage, strip })
    }
}

/// `django = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Django {
    /// The project's `manage.py`.
    pub manage: PathBuf,
    /// The interpreter that runs it; `python3` if it is not given.
    pub python: Option<PathBuf>,
}

impl Django {
    /// The interpreter.
    pub fn python(&self) -> &Path {
        self.python.as_deref().unwrap_or(Path::new("python3"))
    }

    /// What the project says about its models, in JSON.
    pub fn introspect(&self) -> Result<String, Failure> {
        let answer = django::introspect(&self.manage, self.python())?;
        Ok(String::from_utf8_lossy(&answer.models).into_owned())
    }
}

/// `[storage.NAME]`: a directory, or one of the lists, or what a command prints; the other keys are
/// the options of `backup`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Storage {
    /// The directory.
    pub path: Option<PathBuf>,
    /// Lists of what is captured instead.
    pub files_from: Vec<PathBuf>,
    pub files_from_verbatim: Vec<PathBuf>,
    pub files_from_raw: Vec<PathBuf>,
    /// The command whose output is captured instead, with its arguments.
    pub stdin_from_command: Vec<String>,
    /// The name of the file with that output.
    pub stdin_filename: Option<PathBuf>,
    /// What is left out.
    pub exclude: Vec<String>,
    pub exclude_file: Vec<PathBuf>,
    pub iexclude: Vec<String>,
    pub iexclude_file: Vec<PathBuf>,
    pub exclude_if_present: Vec<String>,
    pub exclude_caches: bool,
    pub exclude_larger_than: Option<Size>,
    /// Whether other file systems mounted below are left out.
    pub one_file_system: bool,
}

/// A number of bytes, or a text like `5M`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "toml::Value")]
pub struct Size(pub u64);

impl TryFrom<toml::Value> for Size {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match &value {
            toml::Value::String(text) => parse_size(text).map(Self),
            toml::Value::Integer(bytes) => {
                u64::try_from(*bytes).map(Self).map_err(|_| format!("`{bytes}` is no size"))
            }
            _ => Err(format!("`{value}` is no size: write it as \"5M\"")),
        }
    }
}

impl Storage {
    /// What is left out.
    pub fn excludes(&self) -> Excludes {
        Excludes {
            exclude_file: self.exclude_file.clone(),
            exclude: self.exclude.clone(),
            iexclude_file: self.iexclude_file.clone(),
            iexclude: self.iexclude.clone(),
            exclude_if_present: self.exclude_if_present.clone(),
            exclude_caches: self.exclude_caches,
            exclude_larger_than: self.exclude_larger_than.map(|Size(bytes)| bytes),
            one_file_system: self.one_file_system,
        }
    }

    fn lists(&self) -> Lists {
        Lists {
            patterns: self.files_from.clone(),
            lines: self.files_from_verbatim.clone(),
            raw: self.files_from_raw.clone(),
        }
    }

    /// The source.
    pub fn open(&self, name: &str, options: FilesOptions) -> Result<Box<dyn Source>, Failure> {
        let lists = self.lists();
        let command: Vec<OsString> = self.stdin_from_command.iter().map(OsString::from).collect();
        Ok(match (&self.path, lists.any(), command.is_empty()) {
            (Some(path), false, true) => Box::new(Files::new(Kind::Storage, name, path, options)?),
            (None, true, true) => Box::new(Files::listed(name, lists.read()?, options)?),
            (None, false, false) => {
                let stdin_filename = self.stdin_filename.clone();
                let piped = Piped { stdin_filename, ..Piped::default() };
                Box::new(piped.open(name.to_owned(), &command)?)
            }
            _ => {
                return Err(usage(
                    format!("[storage.{name}] says not, or more than once, what it is"),
                    "give it either a `path`, or `files-from` lists, or a `stdin-from-command`",
                ));
            }
        })
    }
}

/// `[configuration]`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Configuration {
    /// Paths and globs.
    pub files: Vec<String>,
}

/// `[restore]`: what is left as it is in a database that is alive.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Restore {
    /// Tables, by patterns; sessions and tokens where it is not given, none where it is empty.
    pub keep_live: Option<Vec<String>>,
    /// Rows, as in `users/17`.
    pub pin: Vec<String>,
    /// Rows with those that only link them to others.
    pub pin_account: Vec<String>,
}

/// `[retention]`: how many snapshots of each kind to keep.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "they are named as in the file")]
pub struct Retention {
    /// The newest ones.
    pub keep_last: Option<u32>,
    /// The last of each hour.
    pub keep_hourly: Option<u32>,
    /// The last of each day.
    pub keep_daily: Option<u32>,
    /// The last of each week.
    pub keep_weekly: Option<u32>,
    /// The last of each month.
    pub keep_monthly: Option<u32>,
    /// The last of each quarter.
    pub keep_quarterly: Option<u32>,
    /// The last of each year.
    pub keep_yearly: Option<u32>,
    /// All that are younger than this: `30d`.
    pub keep_within: Option<String>,
    /// Of those that are younger than this, the last of each hour.
    pub keep_within_hourly: Option<String>,
    /// The last of each day.
    pub keep_within_daily: Option<String>,
    /// The last of each week.
    pub keep_within_weekly: Option<String>,
    /// The last of each month.
    pub keep_within_monthly: Option<String>,
    /// The last of each quarter.
    pub keep_within_quarterly: Option<String>,
    /// The last of each year.
    pub keep_within_yearly: Option<String>,
    /// All with one of these tags.
    pub keep_tag: Vec<String>,
}

impl Retention {
    /// The rules, as of now.
    pub fn policy(&self, now: Timestamp) -> Result<Policy, Failure> {
        let periods = [
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
            (Period::Quarter, self.keep_quarterly),
            (Period::Year, self.keep_yearly),
        ];
        let mut within = Vec::new();
        for (period, text) in self.spans() {
            if let Some(text) = text {
                within.push((period, parse_time(text, now)?));
            }
        }
        Ok(Policy {
            last: self.keep_last.unwrap_or(0),
            periods: periods.map(|(period, count)| (period, count.unwrap_or(0))).to_vec(),
            within,
            tags: self.keep_tag.clone(),
            ids: Vec::new(),
        })
    }

    fn spans(&self) -> [(Option<Period>, &Option<String>); 7] {
        [
            (None, &self.keep_within),
            (Some(Period::Hour), &self.keep_within_hourly),
            (Some(Period::Day), &self.keep_within_daily),
            (Some(Period::Week), &self.keep_within_weekly),
            (Some(Period::Month), &self.keep_within_monthly),
            (Some(Period::Quarter), &self.keep_within_quarterly),
            (Some(Period::Year), &self.keep_within_yearly),
        ]
    }
}

/// `[hooks]`: each command is run by `sh -c`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Hooks {
    /// Run one after the other when the databases' transactions are open and before the first
    /// file is read: to hold uploads back, or to take a snapshot of the file system. If one fails,
    /// no backup is made.
    pub before: Vec<String>,
    /// Run when the files have been read, also when that failed.
    pub after: Vec<String>,
}

/// `[drill]`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Drill {
    /// What is asked of the restored database.
    pub assert: Vec<Assert>,
    /// Who must be able to log in.
    pub login: Option<Login>,
}

/// `[[drill.assert]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Assert {
    /// A query for one value.
    pub sql: String,
    /// Which database; needed where there are several.
    pub database: Option<String>,
    /// The value.
    pub equals: Option<toml::Value>,
    /// The least number that it may be.
    pub at_least: Option<f64>,
}

/// `[drill.login]`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Login {
    /// Who, by the column.
    pub user: String,
    /// The password, as `env:VARIABLE`.
    pub password: String,
    /// `TABLE.COLUMN` with the names of users.
    #[serde(default = "Login::column")]
    pub column: String,
    /// The column with the hashes of passwords.
    #[serde(default = "Login::hash")]
    pub hash: String,
    /// Which database; needed where there are several.
    pub database: Option<String>,
}

impl Login {
    fn column() -> String {
        "auth_user.username".to_owned()
    }

    /// Where Django keeps them.
    pub fn hash() -> String {
        "password".to_owned()
    }
}

impl Config {
    /// Reads the file that the user names, else the first of `./coeval.toml`,
    /// `/etc/coeval/coeval.toml` and `~/.config/coeval/coeval.toml`. Without any, nothing is
    /// configured.
    pub fn find(named: Option<&Path>, environment: &Environment) -> Result<Self, Failure> {
        if let Some(path) = named.or(environment.config.as_deref()) {
            return Self::load(path);
        }
        let user = environment.user_config.as_ref().map(|folder| folder.join("coeval"));
        let folders = [Some(PathBuf::new()), Some("/etc/coeval".into()), user];
        let mut paths = folders.into_iter().flatten().map(|folder| folder.join("coeval.toml"));
        match paths.find(|path| path.exists()) {
            Some(path) => Self::load(&path),
            None => Ok(Self::default()),
        }
    }

    fn load(path: &Path) -> Result<Self, Failure> {
        let cannot_read = |error| {
            usage(
                format!("cannot read the configuration file {}: {error}", path.display()),
                "name another one with --config FILE",
            )
        };
        let path = std::path::absolute(path).map_err(cannot_read)?;
        let text = std::fs::read_to_string(&path).map_err(cannot_read)?;
        let mut config = Self::parse(&text, &path)?;
        config.resolve(path.parent().unwrap_or(Path::new("/")));
        config.file = Some(path);
        Ok(config)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            let place = format!("{} line {line}", path.display());
            match unknown_key(error.message()) {
                Some((message, hint)) => usage(format!("{place}: {message}"), hint),
                None => usage(format!("{place}: {}", error.message()), "correct it"),
            }
        })?;
        let names = config.database.keys().chain(config.storage.keys());
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Err(usage(
                format!("{}: `{name}` is no name for a source", path.display()),
                "a name has no `/` and no control characters, and is not empty, `.` or `..`",
            ));
        }
        let spans = config.retention.spans().into_iter().filter_map(|(_, text)| text.as_ref());
        let is_span = |text: &&String| parse_time(text, Timestamp::new(1 << 33, 0)).is_ok();
        if let Some(within) = spans.into_iter().find(|text| !is_span(text)) {
            let message = format!("{}: keep-within: `{within}` is no time span", path.display());
            return Err(usage(message, "write it as 30d or 12 hours"));
        }
        Ok(config)
    }

    /// Makes paths absolute.
    fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        if let Some(url) = &mut self.repository.url
            && !url.contains("://")
            && !url.starts_with("env:")
        {
            *url = folder.join(&*url).to_string_lossy().into_owned();
        }
        self.repository.key_file.iter_mut().for_each(resolve);
        for storage in self.storage.values_mut() {
            storage.path.iter_mut().for_each(resolve);
            storage.exclude_file.iter_mut().for_each(resolve);
            storage.iexclude_file.iter_mut().for_each(resolve);
            let lists = [&mut storage.files_from, &mut storage.files_from_verbatim];
            lists.into_iter().flatten().for_each(resolve);
            storage.files_from_raw.iter_mut().for_each(resolve);
        }
        for file in &mut self.configuration.files {
            *file = folder.join(&*file).to_string_lossy().into_owned();
        }
        for database in self.database.values_mut() {
            if let Some(path) = database.url.strip_prefix("sqlite://")
                && !path.starts_with('/')
            {
                database.url = format!("sqlite://{}", folder.join(path).display());
            }
            if let Some(django) = &mut database.django {
                resolve(&mut django.manage);
                // A bare name is looked up in the search path.
                django
                    .python
                    .iter_mut()
                    .filter(|python| python.components().count() > 1)
                    .for_each(resolve);
            }
        }
    }
}

/// The value of a setting that may be `env:VARIABLE`.
pub fn dereference(value: &str, setting: &str) -> Result<String, Failure> {
    let Some(variable) = value.strip_prefix("env:") else { return Ok(value.to_owned()) };
    environment::variable(variable)?.ok_or_else(|| {
        usage(
            format!("{setting} refers to the environment variable {variable}, which is not set"),
            format!("set it, as in `{variable}=… coeval …`"),
        )
    })
}

/// Whether a text can be the name of a source: one part of a path.
pub fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(|c: char| c == '/' || c.is_control())
}

/// Makes serde's "unknown field `x`, expected one of `a`, `b`" into a message and a hint.
fn unknown_key(message: &str) -> Option<(String, String)> {
    let mut quoted = message.strip_prefix("unknown field")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let similarity = |key: &&str| strsim::jaro_winkler(unknown, key);
    let nearest = known.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    let message = format!("unknown key `{unknown}` — did you mean `{nearest}`?");
    Some((message, format!("known here are: {}", known.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::ErrorKind;

    fn parse(text: &str) -> Result<Config, Failure> {
        Config::parse(text, Path::new("/etc/coeval/coeval.toml"))
    }

    #[test]
    fn everything_of_the_documentation_is_known() {
        let mut config = parse(
            r#"
            [repository]
            url = "snapshots"
            key-file = "edms.key"
            [application]
            name = "edms"
            [database.main]
            url = "env:DATABASE_URL"
            exclude-tables = ["django_session"]
            slot = "coeval_edms"
            django = { manage = "manage.py", python = "python3.12" }
            files = [
                "documents.file_path -> documents",
                { rule = "archive.documents.path -> documents", strip = "/app/" },
            ]
            [database.other]
            url = "sqlite://other.sqlite3"
            [storage.documents]
            path = "/app/storage/documents"
            exclude = ["*.tmp"]
            exclude-file = ["patterns"]
            iexclude = ["*.TMP"]
            iexclude-file = ["/etc/patterns"]
            exclude-if-present = [".nobackup"]
            exclude-caches = true
            exclude-larger-than = "500M"
            one-file-system = true
            [storage.listed]
            files-from = ["list"]
            files-from-verbatim = ["list"]
            files-from-raw = ["list"]
            [storage.dump]
            stdin-from-command = ["mongodump", "--archive"]
            stdin-filename = "mongo.archive"
            [configuration]
            files = [".env", "/app/edms/settings/*.py"]
            [restore]
            keep-live = ["django_session"]
            pin = ["users/17"]
            pin-account = ["users/1"]
            [retention]
            keep-last = 3
            keep-hourly = 28
            keep-daily = 30
            keep-weekly = 8
            keep-monthly = 12
            keep-yearly = 3
            keep-within = "30d"
            keep-tag = ["release"]
            [[drill.assert]]
            sql = "SELECT count(*) FROM users"
            at-least = 1
            [drill.login]
            user = "ada"
            password = "env:DRILL_PASSWORD"
            [hooks]
            before = ["true"]
            after = ["true"]
            "#,
        )
        .expect("a configuration");
        config.resolve(Path::new("/etc/coeval"));
        assert_eq!(config.repository.url.as_deref(), Some("/etc/coeval/snapshots"));
        assert_eq!(config.configuration.files, ["/etc/coeval/.env", "/app/edms/settings/*.py"]);
        let documents = &config.storage["documents"];
        assert_eq!(documents.exclude_file, [Path::new("/etc/coeval/patterns")]);
        assert_eq!(documents.excludes().exclude_larger_than, Some(500 << 20));
        assert_eq!(config.database["other"].url, "sqlite:///etc/coeval/other.sqlite3");
        let django = config.database["main"].django.as_ref().expect("a project");
        assert_eq!(django.manage, Path::new("/etc/coeval/manage.py"));
        assert_eq!(django.python.as_deref(), Some(Path::new("python3.12")));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one_and_its_line() {
        let error = parse("[storage.media]\npath = \"/m\"\nexlude = []\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(
            error.to_string(),
            "/etc/coeval/coeval.toml line 3: unknown key `exlude` — did you mean `exclude`?"
        );
        let error = parse("[databse.main]\nurl = \"x\"\n").unwrap_err();
        assert!(error.to_string().contains("line 1: unknown key `databse`"), "{error}");
        assert!(error.to_string().contains("did you mean `database`?"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "[storage.\"a/b\"]\npath = \"/m\"",
            "[retention]\nkeep-within = \"soon\"",
            "[retention]\nkeep-daily = -1",
            "[storage.media]\nexclude-larger-than = \"big\"",
            "[database.main]\nurl = \"x\"\nfiles = [\"documents -> media\"]",
            "[",
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
