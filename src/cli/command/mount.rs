//! `coeval mount`

use std::path::PathBuf;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::sources::absolute;
use crate::hint::Failure;
use crate::mount::{self, Access};
use crate::report::Event;
use crate::snapshot::Filter;
use crate::source::Kind;

/// Show the files of all snapshots as a folder, read-only, until Ctrl-C
///
/// DIR/ids/ID has the files of a snapshot: storage/NAME and configuration; DIR/times, DIR/hosts and
/// DIR/tags have links to it, DIR/latest is the newest. Databases are not in it: see them with
/// `coeval ls` and `coeval cat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where; an empty folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Let other users look at it, each at what the modes of the files allow
    #[arg(long)]
    allow_other: bool,
    /// Only snapshots of this machine
    #[arg(short = 'H', long)]
    host: Option<String>,
    /// Only snapshots with this tag; with several, with all of them
    #[arg(long)]
    tag: Vec<String>,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let filter = Filter { host: args.host.clone(), tags: args.tag.clone(), ..app.filter()? };
    let folder = absolute(&args.folder)?;
    let access = if args.allow_other { Access::Everyone } else { Access::Owner };
    let timeline = app.timeline(&repo)?;
    let databases = timeline
        .iter(&filter)
        .flat_map(|(_, manifest)| &manifest.sources)
        .any(|source| source.kind == Kind::Database);
    let ready = || {
        if databases {
            let note = "databases are not in the mount; see them with `coeval ls` and `coeval cat`";
            app.ctx.report(Event::Note(note.to_owned()));
        }
        if app.output.is_json() {
            let message = serde_json::json!({ "message_type": "mounted", "path": folder });
            return app.output.json_now(&message);
        }
        let place = folder.display();
        app.output.detail(format!("mounted at {place}; Ctrl-C, or `umount {place}`, ends it"))?;
        app.output.finish()
    };
    mount::mount(&repo, &filter, &folder, access, &ready, &app.ctx)?;
    Ok(Done::Fully)
}
