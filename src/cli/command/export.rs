//! `coeval export`

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::{OutputError, failed, usage};
use crate::cli::output::{count, size};
use crate::cli::places::lossless;
use crate::cli::sealing::SealArgs;
use crate::cli::sources::absolute;
use crate::cli::tarball;
use crate::export::fixture::write::Form;
use crate::export::package::{self, ExportOptions, Exported, Selection, Users, Wrapping};
use crate::export::snapshot::SnapshotContents;
use crate::hint::Failure;
use crate::report::Event;
use crate::snapshot::SnapshotPath;
use crate::source::Kind;

/// Write a snapshot as a migration package, which stock tar, sha256sum and loaddata can read; or
/// any path of it as a plain tar
///
/// The same snapshot gives the same package. Secrets in configuration files, and sessions, are left
/// out of it and listed, unless they are to go into a sealed package (--include-secrets) or
/// --plaintext is given. A plain tar has everything as it is: owners,
/// times, links, devices, extended attributes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot and, for a plain tar, perhaps a path in it: latest:/storage/documents
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = lossless())]
    pub place: String,
    /// What to write: a migration package, or a plain tar
    #[arg(long, value_name = "FORMAT", default_value = "package")]
    pub format: Format,
    /// The file to write; `-` is the standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Only this part of the snapshot; of the database, the bare fixture: JSON, or compressed where
    /// the name of the file ends in .gz
    #[arg(long)]
    pub only: Option<Only>,
    /// Write the fixture also as one record a line, which loaddata reads in little memory; with
    /// --only database, only so
    #[arg(long)]
    jsonl: bool,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    seal: SealArgs,
    /// How hard to compress, from 0 to 9
    #[arg(long, value_name = "LEVEL", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=9))]
    compression_level: u32,
}

/// What of the database and of the uploads is written.
#[derive(Debug, clap::Args)]
struct SelectionArgs {
    /// Only records of this model or application, as in auth.group or auth; may be given several
    /// times
    #[arg(long, value_name = "APP[.MODEL]")]
    model: Vec<String>,
    /// Leave the users out: those where the package goes stay as they are
    #[arg(long)]
    exclude_users: bool,
    /// Write the users, too: accepted, and always done
    #[arg(long, hide = true, conflicts_with = "exclude_users")]
    include_users: bool,
    /// Only uploads below this path, as in documents/2024; may be given several times
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
}

impl SelectionArgs {
    fn any(&self) -> bool {
        self.exclude_users || !self.model.is_empty() || !self.path.is_empty()
    }

    fn selection(&self) -> Selection {
        let users = if self.exclude_users { Users::Excluded } else { Users::Included };
        Selection { models: self.model.clone(), users, paths: self.path.clone() }
    }
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Package,
    Tar,
}

/// A part of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Only {
    Database,
    Storage,
    Configuration,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let wanted = SnapshotPath::parse(&args.place);
    match args.format {
        Format::Package if !wanted.path.is_empty() => Err(usage(
            "a migration package is made of a whole snapshot",
            "leave the path out, or write a plain tar with --format tar",
        )),
        Format::Tar
            if args.seal.any() || args.only.is_some() || args.jsonl || args.selection.any() =>
        {
            Err(usage(
                "seals, secrets, --only and what selects records and uploads are for migration \
                 packages",
                "leave them out: a tar has everything that the path leads to",
            ))
        }
        Format::Package => as_package(args, &wanted, app),
        Format::Tar => as_tar(args, &wanted, app),
    }
}

fn as_tar(args: &Args, wanted: &SnapshotPath, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let snapshot = app.snapshot(&repo, &wanted.snapshot)?;
    if args.output == Path::new("-") {
        let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
        let written = tarball::write(&snapshot, &wanted.path, &mut out, app)?;
        out.flush().map_err(OutputError)?;
        return Ok(written.done);
    }
    let path = absolute(&args.output)?;
    let written = into_file(&path, |out| tarball::write(&snapshot, &wanted.path, out, app))?;
    app.progress.finish();
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "message_type": "summary",
            "file": path,
            "files": written.members,
            "bytes": written.bytes,
        }))?;
    } else {
        let (members, bytes) = (count(written.members, "entry"), size(written.bytes));
        app.output.detail(format!("exported {members}, {bytes}, to {}", path.display()))?;
    }
    Ok(written.done)
}

fn as_package(args: &Args, wanted: &SnapshotPath, app: &App) -> Result<Done, Failure> {
    let secrets = args.seal.policy()?;
    let repo = app.open()?;
    let snapshot = app.snapshot(&repo, &wanted.snapshot)?;
    let (id, time) = (snapshot.id, snapshot.manifest.time);
    let contents = SnapshotContents::new(snapshot.clone())?;
    let options = ExportOptions {
        only: args.only.map(|only| match only {
            Only::Database => Kind::Database,
            Only::Storage => Kind::Storage,
            Only::Configuration => Kind::Configuration,
        }),
        selection: args.selection.selection(),
        form: if args.jsonl { Form::Lines } else { Form::List },
        wrapping: match args.output.extension() {
            Some(extension) if extension == "gz" => Wrapping::Gzip,
            _ => Wrapping::None,
        },
        secrets,
        seal: args.seal.seal(app)?,
        level: args.compression_level,
        scratch: app.scratch_dir()?,
    };
    if args.output == Path::new("-") {
        let mut out = BufWriter::new(std::io::stdout());
        let exported = package::export(&contents, &mut out, &options, &app.ctx)?;
        out.flush().map_err(OutputError)?;
        app.progress.finish();
        notes(&exported, app);
        return Ok(Done::Fully);
    }
    let path = absolute(&args.output)?;
    let exported = into_file(&path, |out| package::export(&contents, out, &options, &app.ctx))?;
    app.progress.finish();
    show(&exported, &path, app)?;
    let from = format!("snapshot {} of {}", id.short(), time.to_local());
    if !app.output.is_json() {
        app.output.detail(format!("{from} is in {}", path.display()))?;
    }
    // What a policy leaves out is listed, but it is what was asked for.
    let complete = snapshot.manifest.is_complete();
    Ok(if complete { Done::Fully } else { Done::Incompletely })
}

/// Lets `write` fill a file, which gets its name when it is complete and durable.
fn into_file<T>(
    path: &Path,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let error = |error: std::io::Error| failed(format!("cannot write {}: {error}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut out = BufWriter::new(
        tempfile::Builder::new().prefix(".coeval-").tempfile_in(folder).map_err(error)?,
    );
    let done = write(&mut out)?;
    let file = out.into_inner().map_err(|failure| error(failure.into_error()))?;
    file.as_file().sync_all().map_err(error)?;
    file.persist(path).map_err(|failure| error(failure.error))?;
    Ok(done)
}

fn notes(exported: &Exported, app: &App) {
    for note in &exported.notes {
        app.ctx.report(Event::Note(note.clone()));
    }
}

fn show(exported: &Exported, path: &Path, app: &App) -> Result<(), Failure> {
    let output = &app.output;
    if output.is_json() {
        return output.json(&serde_json::json!({
            "message_type": "summary",
            "file": path,
            "records": exported.records,
            "files": exported.files,
            "bytes": exported.bytes,
            "missing": exported.missing,
            "notes": exported.notes,
        }));
    }
    notes(exported, app);
    for missing in &exported.missing {
        output.line(format!("left out: {}: {}", missing.item, missing.reason))?;
    }
    output.detail(format!(
        "exported {} and {}, {}",
        count(exported.records, "record"),
        count(exported.files, "file"),
        size(exported.bytes)
    ))
}
