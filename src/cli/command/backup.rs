//! `coeval backup`

use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use crate::cli::Done;
use crate::cli::app::{App, host};
use crate::cli::error::failed;
use crate::cli::output::{count, size};
use crate::cli::sources::SourceArgs;
use crate::hint::Failure;
use crate::repo::{Compression, Repo};
use crate::snapshot::{self, CaptureOptions, Captured, Manifest, Mode, Parent, Reason};
use crate::source::{Kind, Source};

/// Take a snapshot
///
/// Without a PATH, --database or --configuration it is taken of everything that coeval.toml names.
/// Databases are read first, then files. What cannot be read is listed, the snapshot is marked
/// incomplete, and the exit code is 3.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    /// A name for the snapshot; can be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The machine that it belongs to, instead of this one
    #[arg(long)]
    host: Option<String>,
    /// Take over unchanged files from this snapshot instead of the newest one
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "force")]
    parent: Option<String>,
    /// Read every file, also those that look unchanged
    #[arg(long)]
    force: bool,
    /// How hard to compress what is new: `auto` is fast and hardly tries what does not compress
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    compression: How,
    /// Read and compare everything, but store nothing and run no hooks
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// The words of restic, and of coeval.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum How {
    #[default]
    Auto,
    Off,
    #[value(alias = "fastest")]
    Fast,
    Better,
    Max,
}

impl From<How> for Compression {
    fn from(how: How) -> Self {
        match how {
            How::Auto => Self::Auto,
            How::Off => Self::Off,
            How::Fast => Self::Fast,
            How::Better => Self::Better,
            How::Max => Self::Max,
        }
    }
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let mut sources = args.sources.open(app)?;
    let repo = app.open()?;
    let parent = match &args.parent {
        Some(text) => Parent::Is(app.snapshot(&repo, text)?.id),
        None if args.force => Parent::None,
        None => Parent::Newest,
    };
    let options = CaptureOptions {
        host: args.host.clone().unwrap_or_else(host),
        application: app.application()?,
        tags: args.tag.clone(),
        parent,
        reason: Reason::Backup,
        compression: args.compression.into(),
    };
    let captured = if args.dry_run {
        capture(&repo, &mut sources, &options, Mode::DryRun, app)?
    } else {
        between_hooks(app, || capture(&repo, &mut sources, &options, Mode::Commit, app))?
    };
    app.progress.finish();
    show(&captured, app)
}

/// Takes a snapshot of sources in boxes.
pub fn capture(
    repo: &std::sync::Arc<Repo>,
    sources: &mut [Box<dyn Source>],
    options: &CaptureOptions,
    mode: Mode,
    app: &App,
) -> Result<Captured, Failure> {
    let mut sources: Vec<&mut dyn Source> =
        sources.iter_mut().map(|source| &mut **source as &mut dyn Source).collect();
    snapshot::capture(repo, &mut sources, options, mode, &app.ctx)
}

/// Runs the configured commands around some work. Those after it run whatever came of it: they
/// may have to end what those before began.
fn between_hooks<T>(app: &App, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let hooks = &app.config()?.hooks;
    let ready = hooks.before.iter().try_for_each(|command| hook(command, app));
    let result = ready.and_then(|()| work());
    let ended: Vec<_> = hooks.after.iter().map(|command| hook(command, app)).collect();
    let result = result?;
    ended.into_iter().collect::<Result<(), _>>().map(|()| result)
}

fn hook(command: &str, app: &App) -> Result<(), Failure> {
    app.ctx.phase(format!("running {command}"), None);
    let cannot_run = |error| failed(format!("cannot run the hook `{command}`: {error}"));
    // The standard output is for the result.
    let output = std::io::stderr().as_fd().try_clone_to_owned().map_err(cannot_run)?;
    let status = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        .status()
        .map_err(cannot_run)?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(format!("the hook `{command}` failed: {status}")))
    }
}

/// Shows a snapshot that was taken.
pub fn show(captured: &Captured, app: &App) -> Result<Done, Failure> {
    print(captured, app)?;
    let complete = captured.manifest.is_complete();
    Ok(if complete { Done::Fully } else { Done::Incompletely })
}

fn print(captured: &Captured, app: &App) -> Result<(), Failure> {
    let (output, manifest) = (&app.output, &captured.manifest);
    if output.is_json() {
        return output.json(&summary(captured));
    }
    if output.is_quiet() {
        return captured.id.map_or(Ok(()), |id| output.line(id.short()));
    }
    for source in &manifest.sources {
        let name = format!("{}/{}", source.kind.as_str(), source.name);
        let noun = if source.kind == Kind::Database { "record" } else { "entry" };
        output.line(format!(
            "{:<32} {}",
            name.trim_end_matches('/'),
            count(source.entries, noun)
        ))?;
    }
    let took = manifest.finished.since(manifest.time);
    let Some(id) = captured.id else {
        return output.line(format!("dry run: nothing was stored ({:.1} s)", took.as_secs_f64()));
    };
    output.line(format!(
        "added {}, {} stored, in {:.1} s",
        size(manifest.written.bytes),
        size(manifest.written.stored),
        took.as_secs_f64()
    ))?;
    if !manifest.is_complete() {
        let skipped = count(manifest.skipped.len() as u64, "item");
        output.line(format!("INCOMPLETE: {skipped} could not be read:"))?;
        for skipped in &manifest.skipped {
            output.line(format!("  {}: {}", skipped.item, skipped.reason))?;
        }
    }
    output.line(format!("snapshot {} saved", id.short()))
}

/// The summary, with the names that restic has for what it has, too.
fn summary(captured: &Captured) -> serde_json::Value {
    let manifest = &captured.manifest;
    let files = |manifest: &Manifest| -> u64 {
        let files = manifest.sources.iter().filter(|source| source.kind != Kind::Database);
        files.map(|source| source.entries).sum()
    };
    serde_json::json!({
        "message_type": "summary",
        "dry_run": captured.id.is_none(),
        "snapshot_id": captured.id.map(|id| id.to_string()),
        "backup_start": manifest.time.to_rfc3339(),
        "backup_end": manifest.finished.to_rfc3339(),
        "total_duration": manifest.finished.since(manifest.time).as_secs_f64(),
        "total_files_processed": files(manifest),
        "total_records_processed": manifest.entries() - files(manifest),
        "total_bytes_processed": manifest.bytes(),
        "data_blobs": manifest.written.chunks,
        "data_added": manifest.written.bytes,
        "data_added_packed": manifest.written.stored,
        "parent": manifest.parent.map(|parent| parent.to_string()),
        "root": manifest.root_hash(),
        "complete": manifest.is_complete(),
        "skipped": manifest.skipped,
    })
}
