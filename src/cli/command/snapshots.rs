//! `coeval snapshots`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{Table, count, size};
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::snapshot::{Filter, Manifest, Protection, Reason, Timeline};

/// List the snapshots, oldest first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the newest one at or before this time
    #[arg(long, value_name = "TIME", conflicts_with = "latest")]
    at: Option<String>,
    /// Only those of this machine
    #[arg(long)]
    host: Option<String>,
    /// Only those with this tag; with several, with all of them
    #[arg(long)]
    tag: Vec<String>,
    /// Only the newest N
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Those that were forgotten and can be brought back with `coeval undelete`
    #[arg(long, conflicts_with = "at")]
    forgotten: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let filter = Filter { host: args.host.clone(), tags: args.tag.clone(), ..app.filter()? };
    let timeline = if args.forgotten { Timeline::forgotten(&repo)? } else { app.timeline(&repo)? };
    let mut shown: Vec<&(SnapshotId, Manifest)> = match &args.at {
        Some(time) => vec![timeline.at(time, &filter, &app.ctx)?],
        None => timeline.iter(&filter).collect(),
    };
    if let Some(latest) = args.latest {
        shown.drain(..shown.len().saturating_sub(latest));
    }
    if app.output.is_json() {
        return shown
            .into_iter()
            .try_for_each(|(id, manifest)| app.output.json(&as_json(*id, manifest)))
            .map(|()| Done::Fully);
    }
    if app.output.is_quiet() {
        return shown
            .into_iter()
            .try_for_each(|(id, _)| app.output.line(id.short()))
            .map(|()| Done::Fully);
    }
    let mut table = Table::new(&["ID", "Time", "Host", "Tags", "Contents", "Size"]);
    for (id, manifest) in &shown {
        table.row(vec![
            id.short(),
            manifest.time.to_local(),
            manifest.host.clone(),
            manifest.tags.join(","),
            contents(manifest),
            size(manifest.bytes()),
        ]);
    }
    table.write(&app.output)?;
    app.output.line(count(shown.len() as u64, "snapshot"))?;
    Ok(Done::Fully)
}

/// `database/main, storage/media, configuration`, and what is special about it.
fn contents(manifest: &Manifest) -> String {
    let sources = manifest.sources.iter().map(|source| match source.name.as_str() {
        "" => source.kind.as_str().to_owned(),
        name => format!("{}/{name}", source.kind.as_str()),
    });
    let mut text = sources.collect::<Vec<_>>().join(", ");
    match &manifest.reason {
        Reason::Backup => {}
        Reason::BeforeRestore { of, .. } => {
            text += &[" (before the restore of ", &of.short(), ")"].concat();
        }
        Reason::Import { origin } => text += &[" (imported: ", origin, ")"].concat(),
        Reason::Transaction { after, transactions, .. } => {
            text += &[" (", &transactions.to_string(), " transactions after ", &after.short(), ")"]
                .concat();
        }
        Reason::Anonymised { of } => text += &[" (", &of.short(), " anonymised)"].concat(),
    }
    match manifest.later.protection {
        Protection::None => {}
        Protection::Until(time) => text += &[" (kept until ", &time.to_local(), ")"].concat(),
        Protection::Forever => text.push_str(" (protected)"),
    }
    if !manifest.is_complete() {
        text += &[" INCOMPLETE: ", &manifest.missing().to_string(), " not read"].concat();
    }
    text
}

/// A snapshot as programs read it; where restic has a field, it is named as there.
pub fn as_json(id: SnapshotId, manifest: &Manifest) -> serde_json::Value {
    let sources = manifest.sources.iter().map(|source| {
        serde_json::json!({
            "kind": source.kind,
            "name": source.name,
            "entries": source.entries,
            "bytes": source.bytes,
            "root": source.catalogue.root.to_string(),
        })
    });
    serde_json::json!({
        "id": id.to_string(),
        "short_id": id.short(),
        "time": manifest.time.to_rfc3339(),
        "finished": manifest.finished.to_rfc3339(),
        "hostname": manifest.host,
        "application": manifest.application,
        "tags": manifest.tags,
        "protection": manifest.later.protection,
        "original": manifest.later.original.map(|original| original.to_string()),
        "copied_from": manifest.later.origin.map(|origin| serde_json::json!({
            "repository": origin.repository.to_string(),
            "snapshot": origin.snapshot.to_string(),
        })),
        "parent": manifest.parent.map(|parent| parent.to_string()),
        "reason": reason(&manifest.reason),
        "instant": manifest.instant.to_string(),
        "complete": manifest.is_complete(),
        "skipped": manifest.skipped,
        "skipped_unlisted": manifest.unlisted,
        "root": manifest.root_hash(),
        "sources": sources.collect::<Vec<_>>(),
        "program_version": manifest.program,
    })
}

fn reason(reason: &Reason) -> serde_json::Value {
    match reason {
        Reason::Backup => serde_json::json!({ "kind": "backup" }),
        Reason::BeforeRestore { of, into } => {
            serde_json::json!({ "kind": "before-restore", "of": of.to_string(), "into": into })
        }
        Reason::Import { origin } => serde_json::json!({ "kind": "import", "origin": origin }),
        Reason::Transaction { after, before, transactions } => serde_json::json!({
            "kind": "transaction",
            "after": after.to_string(),
            "before": before.to_string(),
            "transactions": transactions,
        }),
        Reason::Anonymised { of } => {
            serde_json::json!({ "kind": "anonymised", "of": of.to_string() })
        }
    }
}
