//! `coeval export`

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::{OutputError, failed};
use crate::cli::output::{count, size};
use crate::cli::sources::absolute;
use crate::export::package::{self, ExportOptions, Exported, SecretsPolicy};
use crate::export::snapshot::SnapshotContents;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::Kind;

/// Write a snapshot as a migration package, which stock tar, sha256sum and loaddata can read
///
/// The same snapshot gives the same bytes. Secrets in configuration files, and sessions, are left
/// out and listed unless --plaintext is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// The package to write; `-` is the standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Only this part of the snapshot
    #[arg(long)]
    only: Option<Only>,
    /// Write secrets in the clear: whoever gets the package has them
    #[arg(long)]
    plaintext: bool,
    /// How hard to compress, from 0 to 9
    #[arg(long, value_name = "LEVEL", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=9))]
    compression_level: u32,
}

/// A part of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Database,
    Storage,
    Configuration,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let snapshot = app.snapshot(&repo, &args.snapshot)?;
    let (id, time) = (snapshot.id, snapshot.manifest.time);
    let contents = SnapshotContents::new(snapshot.clone())?;
    let options = ExportOptions {
        only: args.only.map(|only| match only {
            Only::Database => Kind::Database,
            Only::Storage => Kind::Storage,
            Only::Configuration => Kind::Configuration,
        }),
        secrets: if args.plaintext { SecretsPolicy::Plaintext } else { SecretsPolicy::Redact },
        level: args.compression_level,
        scratch: app.scratch_dir()?,
    };
    if args.output == Path::new("-") {
        let mut out = BufWriter::new(std::io::stdout().lock());
        package::export(&contents, &mut out, &options, &app.ctx)?;
        out.flush().map_err(OutputError)?;
        return Ok(Done::Fully);
    }
    let path = absolute(&args.output)?;
    let exported = into_file(&path, |out| package::export(&contents, out, &options, &app.ctx))?;
    app.progress.finish();
    show(&exported, &path, app)?;
    let from = format!("snapshot {} of {}", id.short(), time.to_local());
    if !app.output.is_json() {
        app.output.detail(format!("{from} is in {}", path.display()))?;
    }
    // What a policy leaves out is listed, but it is what was asked for.
    let complete = snapshot.manifest.is_complete();
    Ok(if complete { Done::Fully } else { Done::Incompletely })
}

/// Lets `write` fill a file, which gets its name when it is complete and durable.
fn into_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let error = |error: std::io::Error| failed(format!("cannot write {}: {error}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut out = BufWriter::new(
        tempfile::Builder::new().prefix(".coeval-").tempfile_in(folder).map_err(error)?,
    );
    let done = write(&mut out)?;
    let file = out.into_inner().map_err(|failure| error(failure.into_error()))?;
    file.as_file().sync_all().map_err(error)?;
    file.persist(path).map_err(|failure| error(failure.error))?;
    Ok(done)
}

fn show(exported: &Exported, path: &Path, app: &App) -> Result<(), Failure> {
    let output = &app.output;
    if output.is_json() {
        return output.json(&serde_json::json!({
            "message_type": "summary",
            "file": path,
            "records": exported.records,
            "files": exported.files,
            "bytes": exported.bytes,
            "missing": exported.missing,
            "notes": exported.notes,
        }));
    }
    for note in &exported.notes {
        app.ctx.report(Event::Note(note.clone()));
    }
    for missing in &exported.missing {
        output.line(format!("left out: {}: {}", missing.item, missing.reason))?;
    }
    output.detail(format!(
        "exported {} and {}, {}",
        count(exported.records, "record"),
        count(exported.files, "file"),
        size(exported.bytes)
    ))
}
