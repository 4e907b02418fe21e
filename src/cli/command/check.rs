//! `coeval check`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{count, size};
use crate::cli::references;
use crate::hint::{ErrorKind, Failure};
use crate::repo::{ReadData, Subset};
use crate::snapshot::{self, CheckReport, Snapshot};
use crate::time::Timestamp;

/// Verify the repository
///
/// Looks at every object and, from every snapshot, at everything that it refers to. With
/// --read-data every byte is decrypted, decompressed and hashed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read everything
    #[arg(long)]
    read_data: bool,
    /// Read a part: so much of everything (5%), one of several parts (1/12), or a size (2G). Those
    /// packs come first that this host has not read for longest, so that a part now and then reads
    /// everything in time; 1/12 names the same packs on every host
    #[arg(long, value_name = "PART", value_parser = subset, conflicts_with = "read_data")]
    read_data_subset: Option<Subset>,
    /// Instead, follow what the records of a snapshot refer to: other records by their foreign
    /// keys, and the files that they name, where `files` in [database.NAME] of coeval.toml or the
    /// Django application says which columns do. With -v, also list files that no record names
    #[arg(long, value_name = "SNAPSHOT", num_args = 0..=1, default_missing_value = "latest")]
    #[arg(conflicts_with_all = ["read_data", "read_data_subset"])]
    refs: Option<String>,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open_afresh()?;
    if let Some(wanted) = &args.refs {
        return refs(&app.snapshot(&repo, wanted)?, app);
    }
    let read = match args.read_data_subset {
        Some(subset) => ReadData::Some(subset),
        None if args.read_data => ReadData::Everything,
        None => ReadData::Structure,
    };
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

fn refs(snapshot: &Snapshot, app: &App) -> Result<Done, Failure> {
    let found = references::show(snapshot, app)?;
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "message_type": "summary",
            "snapshot_id": snapshot.id.to_string(),
            "references": found,
        }))?;
    } else {
        let (files, records) = (count(found.named, "name"), count(found.references, "reference"));
        app.output.detail(format!(
            "followed {files} of files, of which {} lead nowhere, and {records} between records, \
             of which {} do",
            found.missing, found.dangling
        ))?;
        if found.named > 0 {
            app.output.detail(format!("{} that no record names", count(found.unnamed, "file")))?;
        }
        for unchecked in &found.unchecked {
            app.output
                .detail(format!("not followed, for the snapshot leaves it out: {unchecked}"))?;
        }
    }
    match found.missing + found.dangling {
        0 => Ok(Done::Fully),
        loose => Err(Failure::message(
            ErrorKind::Damage,
            format!("{} lead nowhere", count(loose, "reference")),
            Some(
                "the repository is sound: so it was when the snapshot was taken; look for an \
                 older one in which it is there with `coeval log PATH`"
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
            "packs_read": report.whole,
            "all_read_since": report.all_since.map(Timestamp::to_rfc3339),
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
    if report.bytes > 0 && report.whole < report.packs {
        output.detail(match report.all_since {
            Some(time) => format!("this host has read all packs since {}", time.to_local()),
            None => "there are packs that this host has never read".to_owned(),
        })?;
    }
    if report.findings.is_empty() { output.detail("no errors were found") } else { Ok(()) }
}

fn subset(text: &str) -> Result<Subset, String> {
    let size = || crate::cli::excludes::parse_size(text).map(Subset::Bytes);
    text.parse().or_else(|wrong: String| size().map_err(|_| wrong))
}
