//! `coeval backup`

use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use indicatif::HumanCount;

use crate::cli::Done;
use crate::cli::app::{App, host};
use crate::cli::error::failed;
use crate::cli::output::{Verbosity, count, size};
use crate::cli::progress::{Listing, why};
use crate::cli::references;
use crate::cli::sources::SourceArgs;
use crate::hint::Failure;
use crate::repo::{Compression, Repo, Written};
use crate::snapshot::{
    self, CaptureOptions, Captured, Counts, Held, Manifest, Mode, Parent, Reason, Tally,
};
use crate::source::{Kind, Source};

/// Take a snapshot
///
/// Without a PATH, --database or --configuration it is taken of everything that coeval.toml names.
/// Databases are read first, then files. What cannot be read is listed, the snapshot is marked
/// incomplete, and the exit code is 3.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "these are the flags of the command")]
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
    /// Take no snapshot if it would be its parent over again
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Where a database's changes are followed, read it as a whole, too, and say if the two differ
    #[arg(long)]
    compare: bool,
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
    let captured = take(args, app)?;
    show(&captured, app)
}

/// Takes the snapshot, and says of missing files what there is to say.
pub fn take(args: &Args, app: &App) -> Result<Captured, Failure> {
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
        compare: args.compare,
    };
    if app.output.verbosity == Verbosity::Verbose {
        app.progress.list(if args.dry_run { Listing::Everything } else { Listing::Changes });
    }
    let mode = match (args.dry_run, args.skip_if_unchanged) {
        (true, _) => Mode::DryRun,
        (false, true) => Mode::CommitUnlessUnchanged,
        (false, false) => Mode::Commit,
    };
    let captured = capture(&repo, &mut sources, &options, mode, app)?;
    if let Some(id) = captured.id {
        let manifest = captured.manifest.clone();
        let snapshot = snapshot::Snapshot { repo: std::sync::Arc::clone(&repo), id, manifest };
        references::tell_missing(&captured, &snapshot, app)?;
    }
    app.progress.finish();
    Ok(captured)
}

/// Takes a snapshot of sources in boxes. Unless it is only tried, the configured commands run while
/// the databases' transactions are open and before files are read, and when they have been read.
/// Those after it run whatever came of it: they may have to end what those before began.
pub fn capture(
    repo: &std::sync::Arc<Repo>,
    sources: &mut [Box<dyn Source>],
    options: &CaptureOptions,
    mode: Mode,
    app: &App,
) -> Result<Captured, Failure> {
    let mut sources = unboxed(sources);
    let hooks = &app.config()?.hooks;
    let mut held = |moment| match (mode, moment) {
        (Mode::DryRun, _) => Ok(()),
        (_, Held::Begun) => hooks.before.iter().try_for_each(|command| hook(command, app)),
        (_, Held::Read) => {
            let ended: Vec<_> = hooks.after.iter().map(|command| hook(command, app)).collect();
            ended.into_iter().collect()
        }
    };
    snapshot::capture_held(repo, &mut sources, options, mode, &mut held, &app.ctx)
}

/// Sources in boxes as the library takes them.
pub fn unboxed(sources: &mut [Box<dyn Source>]) -> Vec<&mut dyn Source> {
    sources.iter_mut().map(|source| &mut **source as &mut dyn Source).collect()
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
    let took = manifest.finished.since(manifest.time).as_secs_f64();
    let Counts { files, folders, .. } = &captured.counts;
    let has_files = manifest.sources.iter().any(|source| source.kind != Kind::Database);
    if has_files {
        output.line(tally("files", files))?;
        output.line(tally("folders", folders))?;
    }
    print_left_out(&captured.counts, app)?;
    if captured.id.is_some() {
        let Written { bytes, stored, .. } = manifest.written;
        output.line(format!("added {} ({} stored)", size(bytes), size(stored)))?;
    }
    let records = number_of_records(manifest);
    let mut processed = Vec::new();
    if has_files {
        processed.push(count(files.total(), "file"));
    }
    if records > 0 {
        processed.push(count(records, "record"));
    }
    let (processed, bytes) = (processed.join(", "), size(manifest.bytes()));
    output.line(format!("processed {processed}, {bytes} in {took:.1} s"))?;
    if !manifest.is_complete() {
        let skipped = count(manifest.missing(), "item");
        output.line(format!("INCOMPLETE: {skipped} could not be read:"))?;
        for skipped in &manifest.skipped {
            output.line(format!("  {}: {}", skipped.item, skipped.reason))?;
        }
        if manifest.unlisted > 0 {
            let more = HumanCount(manifest.unlisted);
            output.line(format!("  and {more} more, of which the snapshot has only the number"))?;
        }
    }
    match captured.id {
        Some(id) => output.line(format!("snapshot {} saved", id.short())),
        None if captured.is_superfluous => output.line("nothing changed: no snapshot was saved"),
        None => output.line("dry run: nothing was stored"),
    }
}

