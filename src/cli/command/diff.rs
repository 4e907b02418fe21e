//! `coeval diff`

use std::collections::BTreeMap;

use serde_json::json;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::changes::{Change, Class, Modifier, Reader, Times};
use crate::cli::output::{count, size};
use crate::cli::places::{Scope, lossless, tree_path};
use crate::hint::Failure;
use crate::snapshot::{self, Snapshot, SnapshotPath};

/// Show what differs between two snapshots, down to single files and columns of records
///
/// `+` is only in the second, `-` only in the first, `M` has another content, `T` is of another
/// type, `U` has other metadata only (shown with --metadata). With --quiet only the numbers are
/// shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The older snapshot
    #[arg(value_name = "SNAPSHOT", value_parser = lossless())]
    old: String,
    /// The newer snapshot and, perhaps, the path to compare: latest:/database
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = lossless())]
    new: String,
    /// Also show files and folders of which only metadata differ: mode, owner, time, attributes
    #[arg(long)]
    metadata: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let (old, new) = (SnapshotPath::parse(&args.old), SnapshotPath::parse(&args.new));
    let path = if new.path.is_empty() { &old.path } else { &new.path };
    let old = app.snapshot(&repo, &old.snapshot)?;
    let new = app.snapshot(&repo, &new.snapshot)?;
    // What the path leads to may be in one of the two only.
    let scope = Scope::of(&new, path).or_else(|error| Scope::of(&old, path).map_err(|_| error))?;
    let mut counts = Counts::default();
    let mut reader = Reader::new(&*repo);
    snapshot::diff(Some(&old), &new, &scope, &mut |item| {
        app.ctx.check_cancelled()?;
        let tree = tree_path(item.kind, item.source, &item.tree.name);
        let (path, change) = reader.read(item)?;
        counts.add(tree, &change);
        show(args, app, &path, &change)
    })?;
    counts.show(args, app, &old, &new)?;
    Ok(Done::Fully)
}

fn show(args: &Args, app: &App, path: &str, change: &Change) -> Result<(), Failure> {
    if app.output.is_quiet() || change.modifier == Modifier::Metadata && !args.metadata {
        return Ok(());
    }
    if app.output.is_json() {
        let mut json = change.json();
        json.insert("message_type".to_owned(), "change".into());
        json.insert("path".to_owned(), path.into());
        return app.output.json(&json);
    }
    let times = if args.metadata { Times::Always } else { Times::Alone };
    let (letter, text) = (change.modifier.letter(), change.text(times));
    app.output.line(format!("{letter}  {path}  {text}").trim_end())
}

/// How much differs.
#[derive(Debug, Default)]
struct Counts {
    trees: BTreeMap<String, Tree>,
    added: Amount,
    removed: Amount,
    changed_files: u64,
}

/// What differs in one tree.
#[derive(Debug, Default)]
struct Tree {
    added: u64,
    removed: u64,
    changed: u64,
    metadata: u64,
}

/// What is on one side only. Of a file with another content counts how much it grew or shrank.
#[derive(Debug, Default)]
struct Amount {
    files: u64,
    dirs: u64,
    others: u64,
    records: u64,
    bytes: u64,
}

impl Amount {
    fn add(&mut self, change: &Change) {
        match change.after.or(change.before) {
            None => self.records += 1,
            Some(file) => {
                match file.class {
                    Class::File => self.files += 1,
                    Class::Folder => self.dirs += 1,
                    Class::Other => self.others += 1,
                }
                self.bytes += file.length;
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let Self { files, dirs, others, records, bytes } = self;
        json!({
            "files": files, "dirs": dirs, "others": others, "records": records, "bytes": bytes,
        })
    }

    fn text(&self) -> String {
        let parts = [
            (self.files, "file"),
            (self.dirs, "folder"),
            (self.others, "special file"),
            (self.records, "record"),
        ];
        let parts = parts.into_iter().filter(|(number, _)| *number > 0);
        let mut parts: Vec<_> = parts.map(|(number, noun)| count(number, noun)).collect();
        parts.push(size(self.bytes));
        parts.join(", ")
    }
}

impl Counts {
    fn add(&mut self, tree: String, change: &Change) {
        let tree = self.trees.entry(tree).or_default();
        match change.modifier {
            Modifier::Added => {
                tree.added += 1;
                self.added.add(change);
            }
            Modifier::Removed => {
                tree.removed += 1;
                self.removed.add(change);
            }
            Modifier::Metadata => tree.metadata += 1,
            Modifier::Modified | Modifier::Type => {
                tree.changed += 1;
                if let (Some(before), Some(after)) = (&change.before, &change.after) {
                    self.changed_files += 1;
                    self.added.bytes += after.length.saturating_sub(before.length);
                    self.removed.bytes += before.length.saturating_sub(after.length);
                }
            }
        }
    }

    fn show(&self, args: &Args, app: &App, old: &Snapshot, new: &Snapshot) -> Result<(), Failure> {
        let output = &app.output;
        if output.is_json() {
            let trees = self.trees.iter().map(|(path, tree)| {
                json!({
                    "path": path,
                    "added": tree.added,
                    "removed": tree.removed,
                    "changed": tree.changed,
                    "metadata": tree.metadata,
                })
            });
            return output.json(&json!({
                "message_type": "statistics",
                "source_snapshot": old.id.to_string(),
                "target_snapshot": new.id.to_string(),
                "changed_files": self.changed_files,
                "added": self.added.json(),
                "removed": self.removed.json(),
                "trees": trees.collect::<Vec<_>>(),
            }));
        }
        if self.trees.is_empty() {
            return output.line("no difference");
        }
        output.detail("")?;
        for (path, Tree { added, removed, changed, metadata }) in &self.trees {
            let more = match metadata {
                0 => String::new(),
                _ if args.metadata => format!(", {metadata} in metadata only"),
                _ => format!(", {metadata} in metadata only (--metadata shows them)"),
            };
            let line = format!("{path}: {added} added, {removed} removed, {changed} changed");
            output.line(line + &more)?;
        }
        for (what, amount) in [("added", &self.added), ("removed", &self.removed)] {
            output.line(format!("{what}: {}", amount.text()))?;
        }
        Ok(())
    }
}
