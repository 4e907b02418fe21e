//! `coeval undo`

use std::path::Path;
use std::sync::Arc;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::config::dereference;
use crate::cli::databases::DatabaseUrl;
use crate::cli::error::usage;
use crate::cli::live::LiveArgs;
use crate::cli::probe::ProbeArgs;
use crate::cli::targets::{self, DryRun, Going, How, database_in_place};
use crate::hint::{ErrorKind, Failure};
use crate::snapshot::{Overwrite, Reason, RestoredInto, Snapshot, SourceRecord};
use crate::source::{Extras, Kind};

/// Go back to what was there before the last restore
///
/// Every restore takes a snapshot of its targets before it changes them. This brings back the
/// newest such snapshot, to where it was taken. It is a restore itself: a second `undo` goes forth
/// again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say what would be changed, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// The database that was restored into, where coeval.toml does not name it
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    probe: ProbeArgs,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let timeline = app.timeline(&repo)?;
    let filter = app.filter()?;
    let found = timeline.iter(&filter).rev().find_map(|(id, manifest)| match &manifest.reason {
        Reason::BeforeRestore { into, .. } => Some((id, manifest, into)),
        _ => None,
    });
    let Some((id, manifest, into)) = found else {
        return Err(Failure::message(
            ErrorKind::Failed,
            "there was no restore that replaced anything, so there is nothing to undo",
            Some("choose a snapshot from `coeval snapshots` and `coeval restore` it".to_owned()),
        ));
    };
    let snapshot = Snapshot { repo: Arc::clone(&repo), id: *id, manifest: manifest.clone() };
    let to = |source: &SourceRecord| {
        let same = |into: &&RestoredInto| into.kind == source.kind && into.name == source.name;
        let place = into.iter().find(same).map(|into| into.place.as_str());
        match (source.kind, place) {
            (Kind::Database, place) => {
                let url = database(args, source, place, app)?;
                Going::database(&snapshot, source, &url)
            }
            (_, place) => Going::files(&snapshot, source, place.map(Path::new), Extras::Delete),
        }
    };
    let going = snapshot.manifest.sources.iter().map(to).collect::<Result<Vec<_>, Failure>>()?;
    let rules = &args.live.rules(app)?;
    let live = |going: Going| going.records(Overwrite::Always, Extras::Delete, rules);
    let mut going: Vec<Going> = going.into_iter().map(live).collect();
    let dry_run = if args.dry_run { DryRun::Yes } else { DryRun::No };
    targets::restore(&snapshot, &mut going, &How { dry_run, rules, probe: &args.probe }, app)
}

/// The database that was restored into. The snapshot keeps its URL without the password, so that
/// has to come from elsewhere, and must not lead to another database.
fn database(
    args: &Args,
    source: &SourceRecord,
    place: Option<&str>,
    app: &App,
) -> Result<DatabaseUrl, Failure> {
    if let Some(url) = &args.database {
        return DatabaseUrl::new(&dereference(url, "--database")?);
    }
    if let Some(place) = place
        && let Ok(url) = DatabaseUrl::new(place)
        && !place.contains("***")
    {
        return Ok(url);
    }
    let configured = database_in_place(source, app)?;
    match place {
        Some(place) if place != configured.to_string() => Err(usage(
            format!("the restore went into {place}, and coeval.toml names another database"),
            "name it, with its password, with --database URL",
        )),
        _ => Ok(configured),
    }
}
