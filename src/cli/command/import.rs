//! `coeval import`

use std::path::PathBuf;

use super::backup;
use super::package::{OpenArgs, schema};
use crate::cli::app::{App, host};
use crate::cli::config::dereference;
use crate::cli::error::usage;
use crate::cli::{Done, loading};
use crate::export::fixture::read::Salvage;
use crate::export::package::open::{Package, Schema};
use crate::hint::Failure;
use crate::report::Event;
use crate::snapshot::{CaptureOptions, Captured, Mode, Parent, Reason, capture};
use crate::source::Source;

/// Take a migration package into the repository, as a snapshot
///
/// Everything is verified before anything is stored. Nothing is restored: that is for `coeval
/// restore`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The package
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    /// An empty database of PostgreSQL into which pg_restore loads the package's pg_dump archive, if
    /// it has one; the records become part of the snapshot. Without it the archive is kept as a file
    #[arg(long, value_name = "URL")]
    load_into: Option<String>,
    /// A name for the snapshot; can be given several times
    #[arg(long, value_name = "TAG", default_value = "imported")]
    tag: Vec<String>,
    /// Take what is readable of a damaged package; the snapshot is marked incomplete
    #[arg(long)]
    salvage: bool,
    /// Verify and compare everything, but store nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// The sources of a verified package; a dump is loaded when all the rest is known to be good.
fn sources(
    package: Package,
    schema: Option<&Schema>,
    args: &Args,
    app: &App,
) -> Result<Vec<Box<dyn Source>>, Failure> {
    let dump = package.dump();
    let mut sources = package.into_sources(schema, &app.ctx)?;
    match (dump, &args.load_into) {
        (None, None) => {}
        (None, Some(_)) => {
            return Err(usage(
                "the package has no pg_dump archive to load",
                "leave --load-into out",
            ));
        }
        (Some(_), None) => app.ctx.report(Event::Note(
            "the package has its records in a pg_dump archive, which is kept as \
             storage/dump/database.dump; --load-into URL makes records of it"
                .to_owned(),
        )),
        (Some(mut dump), Some(url)) => {
            let databases = &app.config()?.database;
            let only = databases.keys().next().filter(|_| databases.len() == 1);
            let name = only.map_or("main", String::as_str);
            app.ctx.phase("loading the dump with pg_restore", None);
            sources.push(loading::load(&mut dump, name, &dereference(url, "--load-into")?)?);
        }
    }
    Ok(sources)
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let captured = take(args, app)?;
    backup::show(&captured, app)
}

/// Verifies the package and takes its snapshot.
pub fn take(args: &Args, app: &App) -> Result<Captured, Failure> {
    let mut package = args.open.open(&args.file, app)?;
    if args.salvage {
        package.salvage = Salvage::Take;
    }
    let origin = package.metadata.coeval.as_ref();
    let from = match origin {
        Some(origin) => {
            format!("snapshot {} of {} on {}", origin.snapshot, origin.captured_at, origin.host)
        }
        None => {
            let time = package.metadata.export_timestamp.as_deref().unwrap_or("an unknown time");
            format!("a package of {time}")
        }
    };
    let application = match app.application()? {
        name if name.is_empty() => origin.map(|origin| origin.application.clone()),
        name => Some(name),
    };
    let repo = app.open()?;
    let schema = schema(args.open.database.as_deref(), app)?;
    let mut sources = sources(package, schema.as_ref(), args, app)?;
    let options = CaptureOptions {
        host: host(),
        application: application.unwrap_or_default(),
        tags: args.tag.clone(),
        parent: Parent::None,
        reason: Reason::Import { origin: from },
        compression: crate::repo::Compression::Auto,
        compare: false,
    };
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Commit };
    let captured = capture(&repo, &mut backup::unboxed(&mut sources), &options, mode, &app.ctx)?;
    app.progress.finish();
    Ok(captured)
}
