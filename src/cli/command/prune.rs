//! `coeval prune`

use std::sync::Arc;
use std::time::Duration;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{count, size};
use crate::hint::Failure;
use crate::repo::{CollectOptions, CollectedBytes, CollectionPlan, Repo, Unused, Writers};
use crate::snapshot;

/// Remove what no snapshot needs any more
///
/// This is garbage collection: which snapshots to keep is decided by `coeval forget`. Backups and
/// restores may run meanwhile; backups that are at work are waited for. A prune that was stopped,
/// for whatever reason, is gone on with by the next one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How much may stay that nobody needs, in packs that also hold what is needed: a part of what
    /// is needed (5%), a size (500M), or unlimited, to copy nothing
    #[arg(long, value_name = "LIMIT", default_value = "5%", value_parser = unused)]
    max_unused: Unused,
    /// Copy what is needed out of packs of this size together at most
    #[arg(long, value_name = "SIZE", value_parser = crate::cli::excludes::parse_size)]
    max_repack: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
    /// Say what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[arg(long, hide = true)]
    keep_last: Option<String>,
}

/// What is done about backups that are at work.
#[derive(Debug, clap::Args)]
pub struct Waiting {
    /// How long to wait for backups that are at work: 0s, 10m [default: as long as they live]
    #[arg(long, value_name = "TIME", value_parser = span)]
    wait: Option<Duration>,
    /// Do not wait: no backup is running anywhere. One that is, after all, fails and has to be run
    /// again
    #[arg(long, conflicts_with = "wait")]
    immediate: bool,
}

impl Waiting {
    pub fn writers(&self) -> Writers {
        match (self.immediate, self.wait) {
            (true, _) => Writers::GiveUp,
            (false, wait) => Writers::Wait(wait.unwrap_or(Duration::MAX)),
        }
    }
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    if args.keep_last.is_some() {
        return Err(crate::cli::error::usage(
            "`prune` removes what no snapshot needs; it does not choose snapshots",
            "choose those to keep with `coeval forget --keep-last N --prune`",
        ));
    }
    let repo = app.open()?;
    let writers = args.waiting.writers();
    let max_repack = args.max_repack.unwrap_or(u64::MAX);
    let options = CollectOptions { max_unused: args.max_unused, max_repack, writers };
    if args.dry_run {
        let plan = snapshot::plan_collection(&repo, &options, &app.ctx)?;
        app.progress.finish();
        show_plan(&plan, app)?;
        return Ok(Done::Fully);
    }
    prune(&repo, &options, app)
}

/// Prunes and tells what was done.
pub fn prune(repo: &Arc<Repo>, options: &CollectOptions, app: &App) -> Result<Done, Failure> {
    let done = snapshot::collect(repo, options, &app.ctx)?;
    app.progress.finish();
    show(&done, app)?;
    Ok(Done::Fully)
}

fn show_plan(plan: &CollectionPlan, app: &App) -> Result<(), Failure> {
    if app.output.is_json() {
        return app.output.json(&serde_json::json!({
            "message_type": "summary",
            "dry_run": true,
            "packs": plan.condemned.len(),
            "snapshots": plan.forgotten.len(),
            "size": plan.size,
            "unneeded": plan.unneeded,
            "repack": plan.partly,
            "copied": plan.copied,
            "freed": plan.frees(),
            "unused_left": plan.stays,
        }));
    }
    let (snapshots, packs) = (plan.forgotten.len() as u64, plan.condemned.len() as u64);
    let output = &app.output;
    output.line(format!(
        "would remove {} for good, and {} of {}: {} that nobody needs, {} of which about {} would \
         be copied",
        count(snapshots, "forgotten snapshot"),
        count(packs, "pack"),
        size(plan.unneeded + plan.partly),
        size(plan.unneeded),
        size(plan.partly),
        size(plan.copied),
    ))?;
    output.line(format!(
        "would free {} of {}; {} that nobody needs would stay",
        size(plan.frees()),
        size(plan.size),
        size(plan.stays),
    ))
}

fn show(done: &CollectedBytes, app: &App) -> Result<(), Failure> {
    let freed = done.deleted.saturating_sub(done.copied);
    if app.output.is_json() {
        return app.output.json(&serde_json::json!({
            "message_type": "summary",
            "dry_run": false,
            "packs": done.packs,
            "snapshots": done.snapshots,
            "deleted": done.deleted,
            "copied": done.copied,
            "freed": freed,
            "given_up": done.given_up,
        }));
    }
    if done.given_up > 0 {
        app.output.detail(format!(
            "gave up {} that had not ended",
            count(done.given_up, "interrupted backup")
        ))?;
    }
    app.output.detail(format!(
        "removed {} for good, and {}: {} freed, {} copied",
        count(done.snapshots, "snapshot"),
        count(done.packs, "pack"),
        size(freed),
        size(done.copied),
    ))
}

fn unused(text: &str) -> Result<Unused, String> {
    if text == "unlimited" {
        return Ok(Unused::Unlimited);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|percent: &f64| *percent >= 0.0);
        return percent.map(Unused::Percent).ok_or_else(|| "it is no percentage".to_owned());
    }
    crate::cli::excludes::parse_size(text).map(Unused::Bytes)
}

fn span(text: &str) -> Result<Duration, String> {
    crate::time::parse_span(text).ok_or_else(|| "it is written like 30s, 5m or 1h".to_owned())
}
