//! What a backup captures: what the arguments name, or what `coeval.toml` does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::app::App;
use super::config::{dereference, is_name};
use super::databases::DatabaseUrl;
use super::environment;
use super::error::usage;
use super::excludes::Excludes;
use super::named::{Lists, Piped};
use crate::export::django::DjangoDatabase;
use crate::hint::Failure;
use crate::source::{Files, Kind, Source};

/// What to capture and how.
#[derive(Debug, clap::Args)]
pub struct SourceArgs {
    /// Directories to capture, named after their last part
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Database to capture: postgres://user@host/name, sqlite:///path, or env:VARIABLE
    #[arg(long, value_name = "URL")]
    pub database: Vec<String>,
    /// Configuration file to capture, or a glob of such files
    #[arg(long, value_name = "FILE")]
    pub configuration: Vec<String>,
    #[command(flatten)]
    pub excludes: Excludes,
    #[command(flatten)]
    pub lists: Lists,
    #[command(flatten)]
    pub piped: Piped,
    /// The command of --stdin-from-command with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub last: Vec<OsString>,
}

impl SourceArgs {
    /// The sources; those of the configuration file only if the arguments name none.
    pub fn open(&self, app: &App) -> Result<Vec<Box<dyn Source>>, Failure> {
        self.piped.check(&self.last)?;
        let sources = if self.names_any() { self.named(app)? } else { self.configured(app)? };
        if sources.is_empty() {
            return Err(usage(
                "there is nothing to back up",
                "name a PATH, --database URL or --configuration FILE, or write a coeval.toml",
            ));
        }
        Ok(sources)
    }

    fn names_any(&self) -> bool {
        let named = self.paths().next().is_some()
            || !(self.database.is_empty() && self.configuration.is_empty());
        named || self.lists.any() || self.piped.any()
    }

    /// The directories; without a command, what follows `--` is one, too.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let last = if self.piped.stdin_from_command { &[][..] } else { &self.last };
        self.paths.iter().map(PathBuf::as_path).chain(last.iter().map(Path::new))
    }

    fn named(&self, app: &App) -> Result<Vec<Box<dyn Source>>, Failure> {
        if self.piped.stdin && self.lists.reads_stdin() {
            return Err(usage(
                "--stdin and a list of files cannot both be read from the standard input",
                "write the list into a file",
            ));
        }
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        let mut names = Names::default();
        for url in &self.database {
            let url = DatabaseUrl::new(&dereference(url, "--database")?)?;
            sources.push(url.source(&names.unique(url.name()), Vec::new(), None)?);
        }
        let mut names = Names::default();
        let options = self.excludes.options(&Excludes::default())?;
        for path in self.paths() {
            let path = absolute(path)?;
            if path.is_file() {
                return Err(usage(
                    format!("{} is a file", path.display()),
                    "name its directory, or capture it with --configuration FILE",
                ));
            }
            let name = names.unique(last_name(&path));
            let mut options = options.clone();
            options.exclude.extend(app.repository_below(&path)?);
            sources.push(Box::new(Files::new(Kind::Storage, name, path, options)?));
        }
        if self.lists.any() {
            let list = self.lists.read()?;
            let name = names.unique(last_name(list.base()));
            let mut options = options;
            options.exclude.extend(app.repository_below(list.base())?);
            sources.push(Box::new(Files::listed(name, list, options)?));
        }
        if self.piped.any() {
            let name = names.unique("stdin".to_owned());
            sources.push(Box::new(self.piped.open(name, &self.last)?));
        }
        if !self.configuration.is_empty() {
            let patterns = self
                .configuration
                .iter()
                .map(|pattern| Ok(absolute(Path::new(pattern))?.to_string_lossy().into_owned()));
            let patterns = patterns.collect::<Result<Vec<_>, Failure>>()?;
            sources.push(Box::new(Files::configuration("", &patterns)?));
        }
        Ok(sources)
    }

    fn configured(&self, app: &App) -> Result<Vec<Box<dyn Source>>, Failure> {
        let config = app.config()?;
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for (name, database) in &config.database {
            let url = dereference(&database.url, &format!("[database.{name}] url"))?;
            let (exclude, slot) = (database.exclude_tables.clone(), database.slot.clone());
            let source = DatabaseUrl::new(&url)?.source(name, exclude, slot)?;
            sources.push(match &database.django {
                None => source,
                Some(django) => {
                    let (manage, python) = (django.manage.clone(), django.python().to_owned());
                    let database = DjangoDatabase::new(source, manage, python);
                    Box::new(database.in_environment(environment::digest()))
                }
            });
        }
        for (name, storage) in &config.storage {
            let mut options = self.excludes.options(&storage.excludes())?;
            if let Some(path) = &storage.path {
                options.exclude.extend(app.repository_below(path)?);
            }
            sources.push(storage.open(name, options)?);
        }
        if !config.configuration.files.is_empty() {
            sources.push(Box::new(Files::configuration("", &config.configuration.files)?));
        }
        Ok(sources)
    }
}

/// What a directory is called.
fn last_name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.filter(|name| is_name(name)).unwrap_or("root".into())
}

/// An absolute path: a snapshot may be restored from another working directory.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        usage(format!("`{}` is no path: {error}", path.display()), "write the whole path")
    })
}

/// Names that were given away.
#[derive(Debug, Default)]
struct Names(Vec<String>);

impl Names {
    fn unique(&mut self, wish: String) -> String {
        let numbered = (2..).map(|number| format!("{wish}-{number}"));
        let mut candidates = std::iter::once(wish.clone()).chain(numbered);
        let name = candidates.find(|name| !self.0.contains(name)).unwrap_or(wish);
        self.0.push(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_unique() {
        let mut names = Names::default();
        let given = ["media", "media", "docs", "media"].map(|name| names.unique(name.to_owned()));
        assert_eq!(given, ["media", "media-2", "docs", "media-3"]);
    }
}
