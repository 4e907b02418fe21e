//! `coeval repair`

use super::prune;
use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{count, size};
use crate::hint::{ErrorKind, Failure};
use crate::repo::{Finding, ReadData, Repo};

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
}

pub fn run(what: &Repair, app: &App) -> Result<Done, Failure> {
    let repo = app.open_afresh()?;
    match what {
        Repair::Index => index(&repo, app),
        Repair::Packs(waiting) => packs(&repo, waiting, app),
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

fn list(findings: &[Finding], app: &App) -> Result<(), Failure> {
    let line =
        |finding: &Finding| app.output.line(format!("{}: {}", finding.object, finding.problem));
    findings.iter().try_for_each(line)
}
