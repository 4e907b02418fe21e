//! `coeval repair`

use std::sync::Arc;

use super::prune;
use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::usage;
use crate::cli::output::{count, size};
use crate::hint::{ErrorKind, Failure};
use crate::id::SnapshotId;
use crate::repo::{Finding, ReadData, Repo};
use crate::snapshot::{self, Doing, Filter, Lost, Repaired, Timeline};

/// Repair a damaged repository
#[derive(Debug, clap::Subcommand)]
pub enum Repair {
    /// Make the index anew from the packs
    Index,
    /// Remove damaged packs, after what can still be read of them was copied
    ///
    /// All packs are read to find them. What is lost is not in the index after this, so that
    /// `coeval backup --force` stores again what the sources still have. Backups and restores may
    /// run meanwhile. If it is stopped, run it again.
    Packs(prune::Waiting),
    /// Put what is left of snapshots that lost something in their place
    ///
    /// What is lost is named, entry by entry; a file or record of which a part is lost is left out
    /// as a whole. The new snapshot has the time, tags and protection of the old one, and counts as
    /// incomplete; the old one is forgotten. Run `coeval repair packs` and `coeval backup --force`
    /// first: what the sources still have need not be given up.
    Snapshots(Snapshots),
    /// Go on without knowing what collections removed whose record is damaged
    ///
    /// As long as one cannot be read, neither `coeval backup` nor `coeval prune` work. Snapshots
    /// that were forgotten cannot come back afterwards, where that collection was not finished.
    Collections(Collections),
}

#[derive(Debug, clap::Args)]
pub struct Collections {
    /// No prune is running, on any host. One that is might remove what is needed
    #[arg(long, required = true)]
    no_prune_runs: bool,
    #[command(flatten)]
    waiting: prune::Waiting,
}

#[derive(Debug, clap::Args)]
pub struct Snapshots {
    /// Forget this snapshot, which cannot be read at all, so that `coeval prune` can go on without
    /// knowing what it needs; may be given several times. Nothing else becomes of it
    #[arg(long, value_name = "ID")]
    forget_unreadable: Vec<String>,
    /// Say what is lost, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    waiting: prune::Waiting,
}

pub fn run(what: &Repair, app: &App) -> Result<Done, Failure> {
    let repo = app.open_afresh()?;
    match what {
        Repair::Index => index(&repo, app),
        Repair::Packs(waiting) => packs(&repo, waiting, app),
        Repair::Snapshots(args) => snapshots(&repo, args, app),
        Repair::Collections(args) => collections(&repo, args, app),
    }
}

fn index(repo: &Repo, app: &App) -> Result<Done, Failure> {
    let findings = repo.rebuild_index(&app.ctx)?;
    app.progress.finish();
    let output = &app.output;
    if output.is_json() {
        output.json(&serde_json::json!({ "message_type": "summary", "unreadable": findings }))?;
    } else {
        list(&findings, app)?;
        output.detail("made the index anew")?;
    }
    match findings.len() {
        0 => Ok(Done::Fully),
        lost => Err(Failure::message(
            ErrorKind::Damage,
            format!("{} could not be read and are not in the index", count(lost as u64, "pack")),
            Some("see which snapshots need them with `coeval check`".to_owned()),
        )),
    }
}

fn packs(repo: &Repo, waiting: &prune::Waiting, app: &App) -> Result<Done, Failure> {
    let damaged = repo.check_objects(ReadData::Everything, &app.ctx)?.broken;
    let done = repo.repair_packs(&damaged, waiting.writers(), &app.ctx)?;
    app.progress.finish();
    let output = &app.output;
    if output.is_json() {
        output.json(&serde_json::json!({
            "message_type": "summary",
            "packs": done.packs,
            "copied": done.copied,
            "lost_chunks": done.lost,
            "unreadable": done.findings,
        }))?;
    } else {
        list(&done.findings, app)?;
        output.detail(format!(
            "removed {}, copied {} that was good in them",
            count(done.packs, "damaged pack"),
            size(done.copied)
        ))?;
    }
    match done.lost {
        0 => Ok(Done::Fully),
        lost => Err(Failure::message(
            ErrorKind::Damage,
            format!("{} are lost", count(lost, "chunk")),
            Some(
                "`coeval backup --force` stores again what the sources still have; then `coeval \
                 check` names what the snapshots lost"
                    .to_owned(),
            ),
        )),
    }
}

