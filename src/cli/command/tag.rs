//! `coeval tag` and `coeval undelete`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::usage;
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::snapshot::{self, Protection};
use crate::time::parse_time;

/// Change the tags of snapshots, or protect them from being forgotten
///
/// Snapshots never change: one with other tags takes the place of the old one, under a new id. What
/// refers to the old one, such as transactions since then, is found all the same.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which ones
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
    /// Add a tag; may be given several times
    #[arg(long, value_name = "TAG")]
    add: Vec<String>,
    /// Remove a tag
    #[arg(long, value_name = "TAG")]
    remove: Vec<String>,
    /// Replace all tags
    #[arg(long, value_name = "TAG", conflicts_with_all = ["add", "remove"])]
    set: Vec<String>,
    /// No rule forgets it, until it is no longer protected
    #[arg(long, conflicts_with_all = ["keep_until", "unprotect"])]
    protect: bool,
    /// No rule forgets it until this time
    #[arg(long, value_name = "TIME", conflicts_with = "unprotect")]
    keep_until: Option<String>,
    /// Rules may forget it again
    #[arg(long)]
    unprotect: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let protection = match &args.keep_until {
        Some(time) => Some(Protection::Until(parse_time(time, app.ctx.clock.now())?)),
        None if args.protect => Some(Protection::Forever),
        None => args.unprotect.then_some(Protection::None),
    };
    let tags = [&args.add, &args.remove, &args.set];
    if protection.is_none() && tags.iter().all(|tags| tags.is_empty()) {
        return Err(usage(
            "nothing is to be changed",
            "say what: --add TAG, --remove TAG, --set TAG, --protect, --keep-until TIME or \
             --unprotect",
        ));
    }
    let repo = app.open()?;
    let timeline = app.timeline(&repo)?;
    let filter = app.filter()?;
    let mut chosen = Vec::new();
    for text in &args.snapshots {
        chosen.push(timeline.select(text, &filter, &app.ctx)?);
    }
    for snapshot in chosen {
        let (id, manifest) = snapshot;
        let mut tags = if args.set.is_empty() { manifest.tags.clone() } else { args.set.clone() };
        tags.retain(|tag| !args.remove.contains(tag));
        let new: Vec<_> = args.add.iter().filter(|tag| !tags.contains(tag)).cloned().collect();
        tags.extend(new);
        let protection = protection.unwrap_or(manifest.later.protection);
        if tags == manifest.tags && protection == manifest.later.protection {
            continue;
        }
        let new = snapshot::rewrite(&repo, snapshot, tags, protection, &app.ctx)?;
        show("tagged", *id, new, app)?;
    }
    Ok(Done::Fully)
}

/// Bring back a snapshot that was forgotten
///
/// That is possible until a collection (`coeval prune`) has begun to remove it. It gets a new id.
#[derive(Debug, clap::Args)]
pub struct UndeleteArgs {
    /// Their ids or first digits; `coeval snapshots --forgotten` lists them
    #[arg(value_name = "ID", required = true)]
    snapshots: Vec<String>,
}

pub fn undelete(args: &UndeleteArgs, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    for text in &args.snapshots {
        let (old, new) = snapshot::undelete(&repo, text, &app.ctx)?;
        show("brought back", old, new, app)?;
    }
    Ok(Done::Fully)
}

fn show(what: &str, old: SnapshotId, new: SnapshotId, app: &App) -> Result<(), Failure> {
    if app.output.is_json() {
        return app.output.json(&serde_json::json!({
            "message_type": "changed",
            "old_snapshot_id": old.to_string(),
            "new_snapshot_id": new.to_string(),
        }));
    }
    if app.output.is_quiet() {
        return app.output.line(new.short());
    }
    app.output.line(format!("{what} {}, now {}", old.short(), new.short()))
}
