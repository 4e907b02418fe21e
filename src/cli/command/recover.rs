//! `coeval recover`

use crate::cli::Done;
use crate::cli::app::{App, host};
use crate::cli::output::count;
use crate::hint::Failure;
use crate::snapshot::{self, Doing};

/// Make snapshots of what no snapshot refers to any more
///
/// What a snapshot held whose own object was lost, or a backup that was interrupted, is in the
/// repository until `coeval prune` removes it. Each source of it that is found becomes part of a
/// snapshot with the tag `recovered`; its name is that of what it was made of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say what is found, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open_afresh()?;
    let doing = if args.dry_run { Doing::DryRun } else { Doing::Apply };
    let found = snapshot::recover(&repo, &host(), &app.application()?, doing, &app.ctx)?;
    app.progress.finish();
    for recovered in &found {
        if app.output.is_json() {
            app.output.json(&serde_json::json!({
                "message_type": "recovered",
                "session": recovered.session.to_string(),
                "snapshot_id": recovered.new.map(|id| id.to_string()),
                "time": recovered.time.to_rfc3339(),
                "sources": recovered.sources.iter().map(|(path, entries)| {
                    serde_json::json!({ "path": path, "entries": entries })
                }).collect::<Vec<_>>(),
            }))?;
            continue;
        }
        let what =
            |(path, entries): &(String, u64)| format!("{path} ({})", count(*entries, "entry"));
        let what = recovered.sources.iter().map(what).collect::<Vec<_>>().join(", ");
        let (id, time) = (recovered.session.short(), recovered.time.to_local());
        app.output.line(match recovered.new {
            Some(new) => format!("recovered {id} of {time}, now {}: {what}", new.short()),
            None => format!("would recover {id} of {time}: {what}"),
        })?;
    }
    if app.output.is_json() {
        return app
            .output
            .json(&serde_json::json!({
                "message_type": "summary",
                "dry_run": args.dry_run,
                "recovered": found.len(),
            }))
            .map(|()| Done::Fully);
    }
    if found.is_empty() {
        app.output.detail("there is nothing that no snapshot refers to")?;
    }
    Ok(Done::Fully)
}
