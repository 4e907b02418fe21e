//! `coeval ls`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::usage;
use crate::cli::output::{count, size};
use crate::cli::places::{Paths, source_path};
use crate::cli::records::{Record, decode_entry, file_json, length, long_line};
use crate::hint::Failure;
use crate::snapshot::{Place, Snapshot, SnapshotPath, TreeRecord};
use crate::source::Kind;
use crate::tree::{self, Value};

/// List what is in a snapshot: sources, tables, records, files
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot and, perhaps, a path in it: latest:/storage/documents
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    place: String,
    /// Show more: metadata of files, columns of records
    #[arg(short, long)]
    long: bool,
    /// Also list what is below
    #[arg(short = 'R', long)]
    recursive: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let wanted = SnapshotPath::parse(&args.place);
    let snapshot = app.snapshot(&repo, &wanted.snapshot)?;
    let ls = Ls { args, app, snapshot: &snapshot };
    match snapshot.resolve(&wanted.path)? {
        Place::Root => ls.sources(None),
        Place::Kind(kind) => ls.sources(Some(kind)),
        Place::Source(source) if source.kind == Kind::Database => {
            ls.tables(&source.name, &snapshot.trees(&source)?)
        }
        Place::Source(source) => snapshot
            .trees(&source)?
            .iter()
            .try_for_each(|tree| ls.files(source.kind, &source.name, tree, &[])),
        Place::Tree(source, tree) => ls.records(&source.name, &tree, None),
        Place::Entry(source, tree, key) if source.kind == Kind::Database => {
            ls.records(&source.name, &tree, Some(&key))
        }
        Place::Entry(source, tree, key) => ls.files(source.kind, &source.name, &tree, &key),
    }
    .map(|()| Done::Fully)
}

struct Ls<'a> {
    args: &'a Args,
    app: &'a App,
    snapshot: &'a Snapshot,
}

impl Ls<'_> {
    fn sources(&self, kind: Option<Kind>) -> Result<(), Failure> {
        for source in &self.snapshot.manifest.sources {
            if kind.is_some_and(|kind| kind != source.kind) {
                continue;
            }
            let path = source_path(source.kind, &source.name);
            if self.app.output.is_json() {
                self.app.output.json(&serde_json::json!({
                    "message_type": "node",
                    "path": path,
                    "type": "source",
                    "entries": source.entries,
                    "size": source.bytes,
                    "root": source.catalogue.root.to_string(),
                }))?;
            } else if self.args.long {
                let noun = if source.kind == Kind::Database { "record" } else { "entry" };
                let (entries, bytes) = (count(source.entries, noun), size(source.bytes));
                self.app.output.line(format!("{entries:>16} {bytes:>12} {path}"))?;
            } else {
                self.app.output.line(&path)?;
            }
            if self.args.recursive {
                let trees = self.snapshot.trees(source)?;
                if source.kind == Kind::Database {
                    self.tables(&source.name, &trees)?;
                } else {
                    for tree in &trees {
                        self.files(source.kind, &source.name, tree, &[])?;
                    }
                }
            }
        }
        Ok(())
    }

    fn tables(&self, source: &str, trees: &[TreeRecord]) -> Result<(), Failure> {
        for record in trees {
            let path = format!("{}/{}", source_path(Kind::Database, source), record.info.name);
            if self.app.output.is_json() {
                self.app.output.json(&serde_json::json!({
                    "message_type": "node",
                    "path": path,
                    "type": "table",
                    "records": record.tree.entries,
                    "root": record.tree.root.to_string(),
                }))?;
            } else if self.args.long {
                let records = count(record.tree.entries, "record");
                self.app.output.line(format!("{records:>16} {path}"))?;
            } else {
                self.app.output.line(&path)?;
            }
            if self.args.recursive {
                self.records(source, record, None)?;
            }
        }
        Ok(())
    }

    /// All records of a table, or one.
    fn records(
        &self,
        source: &str,
        record: &TreeRecord,
        only: Option<&[u8]>,
    ) -> Result<(), Failure> {
        let repo = &*self.snapshot.repo;
        let paths = Paths::new(Kind::Database, source, &record.info)?;
        if let Some(key) = only {
            let value = tree::get(repo, record.tree, key)?;
            let value = value.ok_or_else(|| missing(&paths, key))?;
            return self.record(&paths, key, value);
        }
        for entry in tree::entries(repo, record.tree, &[], &[]) {
            self.app.ctx.check_cancelled()?;
            let (key, value) = entry?;
            self.record(&paths, &key, value)?;
        }
        Ok(())
    }

    fn record(&self, paths: &Paths, key: &[u8], value: Value) -> Result<(), Failure> {
        let path = paths.of(key)?;
        let (output, long) = (&self.app.output, self.args.long);
        let row = match &paths.header {
            Some(header) if long => {
                Some(Record::read(header, value.content, &*self.snapshot.repo)?)
            }
            _ => None,
        };
        if output.is_json() {
            output.json(&serde_json::json!({
                "message_type": "node",
                "path": path,
                "type": "record",
                "record": row,
            }))
        } else {
            let row = row.map_or_else(String::new, |row| format!("  {}", row.to_json()));
            output.line(format!("{path}{row}"))
        }
    }

    /// What is in a folder, or a file.
    fn files(
        &self,
        kind: Kind,
        source: &str,
        record: &TreeRecord,
        key: &[u8],
    ) -> Result<(), Failure> {
        let repo = &*self.snapshot.repo;
        let paths = Paths::new(kind, source, &record.info)?;
        if !key.is_empty() {
            let value = tree::get(repo, record.tree, key)?;
            let has_more = |key: &[u8]| {
                let below = [key, &[0]].concat();
                tree::entries(repo, record.tree, &[], &below).next().is_some()
            };
            match value {
                // The folders of configuration files are no entries.
                None if has_more(key) => {}
                None => return Err(missing(&paths, key)),
                Some(value) => {
                    if !decode_entry(key, &value)?.is_directory() {
                        return self.file(&paths, key, &value);
                    }
                }
            }
        }
        let prefix = if key.is_empty() { Vec::new() } else { [key, &[0]].concat() };
        let mut entries = tree::entries(repo, record.tree, &[], &prefix);
        while let Some(entry) = entries.next() {
            self.app.ctx.check_cancelled()?;
            let (key, value) = entry?;
            if key.is_empty() {
                continue;
            }
            self.file(&paths, &key, &value)?;
            if !self.args.recursive && decode_entry(&key, &value)?.is_directory() {
                // Pass over all that is below without reading it.
                entries = tree::entries(repo, record.tree, &[&key[..], &[1]].concat(), &prefix);
            }
        }
        Ok(())
    }

    fn file(&self, paths: &Paths, key: &[u8], value: &Value) -> Result<(), Failure> {
        let (entry, length, path) =
            (decode_entry(key, value)?, length(&value.content), paths.of(key)?);
        if self.app.output.is_json() {
            self.app.output.json(&file_json(&entry, length, &path))
        } else if self.args.long {
            self.app.output.line(long_line(&entry, length, &path))
        } else {
            self.app.output.line(path)
        }
    }
}

/// There is no entry at this key.
pub fn missing(paths: &Paths, key: &[u8]) -> Failure {
    match paths.of(key) {
        Ok(path) => usage(format!("the snapshot has no {path}"), "look around with `coeval ls`"),
        Err(failure) => failure,
    }
}
