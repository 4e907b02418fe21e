//! `coeval package`

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::config::Django;
use crate::cli::config::dereference;
use crate::cli::databases::DatabaseUrl;
use crate::cli::error::usage;
use crate::cli::output::{Table, count, size};
use crate::export::package::open::{OpenOptions, Package, Schema};
use crate::export::package::read::{Extra, Limits, MemberKind};
use crate::export::package::verify::Outcome;
use crate::hint::{ErrorKind, Failure};

/// Look at a migration package, without a repository
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say what a package holds and where it comes from
    Inspect(Args),
    /// Check everything that a package says about itself; the exit code is 13 if it is damaged
    Verify(Args),
}

/// Which package.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The package
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
}

/// How a package is read.
#[derive(Debug, clap::Args)]
pub struct OpenArgs {
    /// A migrated database with the tables of a package that coeval did not write: a fixture does
    /// not tell the types of its columns
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// Pass over members that are no part of a package
    #[arg(long)]
    allow_extra: bool,
}

impl OpenArgs {
    /// Reads a package.
    pub fn open(&self, path: &Path, app: &App) -> Result<Package, Failure> {
        let file = File::open(path).map_err(|error| {
            usage(
                format!("cannot open {}: {error}", path.display()),
                "name a migration_package.tar.gz",
            )
        })?;
        let options = OpenOptions {
            scratch: app.scratch_dir()?,
            limits: Limits::default(),
            extra: if self.allow_extra { Extra::Ignore } else { Extra::Refuse },
        };
        Package::open(&mut BufReader::new(file), &options, &app.ctx)
    }
}

/// The structure of a live database; `coeval.toml` may know its Django project.
pub fn schema(url: Option<&str>, app: &App) -> Result<Option<Schema>, Failure> {
    let Some(url) = url else { return Ok(None) };
    let url = DatabaseUrl::new(&dereference(url, "--database")?)?;
    let mut name = url.name();
    let mut introspection = None;
    for (configured, database) in &app.config()?.database {
        let place = dereference(&database.url, &format!("[database.{configured}] url"))?;
        if DatabaseUrl::new(&place)? == url {
            name.clone_from(configured);
            introspection = database.django.as_ref().map(Django::introspect).transpose()?;
        }
    }
    let mut source = url.source(&name, Vec::new(), None)?;
    Ok(Some(Schema::of(&mut *source, introspection, &app.ctx)?))
}

pub fn run(command: &Command, app: &App) -> Result<Done, Failure> {
    match command {
        Command::Inspect(args) => inspect(&args.open.open(&args.file, app)?, app),
        Command::Verify(args) => {
            let package = args.open.open(&args.file, app)?;
            let schema = schema(args.open.database.as_deref(), app)?;
            verify(&package, schema.as_ref(), app)
        }
    }
}

fn inspect(package: &Package, app: &App) -> Result<Done, Failure> {
    app.progress.finish();
    let output = &app.output;
    let (metadata, members) = (&package.metadata, &package.archived.members);
    let statistics = package.statistics.as_ref();
    let length = |kind: &MemberKind| match kind {
        MemberKind::File(span) => span.length,
        MemberKind::Folder | MemberKind::Link(_) => 0,
    };
    if output.is_json() {
        let members = members.iter().map(|(name, member)| {
            serde_json::json!({ "name": name, "size": length(&member.kind), "mode": member.mode })
        });
        output.json(&serde_json::json!({
            "message_type": "package",
            "export_type": metadata.export_type,
            "export_timestamp": metadata.export_timestamp,
            "django_version": metadata.django_version,
            "coeval": metadata.coeval,
            "statistics": statistics,
            "members": members.collect::<Vec<_>>(),
        }))?;
        return Ok(Done::Fully);
    }
    let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "not said".to_owned());
    output.line(format!("exported:  {}", said(&metadata.export_timestamp)))?;
    output.line(format!("Django:    {}", said(&metadata.django_version)))?;
    if let Some(origin) = &metadata.coeval {
        let (id, host) = (&origin.snapshot, &origin.host);
        output.line(format!("snapshot:  {id} on {host}, root {}", origin.root))?;
        for missing in &origin.missing {
            output.line(format!("left out:  {}: {}", missing.item, missing.reason))?;
        }
    }
    if let Some(records) = statistics.and_then(|statistics| statistics.total_records) {
        output.line(format!("records:   {records}"))?;
    }
    let bytes = members.values().map(|member| length(&member.kind)).sum();
    let number = count(members.len() as u64, "member");
    output.line(format!("contents:  {number}, {} unpacked", size(bytes)))?;
    if !output.is_quiet() {
        for (name, member) in members {
            output.line(format!("{:>12} {name}", length(&member.kind)))?;
        }
    }
    Ok(Done::Fully)
}

fn verify(package: &Package, schema: Option<&Schema>, app: &App) -> Result<Done, Failure> {
    let verification = package.verify(schema, &app.ctx)?;
    app.progress.finish();
    let output = &app.output;
    if output.is_json() {
        for check in &verification.checks {
            output.json(check)?;
        }
    } else {
        let mut table = Table::new(&["Check", "Outcome", "Found"]);
        for check in &verification.checks {
            let outcome = match check.outcome {
                Outcome::Ok => "ok",
                Outcome::NotChecked => "not checked",
                Outcome::Warning => "WARNING",
                Outcome::Damaged => "DAMAGED",
            };
            if !output.is_quiet() || check.outcome > Outcome::NotChecked {
                table.row(vec![check.check.to_owned(), outcome.to_owned(), check.detail.clone()]);
            }
        }
        table.write(output)?;
    }
    if verification.outcome() == Outcome::Damaged {
        return Err(Failure::message(
            ErrorKind::Damage,
            "the package is damaged",
            Some("fetch or make it again".to_owned()),
        ));
    }
    Ok(Done::Fully)
}