fn snapshots(repo: &Arc<Repo>, args: &Snapshots, app: &App) -> Result<Done, Failure> {
    let output = &app.output;
    if !args.forget_unreadable.is_empty() {
        return forget_unreadable(repo, args, app);
    }
    let doing = if args.dry_run { Doing::DryRun } else { Doing::Apply };
    let mut each = |lost: &Lost| {
        if output.is_json() {
            return output.json(&serde_json::json!({
                "message_type": "lost",
                "snapshot_id": lost.snapshot.to_string(),
                "path": lost.path,
                "entries": lost.entries,
                "problem": lost.problem,
            }));
        }
        output.line(format!("{}:{}: {}", lost.snapshot.short(), lost.path, lost.problem))
    };
    let done = snapshot::repair_snapshots(repo, doing, &mut each, &app.ctx)?;
    if !args.dry_run && !done.repaired.is_empty() {
        repo.finish_repair(args.waiting.writers(), &app.ctx)?;
    }
    app.progress.finish();
    for repaired in &done.repaired {
        show_repaired(repaired, app)?;
    }
    list(&done.unreadable, app)?;
    let (looked_at, repaired) = (done.snapshots, done.repaired.len() as u64);
    if output.is_json() {
        output.json(&serde_json::json!({
            "message_type": "summary",
            "dry_run": args.dry_run,
            "snapshots": looked_at,
            "repaired": repaired,
            "unreadable": done.unreadable,
        }))?;
    } else {
        let lost = count(repaired, "snapshot");
        output.detail(format!(
            "looked through {}: {lost} lost something",
            count(looked_at, "snapshot")
        ))?;
    }
    if let Some(first) = done.unreadable.first() {
        let id = first.object.trim_start_matches("snapshot ");
        return Err(Failure::message(
            ErrorKind::Damage,
            format!("{} cannot be read", count(done.unreadable.len() as u64, "snapshot")),
            Some(format!(
                "`coeval recover` looks for what it held; `coeval repair snapshots \
                 --forget-unreadable {id}` gives it up, so that `coeval prune` can go on"
            )),
        ));
    }
    match repaired {
        0 => Ok(Done::Fully),
        _ if !args.dry_run => Ok(Done::Incompletely),
        lost => Err(Failure::message(
            ErrorKind::Damage,
            format!("{} lost something", count(lost, "snapshot")),
            Some(
                "`coeval repair packs` and `coeval backup --force` store again what the sources \
                 still have; after that, run this without --dry-run"
                    .to_owned(),
            ),
        )),
    }
}

fn collections(repo: &Repo, args: &Collections, app: &App) -> Result<Done, Failure> {
    debug_assert!(args.no_prune_runs, "it is required");
    // What snapshots name that came before them, and is gone, may have been removed by these.
    let timeline = Timeline::load(repo)?;
    let all = Filter::default();
    let manifests = timeline.iter(&all).map(|(_, manifest)| manifest);
    let known = manifests.flat_map(|manifest| [manifest.parent, manifest.later.original]);
    let known = known.flatten().collect();
    let lost = repo.repair_collections(&known, args.waiting.writers(), &app.ctx)?;
    app.progress.finish();
    if app.output.is_json() {
        let summary = serde_json::json!({ "message_type": "summary", "replaced": lost });
        return app.output.json(&summary).map(|()| Done::Fully);
    }
    for number in &lost {
        app.output.line(format!("replaced gc/{number}, which cannot be read"))?;
    }
    app.output.detail(format!("replaced {}", count(lost.len() as u64, "collection")))?;
    Ok(Done::Fully)
}

fn show_repaired(repaired: &Repaired, app: &App) -> Result<(), Failure> {
    let (old, lost) = (repaired.id.short(), count(repaired.lost, "entry"));
    if app.output.is_json() {
        return app.output.json(&serde_json::json!({
            "message_type": "changed",
            "old_snapshot_id": repaired.id.to_string(),
            "new_snapshot_id": repaired.new.map(|id| id.to_string()),
            "lost": repaired.lost,
        }));
    }
    app.output.line(match repaired.new {
        Some(new) => format!("repaired {old}, now {}, without {lost}", new.short()),
        None => format!("would repair {old}, without {lost}"),
    })
}

/// Gives up what nobody can read: the word of a person, since a collection must not take what it
/// cannot read for nothing.
fn forget_unreadable(repo: &Repo, args: &Snapshots, app: &App) -> Result<Done, Failure> {
    let timeline = Timeline::load(repo)?;
    let mut chosen = Vec::new();
    for text in &args.forget_unreadable {
        let prefix = text.to_ascii_lowercase();
        let is_meant = |id: &&SnapshotId| !prefix.is_empty() && id.to_string().starts_with(&prefix);
        let meant: Vec<SnapshotId> =
            timeline.unreadable().keys().filter(is_meant).copied().collect();
        let [id] = meant[..] else {
            let problem = format!("`{text}` does not name one snapshot that cannot be read");
            let hint = "`coeval repair snapshots --dry-run` lists them; one that can be read is \
                        forgotten with `coeval forget`";
            return Err(usage(problem, hint));
        };
        chosen.push(id);
    }
    for id in &chosen {
        if !args.dry_run {
            repo.forget(*id)?;
        }
        if app.output.is_json() {
            app.output.json(&serde_json::json!({
                "message_type": "forget",
                "id": id.to_string(),
                "dry_run": args.dry_run,
            }))?;
        } else {
            let verb = if args.dry_run { "would forget" } else { "forgot" };
            app.output.line(format!("{verb} {}, which cannot be read", id.short()))?;
        }
    }
    if !args.dry_run {
        repo.finish_repair(args.waiting.writers(), &app.ctx)?;
    }
    Ok(Done::Fully)
}

fn list(findings: &[Finding], app: &App) -> Result<(), Failure> {
    let line =
        |finding: &Finding| app.output.line(format!("{}: {}", finding.object, finding.problem));
    findings.iter().try_for_each(line)
}
