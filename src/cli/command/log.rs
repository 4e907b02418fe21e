//! `coeval log`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::changes::{Change, Modifier, Reader, Times};
use crate::cli::error::usage;
use crate::cli::output::{Verbosity, count};
use crate::cli::places::lossless;
use crate::hint::Failure;
use crate::snapshot::{self, Filter, Snapshot};

/// Show when a file, a folder, a table or a record changed: the snapshots, newest first
///
/// `+` it came, `-` it went, `M` its content changed, `U` only its metadata, `T` its type. With
/// --verbose, what changed in a folder or table is listed, and records are shown before and after.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The path: /storage/documents/a.pdf, /database/main/users/17
    #[arg(value_name = "PATH", value_parser = lossless())]
    path: String,
    /// Only snapshots of this machine
    #[arg(long)]
    host: Option<String>,
    /// Only snapshots with this tag; with several, with all of them
    #[arg(long)]
    tag: Vec<String>,
    /// Only the newest N changes
    #[arg(short = 'n', long, value_name = "N")]
    max_count: Option<usize>,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    if !args.path.starts_with('/') {
        return Err(usage(
            format!("`{}` is no path in a snapshot", args.path),
            "write it with a slash in front, as in `coeval log /storage/documents/a.pdf`",
        ));
    }
    let repo = app.open()?;
    let filter = Filter { host: args.host.clone(), tags: args.tag.clone(), ..app.filter()? };
    let timeline = app.timeline(&repo)?;
    let verbose = app.output.verbosity == Verbosity::Verbose;
    let mut shown = 0;
    for step in snapshot::history(&repo, timeline.iter(&filter), &args.path) {
        if args.max_count.is_some_and(|most| shown >= most) {
            break;
        }
        app.ctx.check_cancelled()?;
        let step = step?;
        let mut entry = Entry { app, snapshot: &step.new, verbose, summary: Summary::default() };
        let mut reader = if verbose { Reader::whole(&*repo) } else { Reader::new(&*repo) };
        snapshot::diff(step.old.as_ref(), &step.new, &step.scope, &mut |item| {
            app.ctx.check_cancelled()?;
            let (path, change) = reader.read(item)?;
            entry.add(path, change)
        })?;
        shown += usize::from(entry.finish()?);
    }
    if shown == 0 {
        return Err(usage(
            format!("no snapshot has {}", args.path),
            "look around with `coeval ls latest`, or search with `coeval find`",
        ));
    }
    Ok(Done::Fully)
}

/// What one snapshot changed.
struct Entry<'a> {
    app: &'a App,
    snapshot: &'a Snapshot,
    verbose: bool,
    summary: Summary,
}

#[derive(Default)]
struct Summary {
    first: Option<(String, Change)>,
    added: u64,
    removed: u64,
    changed: u64,
    metadata: u64,
}

impl Entry<'_> {
    fn add(&mut self, path: String, change: Change) -> Result<(), Failure> {
        let summary = &mut self.summary;
        *match change.modifier {
            Modifier::Added => &mut summary.added,
            Modifier::Removed => &mut summary.removed,
            Modifier::Modified | Modifier::Type => &mut summary.changed,
            Modifier::Metadata => &mut summary.metadata,
        } += 1;
        if self.app.output.is_json() {
            return self.json(&path, &change);
        }
        if !self.verbose {
            summary.first.get_or_insert((path, change));
            return Ok(());
        }
        if summary.first.is_none() {
            self.app.output.line(self.heading())?;
        }
        self.app.output.line(format!("    {}", line(&path, &change)).trim_end())?;
        for (sign, record) in [('-', &change.record_before), ('+', &change.record_after)] {
            if let Some(record) = record {
                self.app.output.line(format!("    {sign} {record}"))?;
            }
        }
        self.summary.first.get_or_insert((path, change));
        Ok(())
    }

    /// Whether anything changed.
    fn finish(&self) -> Result<bool, Failure> {
        let Summary { added, removed, changed, metadata, .. } = self.summary;
        let entries = added + removed + changed + metadata;
        if entries == 0 || self.verbose || self.app.output.is_json() {
            return Ok(entries > 0);
        }
        let what = match &self.summary.first {
            Some((path, change)) if entries == 1 => line(path, change),
            _ => {
                let parts = [
                    (added, "added"),
                    (removed, "removed"),
                    (changed, "changed"),
                    (metadata, "in metadata only"),
                ];
                let parts = parts.into_iter().filter(|(number, _)| *number > 0);
                let parts = parts.map(|(number, what)| format!("{number} {what}"));
                format!("{}: {}", count(entries, "entry"), parts.collect::<Vec<_>>().join(", "))
            }
        };
        self.app.output.line(format!("{}  {what}", self.heading()).trim_end())?;
        Ok(true)
    }

    fn heading(&self) -> String {
        let manifest = &self.snapshot.manifest;
        let tags = (!manifest.tags.is_empty()).then(|| format!("[{}]", manifest.tags.join(",")));
        let incomplete = (!manifest.is_complete()).then(|| "INCOMPLETE".to_owned());
        let parts = [self.snapshot.id.short(), manifest.time.to_local()];
        parts.into_iter().chain(tags).chain(incomplete).collect::<Vec<_>>().join("  ")
    }

    fn json(&self, path: &str, change: &Change) -> Result<(), Failure> {
        let manifest = &self.snapshot.manifest;
        let mut json = change.json();
        let mut set = |name: &str, value| drop(json.insert(name.to_owned(), value));
        set("message_type", "change".into());
        set("snapshot", self.snapshot.id.to_string().into());
        set("short_id", self.snapshot.id.short().into());
        set("time", manifest.time.to_rfc3339().into());
        set("hostname", manifest.host.clone().into());
        set("tags", manifest.tags.clone().into());
        set("complete", manifest.is_complete().into());
        set("path", path.into());
        self.app.output.json(&json)
    }
}

fn line(path: &str, change: &Change) -> String {
    let (letter, text) = (change.modifier.letter(), change.text(Times::Always));
    format!("{letter}  {path}  {text}").trim_end().to_owned()
}
