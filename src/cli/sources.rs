//! What a backup captures: what the arguments name, or what `coeval.toml` does.

use std::path::{Path, PathBuf};

use super::app::App;
use super::config::{dereference, is_name};
use super::databases::DatabaseUrl;
use super::error::usage;
use crate::export::django::DjangoDatabase;
use crate::hint::Failure;
use crate::source::{Files, FilesOptions, Kind, Source};

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
    /// Leave out what matches: names anywhere, or paths below the directory if it has a slash
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// A file with one such glob a line; empty lines and lines with `#` do not count
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Vec<PathBuf>,
    /// Leave out other file systems that are mounted below the directories
    #[arg(long)]
    pub one_file_system: bool,
}

impl SourceArgs {
    /// The sources; those of the configuration file only if the arguments name none.
    pub fn open(&self, app: &App) -> Result<Vec<Box<dyn Source>>, Failure> {
        let sources = if self.names_any() { self.named()? } else { self.configured(app)? };
        if sources.is_empty() {
            return Err(usage(
                "there is nothing to back up",
                "name a PATH, --database URL or --configuration FILE, or write a coeval.toml",
            ));
        }
        Ok(sources)
    }

    fn names_any(&self) -> bool {
        !(self.paths.is_empty() && self.database.is_empty() && self.configuration.is_empty())
    }

    fn named(&self) -> Result<Vec<Box<dyn Source>>, Failure> {
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        let mut names = Names::default();
        for url in &self.database {
            let url = DatabaseUrl::new(&dereference(url, "--database")?)?;
            sources.push(url.source(&names.unique(url.name()), Vec::new())?);
        }
        let mut names = Names::default();
        for path in &self.paths {
            let path = absolute(path)?;
            if path.is_file() {
                return Err(usage(
                    format!("{} is a file", path.display()),
                    "name its directory, or capture it with --configuration FILE",
                ));
            }
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = names.unique(name.filter(|name| is_name(name)).unwrap_or("root".into()));
            let options = self.options(&[], self.one_file_system)?;
            sources.push(Box::new(Files::new(Kind::Storage, name, path, options)?));
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
            let source = DatabaseUrl::new(&url)?.source(name, database.exclude_tables.clone())?;
            sources.push(match &database.django {
                None => source,
                Some(django) => {
                    let (manage, python) = (django.manage.clone(), django.python().to_owned());
                    Box::new(DjangoDatabase::new(source, manage, python))
                }
            });
        }
        for (name, storage) in &config.storage {
            let one_file_system = storage.one_file_system || self.one_file_system;
            let options = self.options(&storage.exclude, one_file_system)?;
            sources.push(Box::new(Files::new(Kind::Storage, name, &storage.path, options)?));
        }
        if !config.configuration.files.is_empty() {
            sources.push(Box::new(Files::configuration("", &config.configuration.files)?));
        }
        Ok(sources)
    }

    #[expect(
        clippy::fn_params_excessive_bools,
        reason = "there is one, and it has the option's name"
    )]
    fn options(&self, exclude: &[String], one_file_system: bool) -> Result<FilesOptions, Failure> {
        let mut exclude = [exclude, &self.exclude].concat();
        for path in &self.exclude_file {
            let text = std::fs::read_to_string(path).map_err(|error| {
                usage(
                    format!("cannot read the exclude file {}: {error}", path.display()),
                    "name a file with one glob a line",
                )
            })?;
            let globs = text.lines().map(str::trim);
            let globs = globs.filter(|line| !line.is_empty() && !line.starts_with('#'));
            exclude.extend(globs.map(str::to_owned));
        }
        Ok(FilesOptions { exclude, one_file_system })
    }
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
