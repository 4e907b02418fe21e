//! `coeval copy`

use std::path::PathBuf;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{count, size};
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::snapshot::{Copier, Filter, Manifest};

/// Copy snapshots into another repository
///
/// The other repository (`coeval --repo PLACE init` makes one) has keys of its own: everything is
/// hashed and encrypted anew, and read back before it counts. Time, host, application and tags stay
/// as they are. What is there already, under whatever tags, is not copied again; of the rest only
/// what differs from snapshots that are there is read.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which ones [default: all of the application]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// The repository to copy into: a path, s3://BUCKET/PREFIX, gs://… or az://…
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// The key file that opens it [default: what opens the repository that is copied from]
    #[arg(long, value_name = "FILE")]
    to_key_file: Option<PathBuf>,
    /// A file whose first line is the password that opens it
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
    /// Only those of this machine
    #[arg(long)]
    host: Option<String>,
    /// Only those with this tag; with several, with all of them
    #[arg(long)]
    tag: Vec<String>,
    /// Only the newest N
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Say what would be copied, and copy nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let from = app.open()?;
    let secret =
        app.second_secret(args.to_key_file.as_deref(), args.to_password_file.as_deref())?;
    let to = app.open_second(&args.to, secret)?;
    let mut copier = Copier::new(&from, &to)?;
    let timeline = app.timeline(&from)?;
    let filter = Filter { host: args.host.clone(), tags: args.tag.clone(), ..app.filter()? };
    let mut chosen: Vec<&(SnapshotId, Manifest)> = match &args.snapshots[..] {
        [] => timeline.iter(&filter).collect(),
        texts => {
            let select = |text: &String| timeline.select(text, &filter, &app.ctx);
            texts.iter().map(select).collect::<Result<_, _>>()?
        }
    };
    if let Some(latest) = args.latest {
        chosen.drain(..chosen.len().saturating_sub(latest));
    }
    // What comes later is told from what came before.
    chosen.sort_by_key(|(id, manifest)| (manifest.time, *id));
    chosen.dedup_by_key(|(id, _)| *id);
    let (mut copied, mut present) = (0, 0);
    for snapshot in chosen {
        if let Some(copy) = copier.present(snapshot) {
            present += 1;
            show("present", snapshot, Some(copy), None, app)?;
        } else if args.dry_run {
            copied += 1;
            show("would_copy", snapshot, None, None, app)?;
        } else {
            let copy = copier.copy(snapshot, &app.ctx)?;
            copied += 1;
            app.progress.finish();
            let stored = copy.manifest.written.stored;
            show("copied", snapshot, Some(copy.id), Some(stored), app)?;
        }
    }
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "message_type": "summary",
            "dry_run": args.dry_run,
            "copied": copied,
            "present": present,
        }))?;
    } else {
        let what = if args.dry_run { "would copy" } else { "copied" };
        let (copied, place) = (count(copied, "snapshot"), &args.to);
        app.output.detail(format!("{what} {copied} to {place}; {present} were there"))?;
    }
    Ok(Done::Fully)
}

fn show(
    what: &str,
    (id, manifest): &(SnapshotId, Manifest),
    copy: Option<SnapshotId>,
    stored: Option<u64>,
    app: &App,
) -> Result<(), Failure> {
    let output = &app.output;
    if output.is_json() {
        return output.json_now(&serde_json::json!({
            "message_type": what,
            "snapshot_id": id.to_string(),
            "copy_id": copy.map(|copy| copy.to_string()),
            "time": manifest.time.to_rfc3339(),
            "stored": stored,
        }));
    }
    let (id, time) = (id.short(), manifest.time.to_local());
    match (copy, stored) {
        (Some(copy), Some(_)) if output.is_quiet() => output.line(copy.short()),
        (Some(copy), Some(stored)) => {
            output.line(format!("copied {id} of {time} to {}, {} new", copy.short(), size(stored)))
        }
        (Some(copy), None) => {
            output.verbose(format!("{id} of {time} is there as {}", copy.short()))
        }
        (None, _) => output.line(format!("would copy {id} of {time}")),
    }
}
