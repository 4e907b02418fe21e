//! `coeval package`

use std::path::{Path, PathBuf};

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::config::Django;
use crate::cli::config::dereference;
use crate::cli::databases::DatabaseUrl;
use crate::cli::error::usage;
use crate::cli::output::{Output, Table, Verbosity, count, size};
use crate::cli::sealing::OpenSealArgs;
use crate::export::package::inspect::{Form, Inspection};
use crate::export::package::open::{OpenOptions, Package, Schema};
use crate::export::package::read::{Extra, Limits};
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
    #[command(flatten)]
    seal: OpenSealArgs,
}

impl OpenArgs {
    /// Reads a package.
    pub fn open(&self, path: &Path, app: &App) -> Result<Package, Failure> {
        std::fs::metadata(path).map_err(|error| {
            usage(
                format!("cannot open {}: {error}", path.display()),
                "name a migration_package.tar.gz, or a folder that one was unpacked into",
            )
        })?;
        let options = OpenOptions {
            scratch: app.scratch_dir()?,
            limits: Limits::default(),
            extra: if self.allow_extra { Extra::Ignore } else { Extra::Refuse },
        };
        self.seal.with(app, |keys| Package::open_path(path, keys, &options, &app.ctx))
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
    let found = package.inspect(&app.ctx)?;
    app.progress.finish();
    if app.output.is_json() {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            message_type: &'a str,
            #[serde(flatten)]
            found: &'a Inspection,
        }
        app.output.json(&Line { message_type: "package", found: &found })?;
        return Ok(Done::Fully);
    }
    show(&found, &app.output)
}

/// Prints what a package says and holds. All of it is somebody's text.
fn show(found: &Inspection, output: &Output) -> Result<Done, Failure> {
    let line = |name: &str, value: &dyn std::fmt::Display| {
        output.line(format!("{:<15}{}", format!("{name}:"), printable(&value.to_string())))
    };
    let said = |name: &str, text: &Option<String>| {
        line(name, &text.as_deref().filter(|text| !text.is_empty()).unwrap_or("not said"))
    };
    line("package", &form(found))?;
    said("written by", &found.written_by)?;
    said("exported", &found.exported)?;
    said("Django", &found.django)?;
    if let (Some(id), Some(root)) = (&found.snapshot, &found.root) {
        said("application", &found.application)?;
        line("snapshot", &format!("{id}, root {root}"))?;
        said("captured", &found.captured)?;
        said("host", &found.host)?;
        said("instant", &found.instant)?;
    }
    let records = count(found.total_records, "record");
    line("records", &format!("{records} of {}", count(found.records.len() as u64, "model")))?;
    for (model, records) in &found.records {
        output.detail(format!("{records:>14} {}", printable(model)))?;
    }
    for (table, records) in &found.raw {
        output.detail(format!("{records:>14} {} (as they are)", printable(table)))?;
    }
    if let Some(bytes) = found.dump {
        line("pg_dump archive", &format!(" {}", size(bytes)))?;
    }
    line("files", &format!("{}, {}", count(found.files, "file"), size(found.file_bytes)))?;
    line("configuration", &count(found.configuration.len() as u64, "file"))?;
    let members = count(found.members.len() as u64, "member");
    let (bytes, compressed) = (size(found.bytes), size(found.compressed));
    line("contents", &format!("{members}, {bytes} unpacked, {compressed} as it is"))?;
    for missing in &found.missing {
        line("left out", &format!("{}: {}", missing.item, missing.reason))?;
    }
    for fault in &found.faults {
        line("cannot be read", &format!(" {fault}"))?;
    }
    if output.verbosity == Verbosity::Verbose {
        for member in &found.members {
            let name = printable(&member.name);
            output.line(format!("{:>14} {} {name}", member.size, member.modified))?;
        }
    }
    Ok(Done::Fully)
}

fn form(found: &Inspection) -> String {
    match found.form {
        Form::Coeval => format!("of coeval, format {}", found.format.unwrap_or_default()),
        Form::Fixture => "with a fixture that another program wrote".to_owned(),
        Form::MetadataOnly => {
            "with table statistics and no records: it restores nothing".to_owned()
        }
        Form::PgDump => "with a pg_dump archive instead of a fixture".to_owned(),
        Form::Files => "with files only".to_owned(),
    }
}

/// Text of a stranger without what moves the cursor or hides something.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let unseen =
                c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let escaped = unseen.then(|| c.escape_default());
            escaped.into_iter().flatten().chain((!unseen).then_some(c))
        })
        .collect()
}

fn verify(package: &Package, schema: Option<&Schema>, app: &App) -> Result<Done, Failure> {
    let verification = package.verify(schema, &app.ctx)?;
    app.progress.finish();
    let output = &app.output;
    if output.is_json() {
        for check in &verification.checks {
            output.json(&serde_json::json!({
                "message_type": "check",
                "check": check.check,
                "outcome": check.outcome,
                "detail": check.detail,
            }))?;
        }
        let (outcome, checks) = (verification.outcome(), verification.checks.len());
        output.json(&serde_json::json!({
            "message_type": "summary", "outcome": outcome, "checks": checks,
        }))?;
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
