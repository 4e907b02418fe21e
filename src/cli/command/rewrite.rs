//! `coeval rewrite`

use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::usage;
use crate::cli::excludes::read;
use crate::cli::output::{Table, count, size};
use crate::cli::places::lossless;
use crate::hint::Failure;
use crate::snapshot::{Doing, Erased, Eraser, Manifest, Snapshot, Unwanted};
use crate::source::{PathFilter, patterns_in};

/// Remove files or records from history
///
/// Each snapshot that holds some of it is replaced by one that does not, with the same time, tags
/// and protection; the old one is forgotten. Nothing is erased before `coeval prune` has run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which snapshots; all of the application, if none is named
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Remove the files and folders that match, with the syntax and meaning of a line in a
    /// .gitignore at the top of each storage: `*.tmp`, `/cache/`; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// A file with such patterns, one a line
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Remove what is at this path of snapshots: /database/main/users/17, /database/main/users,
    /// /storage/documents/a.pdf. Of a table all records go, and its definition stays
    #[arg(long, value_name = "PATH", value_parser = lossless())]
    remove: Vec<String>,
    /// Say what would be removed, and change nothing; with -v each path
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let unwanted = unwanted(args)?;
    let repo = app.open()?;
    let timeline = app.timeline(&repo)?;
    let filter = app.filter()?;
    let mut chosen = Vec::new();
    for text in &args.snapshots {
        chosen.push(timeline.select(text, &filter, &app.ctx)?);
    }
    if chosen.is_empty() {
        chosen.extend(timeline.iter(&filter));
    }
    let doing = if args.dry_run { Doing::DryRun } else { Doing::Apply };
    let mut eraser = Eraser::new(&unwanted, doing);
    let mut table = Table::new(&["ID", "Time", "New ID", "Removed", "Size"]);
    let mut changed = 0;
    for (id, manifest) in &chosen {
        let snapshot = Snapshot { repo: Arc::clone(&repo), id: *id, manifest: manifest.clone() };
        app.ctx.phase(format!("looking through snapshot {}", id.short()), None);
        let mut each = |path: &str| app.output.verbose(format!("{}:{path}", id.short()));
        if let Some(erased) = eraser.erase(&snapshot, &mut each, &app.ctx)? {
            changed += 1;
            note(&erased, manifest, &mut table, app)?;
        }
    }
    app.progress.finish();
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "message_type": "summary",
            "dry_run": args.dry_run,
            "snapshots": chosen.len(),
            "changed": changed,
        }))?;
        return Ok(Done::Fully);
    }
    if changed > 0 && !app.output.is_quiet() {
        table.write(&app.output)?;
    }
    let (changed, all) = (count(changed, "snapshot"), count(chosen.len() as u64, "snapshot"));
    app.output.detail(if args.dry_run {
        format!("would rewrite {changed} of {all}")
    } else {
        format!(
            "rewrote {changed} of {all}; what was removed is still in the repository until `coeval \
             prune` has run, and in copies and packages that were made of it"
        )
    })?;
    Ok(Done::Fully)
}

fn unwanted(args: &Args) -> Result<Unwanted, Failure> {
    let mut patterns = args.exclude.clone();
    for path in &args.exclude_file {
        patterns.extend(patterns_in(&read(path)?).map(str::to_owned));
    }
    if patterns.is_empty() && args.remove.is_empty() {
        return Err(usage(
            "nothing is to be removed",
            "say what with --exclude PATTERN or --remove PATH",
        ));
    }
    if args.remove.iter().any(|path| path.split('/').all(str::is_empty)) {
        let hint = "to get rid of whole snapshots, use `coeval forget`";
        return Err(usage("this would remove everything", hint));
    }
    Ok(Unwanted { patterns: PathFilter::new(&[], &patterns)?, paths: args.remove.clone() })
}

fn note(erased: &Erased, manifest: &Manifest, table: &mut Table, app: &App) -> Result<(), Failure> {
    if app.output.is_json() {
        return app.output.json(&serde_json::json!({
            "message_type": "changed",
            "old_snapshot_id": erased.id.to_string(),
            "new_snapshot_id": erased.new.map(|id| id.to_string()),
            "time": manifest.time.to_rfc3339(),
            "entries": erased.entries,
            "bytes": erased.bytes,
        }));
    }
    table.row(vec![
        erased.id.short(),
        manifest.time.to_local(),
        erased.new.map(|id| id.short()).unwrap_or_default(),
        count(erased.entries, "entry"),
        size(erased.bytes),
    ]);
    Ok(())
}
