//! `coeval import`

use std::path::PathBuf;

use super::backup;
use super::package::{OpenArgs, schema};
use crate::cli::Done;
use crate::cli::app::{App, host};
use crate::export::fixture::read::Salvage;
use crate::hint::Failure;
use crate::snapshot::{CaptureOptions, Mode, Parent, Reason, capture};

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

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
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
    let mut sources = package.into_sources(schema.as_ref(), &app.ctx)?;
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
    backup::show(&captured, app)
}
