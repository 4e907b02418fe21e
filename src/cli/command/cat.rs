//! `coeval cat`

use std::io::Read as _;

use super::ls::missing;
use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::{failed, usage};
use crate::cli::places::Paths;
use crate::cli::records::{Record, decode_entry};
use crate::hint::Failure;
use crate::snapshot::{Place, Snapshot, SnapshotPath};
use crate::source::{EntryKind, Kind};
use crate::tree;

/// Print a file as it is, a record as JSON, or a table as JSON lines
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot and a path in it: latest:/configuration/.env, latest:/database/main/users/17
    #[arg(value_name = "SNAPSHOT:PATH")]
    place: String,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let wanted = SnapshotPath::parse(&args.place);
    let snapshot = app.snapshot(&repo, &wanted.snapshot)?;
    match snapshot.resolve(&wanted.path)? {
        Place::Root | Place::Kind(_) | Place::Source(_) => Err(usage(
            format!("{} is neither a file nor a record nor a table", args.place),
            format!("see what is there with `coeval ls {}`", args.place),
        )),
        Place::Tree(source, record) => {
            let paths = Paths::new(source.kind, &source.name, &record.info)?;
            for entry in tree::entries(&*repo, record.tree, &[], &[]) {
                app.ctx.check_cancelled()?;
                print_record(&paths, entry?.1, app, &snapshot)?;
            }
            Ok(Done::Fully)
        }
        Place::Entry(source, record, key) => {
            let paths = Paths::new(source.kind, &source.name, &record.info)?;
            let value = tree::get(&*repo, record.tree, &key)?;
            let value = value.ok_or_else(|| missing(&paths, &key))?;
            if source.kind == Kind::Database {
                print_record(&paths, value, app, &snapshot)?;
            } else {
                print_file(&key, value, app, &snapshot)?;
            }
            Ok(Done::Fully)
        }
    }
}

fn print_record(
    paths: &Paths,
    value: tree::Value,
    app: &App,
    snapshot: &Snapshot,
) -> Result<(), Failure> {
    let Some(header) = &paths.header else { return Ok(()) };
    app.output.line(Record::read(header, value.content, &*snapshot.repo)?.to_json())
}

fn print_file(
    key: &[u8],
    value: tree::Value,
    app: &App,
    snapshot: &Snapshot,
) -> Result<(), Failure> {
    match decode_entry(key, &value)?.kind {
        EntryKind::File => {}
        EntryKind::Symlink { target } => return app.output.bytes(&target),
        EntryKind::Directory => {
            return Err(usage("this is a folder", "see what is in it with `coeval ls`"));
        }
        special => {
            let what = format!("this is a {}, which has no content", special.as_str());
            return Err(usage(what, "see more of it with `coeval ls -l`"));
        }
    }
    let mut reader = value.content.open(&*snapshot.repo);
    let mut buffer = vec![0; 1 << 16];
    loop {
        app.ctx.check_cancelled()?;
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => app.output.bytes(buffer.get(..length).unwrap_or_default())?,
            Err(error) => {
                return Err(failed(format!("cannot read it from the repository: {error}")));
            }
        }
    }
}
