//! `coeval diff`

use std::collections::BTreeMap;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::entries::{decode_entry, length, mode};
use crate::cli::output::size;
use crate::cli::places::{Paths, Scope, tree_path};
use crate::cli::records::Record;
use crate::hint::Failure;
use crate::snapshot::{self, DiffItem, Snapshot, SnapshotPath};
use crate::source::record::TableHeader;
use crate::source::{Applied, Kind};
use crate::tree::{Difference, Value};

/// Show what differs between two snapshots, down to single files and columns of records
///
/// `+` is only in the second, `-` only in the first, `M` was modified. With --quiet only the
/// numbers are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The older snapshot
    #[arg(value_name = "SNAPSHOT")]
    old: String,
    /// The newer snapshot and, perhaps, the path that to compare: latest:/database
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    new: String,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let (old, new) = (SnapshotPath::parse(&args.old), SnapshotPath::parse(&args.new));
    let path = if new.path.is_empty() { &old.path } else { &new.path };
    let old = app.snapshot(&repo, &old.snapshot)?;
    let new = app.snapshot(&repo, &new.snapshot)?;
    // What the path leads to may be in one of the two only.
    let scope = Scope::of(&new, path).or_else(|error| Scope::of(&old, path).map_err(|_| error))?;
    let mut diff =
        Diff { app, old: &old, new: &new, counts: BTreeMap::new(), headers: BTreeMap::new() };
    snapshot::diff(
        &old,
        &new,
        &|kind, source, tree| scope.has_tree(kind, source, tree),
        &mut |item| {
            app.ctx.check_cancelled()?;
            if scope.has_key(&item.entry.key) { diff.show(item) } else { Ok(()) }
        },
    )?;
    diff.summary()?;
    Ok(Done::Fully)
}

struct Diff<'a> {
    app: &'a App,
    old: &'a Snapshot,
    new: &'a Snapshot,
    counts: BTreeMap<String, Applied>,
    /// The columns that tables had in the older snapshot.
    headers: BTreeMap<String, Option<TableHeader>>,
}

impl Diff<'_> {
    fn show(&mut self, item: DiffItem<'_>) -> Result<(), Failure> {
        let place = tree_path(item.kind, item.source, &item.tree.name);
        let counts = self.counts.entry(place.clone()).or_default();
        let modifier = match (&item.entry.old, &item.entry.new) {
            (None, _) => {
                counts.inserted += 1;
                '+'
            }
            (_, None) => {
                counts.deleted += 1;
                '-'
            }
            _ => {
                counts.updated += 1;
                'M'
            }
        };
        let output = &self.app.output;
        if output.is_quiet() {
            return Ok(());
        }
        let paths = Paths::new(item.kind, item.source, item.tree)?;
        let path = paths.of(&item.entry.key)?;
        let changes = match item.entry {
            Difference { old: Some(old), new: Some(new), key } => match &paths.header {
                Some(header) => {
                    let chunks = &*self.new.repo;
                    let older =
                        self.older_header(&place, item.kind, item.source, &item.tree.name)?;
                    let before = Record::read(older.unwrap_or(header), old.content, chunks)?;
                    let after = Record::read(header, new.content, chunks)?;
                    let changed = before.changed(&after).into_iter();
                    changed.map(|(name, a, b)| [name, a, b].map(str::to_owned)).collect()
                }
                None => file_changes(&key, &old, &new)?,
            },
            _ => Vec::new(),
        };
        if output.is_json() {
            let changes = changes.iter().map(|[name, before, after]| {
                serde_json::json!({ "name": name, "before": before, "after": after })
            });
            return output.json(&serde_json::json!({
                "message_type": "change",
                "path": path,
                "modifier": modifier.to_string(),
                "changes": changes.collect::<Vec<_>>(),
            }));
        }
        let changes =
            changes.iter().map(|[name, a, b]| format!("{name}: {} → {}", short(a), short(b)));
        let changes = changes.collect::<Vec<_>>().join(", ");
        output.line(format!("{modifier}  {path}  {changes}").trim_end())
    }

    fn older_header(
        &mut self,
        place: &str,
        kind: Kind,
        source: &str,
        tree: &str,
    ) -> Result<Option<&TableHeader>, Failure> {
        if !self.headers.contains_key(place) {
            let source = self.old.manifest.source(kind, source);
            let record = source.map(|source| self.old.tree(source, tree)).transpose()?.flatten();
            let header = record.map(|record| TableHeader::from_json(&record.info.header));
            self.headers.insert(place.to_owned(), header.transpose()?);
        }
        Ok(self.headers.get(place).and_then(Option::as_ref))
    }

    fn summary(&self) -> Result<(), Failure> {
        let output = &self.app.output;
        if output.is_json() {
            let trees = self.counts.iter().map(|(path, counts)| {
                serde_json::json!({
                    "path": path,
                    "added": counts.inserted,
                    "removed": counts.deleted,
                    "changed": counts.updated,
                })
            });
            return output.json(&serde_json::json!({
                "message_type": "statistics",
                "source_snapshot": self.old.id.to_string(),
                "target_snapshot": self.new.id.to_string(),
                "trees": trees.collect::<Vec<_>>(),
            }));
        }
        if self.counts.is_empty() {
            return output.line("no difference");
        }
        output.detail("")?;
        for (path, Applied { inserted, deleted, updated }) in &self.counts {
            output
                .line(format!("{path}: {inserted} added, {deleted} removed, {updated} changed"))?;
        }
        Ok(())
    }
}

/// What changed of a file: name, before, after.
fn file_changes(key: &[u8], old: &Value, new: &Value) -> Result<Vec<[String; 3]>, Failure> {
    let (before, after) = (decode_entry(key, old)?, decode_entry(key, new)?);
    let mut changes = Vec::new();
    let mut compare = |name: &str, a: String, b: String| {
        if a != b {
            changes.push([name.to_owned(), a, b]);
        }
    };
    compare("mode", mode(&before), mode(&after));
    let owner = |uid, gid| format!("{uid}:{gid}");
    compare("owner", owner(before.uid, before.gid), owner(after.uid, after.gid));
    compare("size", size(length(&old.content)), size(length(&new.content)));
    compare("time", before.mtime.to_local(), after.mtime.to_local());
    Ok(changes)
}

/// A value that fits into a line.
fn short(value: &str) -> String {
    const LONGEST: usize = 60;
    match value.char_indices().nth(LONGEST) {
        _ if value.is_empty() => "nothing".to_owned(),
        None => value.to_owned(),
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
    }
}
