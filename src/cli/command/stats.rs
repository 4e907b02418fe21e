//! `coeval stats`

use serde_json::json;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::usage;
use crate::cli::output::{Table, count, size};
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::snapshot::{self, Filter, Manifest, Stats, Timeline, Usage};

/// Show how much room snapshots take: what they hold, what is left after deduplication, what that
/// takes compressed, and what only one of them needs
///
/// The last is what would be free without that snapshot, of all snapshots of the repository.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Only snapshots of this machine
    #[arg(short = 'H', long)]
    host: Option<String>,
    /// Only snapshots with this tag; with several, with all of them
    #[arg(long)]
    tag: Vec<String>,
    /// Show one number, in the words of restic
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
}

/// What restic counts, as far as it has a meaning here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// What a restore of all of them would bring back; needs no look at the data
    RestoreSize,
    /// What they take in the repository
    RawData,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let timeline = app.timeline(&repo)?;
    let named = args
        .snapshots
        .iter()
        .map(|text| timeline.select(text, &app.filter()?, &app.ctx).map(|(id, _)| *id))
        .collect::<Result<Vec<_>, _>>()?;
    let filter = Filter { host: args.host.clone(), tags: args.tag.clone(), ..app.filter()? };
    let mut wanted: Vec<SnapshotId> = timeline.iter(&filter).map(|(id, _)| *id).collect();
    wanted.sort();
    let wanted = |id: SnapshotId, _: &Manifest| {
        if named.is_empty() { wanted.binary_search(&id).is_ok() } else { named.contains(&id) }
    };
    let stats = if args.mode == Some(Mode::RestoreSize) {
        logical(&timeline, &wanted)
    } else {
        snapshot::stats(&repo, &timeline, &wanted, &app.ctx)?
    };
    app.progress.finish();
    if stats.snapshots.is_empty() {
        return Err(usage("there is no such snapshot", "`coeval snapshots` lists them"));
    }
    if app.output.is_json() { as_json(args, &stats, app) } else { as_text(args, &stats, app) }?;
    Ok(Done::Fully)
}

/// What the snapshots say of themselves.
fn logical(timeline: &Timeline, wanted: &dyn Fn(SnapshotId, &Manifest) -> bool) -> Stats {
    let mut stats = Stats::default();
    let everything = Filter::default();
    for (id, manifest) in timeline.iter(&everything).filter(|(id, m)| wanted(*id, m)) {
        let (entries, size) = (manifest.entries(), manifest.bytes());
        stats.total.entries += entries;
        stats.total.size += size;
        let usage = Usage { entries, size, ..Usage::default() };
        stats.snapshots.push((*id, manifest.clone(), usage));
    }
    stats
}

fn as_text(args: &Args, stats: &Stats, app: &App) -> Result<(), Failure> {
    let Stats { snapshots, total, unneeded } = stats;
    let output = &app.output;
    let number = count(snapshots.len() as u64, "snapshot");
    match args.mode {
        Some(Mode::RestoreSize) => {
            let entries = count(total.entries, "entry");
            return output.line(format!("{number}: {entries}, {}", size(total.size)));
        }
        Some(Mode::RawData) => {
            let chunks = count(total.chunks, "chunk");
            return output.line(format!("{number}: {chunks}, {} stored", size(total.stored)));
        }
        None => {}
    }
    let headings = ["ID", "Time", "Entries", "Size", "Deduplicated", "Stored", "Only here"];
    let mut table = Table::new(&headings);
    for (id, manifest, usage) in snapshots {
        table.row(vec![
            id.short(),
            manifest.time.to_local(),
            usage.entries.to_string(),
            size(usage.size),
            size(usage.unique),
            size(usage.stored),
            size(usage.exclusive),
        ]);
    }
    table.write(output)?;
    let (deduplicated, compressed) =
        (ratio(total.size, total.unique), ratio(total.unique, total.stored));
    output.line(format!("{number}: {} in {}", size(total.size), count(total.entries, "entry")))?;
    output.line(format!(
        "deduplicated: {} in {} ({deduplicated:.2} : 1)",
        size(total.unique),
        count(total.chunks, "chunk")
    ))?;
    output.line(format!("stored: {} ({compressed:.2} : 1)", size(total.stored)))?;
    if *unneeded > 0 {
        output.line(format!("in no snapshot: {}", size(*unneeded)))?;
    }
    Ok(())
}

fn as_json(args: &Args, stats: &Stats, app: &App) -> Result<(), Failure> {
    let Stats { snapshots, total, unneeded } = stats;
    for (id, manifest, usage) in snapshots {
        let mut json = json!({
            "message_type": "snapshot",
            "id": id.to_string(),
            "short_id": id.short(),
            "time": manifest.time.to_rfc3339(),
        });
        merge(&mut json, numbers(args, usage));
        app.output.json(&json)?;
    }
    let mut json = json!({
        "message_type": "summary",
        "snapshots_count": snapshots.len(),
    });
    merge(&mut json, numbers(args, total));
    if args.mode != Some(Mode::RestoreSize) {
        let saved = 100.0 - 100.0 / ratio(total.unique, total.stored).max(f64::MIN_POSITIVE);
        merge(
            &mut json,
            json!({
                "compression_ratio": ratio(total.unique, total.stored),
                "compression_space_saving": saved,
                "deduplication_ratio": ratio(total.size, total.unique),
                "unneeded_size": unneeded,
            }),
        );
    }
    app.output.json(&json)
}

/// Named as in restic, whose `total_size` depends on the mode.
fn numbers(args: &Args, usage: &Usage) -> serde_json::Value {
    let mut json = json!({
        "total_file_count": usage.entries,
        "total_size": if args.mode == Some(Mode::RawData) { usage.stored } else { usage.size },
    });
    if args.mode != Some(Mode::RestoreSize) {
        let more = json!({
            "total_blob_count": usage.chunks,
            "total_uncompressed_size": usage.unique,
            "stored_size": usage.stored,
            "exclusive_size": usage.exclusive,
        });
        merge(&mut json, more);
    }
    json
}

fn merge(json: &mut serde_json::Value, more: serde_json::Value) {
    if let (Some(json), serde_json::Value::Object(more)) = (json.as_object_mut(), more) {
        json.extend(more);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 1.0 } else { of as f64 / to as f64 }
}
