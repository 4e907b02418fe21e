//! `coeval sync`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{count, size};
use crate::hint::Failure;
use crate::repo::{Collected, Present, SyncOptions};

/// Bring a second place of the whole repository up to date
///
/// Objects are copied as they are, so the same keys open both. At every moment the second place is a
/// repository, with fewer snapshots at first; a sync that was stopped goes on where it was. Nobody
/// may back up into the second place, or prune it. What was lost at the first place stays at the
/// second.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// Where: a path, s3://BUCKET/PREFIX, gs://… or az://…
    #[arg(value_name = "PLACE")]
    to: String,
    /// Remove at the second place what collections (`coeval prune`) removed at the first, and keys
    /// that were removed
    #[arg(long)]
    delete: bool,
    /// Compare also what is there already, byte by byte
    #[arg(long)]
    verify: bool,
    /// Say what would be copied, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open_afresh()?;
    let to = app.backend_at(&args.to)?;
    let options = SyncOptions {
        collected: if args.delete { Collected::Delete } else { Collected::Keep },
        present: if args.verify { Present::Compare } else { Present::Trust },
        dry_run: args.dry_run,
    };
    let done = repo.sync(&to, &options, &app.ctx)?;
    app.progress.finish();
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "message_type": "summary",
            "dry_run": args.dry_run,
            "copied": done.copied,
            "copied_bytes": done.bytes,
            "present": done.present,
            "deleted": done.deleted,
        }))?;
        return Ok(Done::Fully);
    }
    let (would, would_delete) =
        if args.dry_run { ("would copy", "would delete") } else { ("copied", "deleted") };
    app.output.detail(format!(
        "{would} {} of {}, {would_delete} {}; {} were there",
        count(done.copied, "object"),
        size(done.bytes),
        done.deleted,
        done.present,
    ))?;
    Ok(Done::Fully)
}
