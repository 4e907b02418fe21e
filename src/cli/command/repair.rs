//! `coeval repair`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::count;
use crate::hint::{ErrorKind, Failure};

/// Repair a damaged repository
#[derive(Debug, clap::Subcommand)]
pub enum Repair {
    /// Make the index anew from the packs
    Index,
}

pub fn run(_what: &Repair, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let findings = repo.rebuild_index(&app.ctx)?;
    app.progress.finish();
    let output = &app.output;
    if output.is_json() {
        output.json(&serde_json::json!({ "message_type": "summary", "unreadable": findings }))?;
    } else {
        for finding in &findings {
            output.line(format!("{}: {}", finding.object, finding.problem))?;
        }
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
