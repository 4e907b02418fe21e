//! The commands of EDMS, so that its operators' scripts keep running: each is a few commands of
//! coeval, and says which.

use std::path::{Path, PathBuf};

use clap::FromArgMatches;

use super::{backup, export, import, package, restore};
use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::usage;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::Kind;

/// Take a snapshot and write it as a migration package: EDMS's command
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "these are the flags of the command")]
pub struct CreateBackup {
    /// What to write
    #[arg(long, short, value_enum, default_value_t = Type::Export)]
    r#type: Type,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Users are part of every package
    #[arg(long)]
    include_users: bool,
    /// Every package is compressed
    #[arg(long)]
    compress: bool,
    /// Verify what was written
    #[arg(long)]
    verify: bool,
}

/// What EDMS calls the parts of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    #[value(alias = "full")]
    Export,
    Database,
    Files,
}

/// Take in a migration package and restore it in place: EDMS's command
#[derive(Debug, clap::Args)]
pub struct RestoreBackup {
    /// The package
    #[arg(long, value_name = "FILE", alias = "from-file")]
    package: PathBuf,
    /// What to restore
    #[arg(long, short, value_enum, default_value_t = Type::Export)]
    r#type: Type,
    /// Every restore is verified
    #[arg(long)]
    verify: bool,
    /// Verify the package and say what would be changed, but change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// Arguments as if they had been typed.
fn typed<T: clap::Args + FromArgMatches>(line: &[&str]) -> Result<T, Failure> {
    let command = T::augment_args(clap::Command::new("coeval").no_binary_name(true));
    let matches = command.try_get_matches_from(line);
    matches.and_then(|matches| T::from_arg_matches(&matches)).map_err(|error| {
        usage(error.to_string(), "see `coeval export --help` and `coeval restore --help`")
    })
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| usage("the file's name is not UTF-8", "name it otherwise"))
}

fn told(app: &App, old: &str, new: &str) {
    app.ctx.report(Event::Note(format!("`{old}` is now {new}")));
}

/// `create_backup`
pub fn create_backup(args: &CreateBackup, app: &App) -> Result<Done, Failure> {
    let captured = backup::take(&typed(&[])?, app)?;
    let Some(id) = captured.id else { return backup::show(&captured, app) };
    let id = id.to_string();
    let (only, default) = match args.r#type {
        Type::Export => (None, "migration_package.tar.gz"),
        Type::Database => (Some("database"), "database_backup.json"),
        Type::Files => (Some("storage"), "files_backup.tar.gz"),
    };
    let output = args.output.as_deref().map_or(Ok(default), text)?;
    let mut line = vec![id.as_str(), "--output", output];
    let mut new = format!("`coeval backup` and `coeval export latest -o {output}`");
    if let Some(only) = only {
        line.extend(["--only", only]);
        new = new.replace(" -o", &format!(" --only {only} -o"));
    }
    told(app, "create_backup", &new);
    backup::show(&captured, app)?;
    let done = export::run(&typed(&line)?, app)?;
    if args.verify {
        // A fixture alone does not tell the types of its columns: the database does.
        let mut line = vec![output];
        let url = database(app)?;
        if let (Type::Database, Some(url)) = (args.r#type, &url) {
            line.extend(["--database", url]);
        }
        package::run(&package::Command::Verify(typed(&line)?), app)?;
    }
    Ok(done)
}

/// `restore_backup`
pub fn restore_backup(args: &RestoreBackup, app: &App) -> Result<Done, Failure> {
    let file = text(&args.package)?;
    let mut line = vec![file];
    let url = database(app)?;
    if let Some(url) = &url {
        line.extend(["--database", url]);
    }
    told(
        app,
        "restore_backup",
        &format!("`coeval import {file}` and `coeval restore latest:/database --in-place`"),
    );
    if args.dry_run {
        // What would be changed can only be told of a snapshot; this one is not kept.
        app.open_stand_in()?;
    }
    let captured = import::take(&typed(&line)?, app)?;
    if !args.dry_run {
        backup::show(&captured, app)?;
    }
    let id = captured.id.map(|id| id.to_string()).unwrap_or_default();
    let mut done = Done::Fully;
    let mut restored = false;
    let storages = &app.config()?.storage;
    for source in &captured.manifest.sources {
        let wanted = match source.kind {
            Kind::Database => args.r#type != Type::Files,
            Kind::Storage => args.r#type != Type::Database && storages.contains_key(&source.name),
            // Secrets were perhaps taken out, and a person must look.
            Kind::Configuration => false,
        };
        if wanted {
            let place = format!("{id}:/{}/{}", source.kind.as_str(), source.name);
            let mut line = vec![place.as_str(), "--in-place"];
            line.extend(args.dry_run.then_some("--dry-run"));
            if restore::run(&typed(&line)?, app)? == Done::Incompletely {
                done = Done::Incompletely;
            }
            restored = true;
        }
    }
    if !restored {
        return Err(usage(
            "the package has nothing of what is to be restored and coeval.toml names",
            "see what it has: coeval ls latest",
        ));
    }
    Ok(done)
}

/// The database of the application, if it has exactly one.
fn database(app: &App) -> Result<Option<String>, Failure> {
    let databases = &app.config()?.database;
    let only = databases.values().next().filter(|_| databases.len() == 1);
    Ok(only.map(|database| database.url.clone()))
}