fn tally(what: &str, tally: &Tally) -> String {
    let [new, changed, unmodified, removed] =
        [tally.new, tally.changed, tally.unmodified, tally.removed].map(HumanCount);
    let what = format!("{what}:");
    format!("{what:<8} {new} new, {changed} changed, {unmodified} unmodified, {removed} removed")
}

fn print_left_out(counts: &Counts, app: &App) -> Result<(), Failure> {
    let Some(all) = counts.left_out_in_all() else { return Ok(()) };
    let reasons = counts.left_out.iter().map(|left_out| {
        // Where only the insides of folders are left out, these are what there is to count.
        let number = if left_out.entries > 0 { left_out.entries } else { left_out.folders };
        format!("{} {}", HumanCount(number), why(left_out.reason))
    });
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    let (entries, bytes) = (count(all.entries, "entry"), size(all.bytes));
    let not_entered = match all.folders {
        0 => return app.output.line(format!("excluded {entries}, {bytes} ({reasons})")),
        folders => count(folders, "folder"),
    };
    app.output.line(format!(
        "excluded {entries}, at least {bytes}, and what is in {not_entered} ({reasons})"
    ))
}

/// The summary, with the names that restic has for what it has, too.
fn summary(captured: &Captured) -> serde_json::Value {
    let manifest = &captured.manifest;
    let Counts { files, folders, left_out } = &captured.counts;
    let all = captured.counts.left_out_in_all();
    serde_json::json!({
        "message_type": "summary",
        "dry_run": captured.id.is_none() && !captured.is_superfluous,
        "snapshot_id": captured.id.map(|id| id.to_string()),
        "backup_start": manifest.time.to_rfc3339(),
        "backup_end": manifest.finished.to_rfc3339(),
        "total_duration": manifest.finished.since(manifest.time).as_secs_f64(),
        "files_new": files.new,
        "files_changed": files.changed,
        "files_unmodified": files.unmodified,
        "files_removed": files.removed,
        "dirs_new": folders.new,
        "dirs_changed": folders.changed,
        "dirs_unmodified": folders.unmodified,
        "dirs_removed": folders.removed,
        "total_files_processed": files.total(),
        "total_dirs_processed": folders.total(),
        "total_records_processed": number_of_records(manifest),
        "total_bytes_processed": manifest.bytes(),
        "data_blobs": manifest.written.chunks,
        "data_added": manifest.written.bytes,
        "data_added_packed": manifest.written.stored,
        "parent": manifest.parent.map(|parent| parent.to_string()),
        "root": manifest.root_hash(),
        "complete": manifest.is_complete(),
        "skipped": manifest.skipped,
        "skipped_unlisted": manifest.unlisted,
        "excluded": {
            "entries": all.map_or(0, |all| all.entries),
            "folders_not_entered": all.map_or(0, |all| all.folders),
            "bytes_at_least": all.map_or(0, |all| all.bytes),
            "reasons": left_out,
        },
    })
}

fn number_of_records(manifest: &Manifest) -> u64 {
    let databases = manifest.sources.iter().filter(|source| source.kind == Kind::Database);
    databases.map(|source| source.entries).sum()
}
