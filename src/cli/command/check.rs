//! `coeval check`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{count, size};
use crate::hint::{ErrorKind, Failure};
use crate::repo::ReadData;
use crate::snapshot::{self, CheckReport};

/// Verify the repository
///
/// Looks at every object and, from every snapshot, at everything that it refers to. With
/// --read-data every byte is decrypted, decompressed and hashed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read everything
    #[arg(long)]
    read_data: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let read = if args.read_data { ReadData::Everything } else { ReadData::Structure };
    let report = snapshot::check(&repo, read, &app.ctx)?;
    app.progress.finish();
    show(&report, app)?;
    match report.findings.len() {
        0 => Ok(Done::Fully),
        found => Err(Failure::message(
            ErrorKind::Damage,
            format!("the repository is damaged: {}", count(found as u64, "finding")),
            Some(
                "snapshots that are not named are whole; if the index is damaged, \
                 `coeval repair index` makes it anew"
                    .to_owned(),
            ),
        )),
    }
}

fn show(report: &CheckReport, app: &App) -> Result<(), Failure> {
    let output = &app.output;
    if output.is_json() {
        for finding in &report.findings {
            output.json(&serde_json::json!({
                "message_type": "finding",
                "object": finding.object,
                "problem": finding.problem,
            }))?;
        }
        return output.json(&serde_json::json!({
            "message_type": "summary",
            "num_errors": report.findings.len(),
            "snapshots": report.snapshots,
            "packs": report.packs,
            "bytes_read": report.bytes,
            "orphaned_packs": report.orphans,
        }));
    }
    for finding in &report.findings {
        output.line(format!("{}: {}", finding.object, finding.problem))?;
    }
    let read = match report.bytes {
        0 => String::new(),
        bytes => format!(", {} read", size(bytes)),
    };
    let orphans = match report.orphans {
        0 => String::new(),
        packs => format!("; {} of interrupted backups, which do no harm", count(packs, "pack")),
    };
    let (snapshots, packs) = (count(report.snapshots, "snapshot"), count(report.packs, "pack"));
    output.detail(format!("checked {snapshots} and {packs}{read}{orphans}"))?;
    if report.findings.is_empty() { output.detail("no errors were found") } else { Ok(()) }
}
