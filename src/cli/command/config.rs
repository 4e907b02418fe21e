//! `coeval config`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{Table, size};
use crate::hint::Failure;
use crate::repo::format::config::{Config, Gathering, Zstd};

/// Show the parameters of the repository
///
/// They were fixed when it was made. Those of chunks and trees decide what is shared: snapshots with
/// others share nothing with these, and belong into another repository (`coeval copy`). How hard to
/// compress is chosen for each backup (`backup --compression`).
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let config = repo.config();
    let protection = if repo.keys()?.is_empty() { "none" } else { "AES-256-GCM" };
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "id": config.id.to_string(),
            "version": config.version,
            "created": config.created.to_rfc3339(),
            "encryption": protection,
            "chunking": config.chunking,
            "trees": config.trees,
            "data": config.data,
            "nodes": config.nodes,
        }))?;
        return Ok(Done::Fully);
    }
    let mut table = Table::new(&["Parameter", "Value"]);
    for (name, value) in rows(config, protection) {
        table.row(vec![name.to_owned(), value]);
    }
    table.write(&app.output)?;
    Ok(Done::Fully)
}

fn rows(config: &Config, protection: &str) -> Vec<(&'static str, String)> {
    let bytes = |bytes: u32| size(bytes.into());
    let (chunking, trees) = (config.chunking, config.trees);
    let gathering = |Gathering { block, pack, zstd }: Gathering| {
        format!("blocks of {}, packs of {}, {}", bytes(block), bytes(pack), compression(zstd))
    };
    vec![
        ("repository", config.id.to_string()),
        ("format", config.version.to_string()),
        ("made", config.created.to_local()),
        ("encryption", protection.to_owned()),
        ("files in one chunk", format!("up to {}", bytes(chunking.whole))),
        (
            "larger ones",
            format!(
                "chunks of {} on average, from {} to {}",
                bytes(chunking.avg),
                bytes(chunking.min),
                bytes(chunking.max)
            ),
        ),
        ("leaves of trees", format!("{} on average", bytes(trees.leaf))),
        ("inner nodes", format!("{} children on average", trees.fan_out)),
        ("records in leaves", format!("up to {}", bytes(trees.inline_record))),
        ("files in leaves", format!("up to {}", bytes(trees.inline_file))),
        ("content of files", gathering(config.data)),
        ("nodes of trees", gathering(config.nodes)),
    ]
}

fn compression(zstd: Zstd) -> String {
    let tables = if zstd.hash_log == 0 { "" } else { " with tables of its own" };
    format!("zstd {}{tables}", zstd.level)
}
