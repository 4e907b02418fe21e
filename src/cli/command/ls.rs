//! `coeval ls`

use std::cell::RefCell;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::entries::{Sizes, Style, decode_entry, file_json, long_line};
use crate::cli::error::usage;
use crate::cli::output::{Output, count};
use crate::cli::places::{Paths, lossless, source_path};
use crate::cli::records::Record;
use crate::hint::Failure;
use crate::snapshot::{Place, Snapshot, SnapshotPath, SourceRecord, TreeRecord};
use crate::source::sort::{BUDGET, Duplicates, Sorter};
use crate::source::{Entry, Kind};
use crate::tree::{self, Value};

/// List what is in a snapshot: sources, tables, records, files
///
/// Bytes of a name that are not UTF-8, and control characters, are written as `\xHH`; a PATH may
/// be written so too.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot and, perhaps, a path in it: latest:/storage/documents
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = lossless())]
    place: String,
    /// Show more: metadata of files, columns of records
    #[arg(short, long)]
    long: bool,
    /// Also list what is below
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    look: Look,
}

/// How files are listed.
#[derive(Debug, clap::Args)]
struct Look {
    /// Write sizes in KiB, MiB and so on
    #[arg(long)]
    human_readable: bool,
    /// List files by name, the largest first, or the newest first; else folders come before what
    /// is in them
    #[arg(long, value_name = "ORDER")]
    sort: Option<Order>,
    /// Turn the order around
    #[arg(long, requires = "sort")]
    reverse: bool,
}

/// What files are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    Name,
    Size,
    Time,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let wanted = SnapshotPath::parse(&args.place);
    let snapshot = app.snapshot(&repo, &wanted.snapshot)?;
    let ls = Ls { args, app, snapshot: &snapshot, lines: Lines::new(&args.look, &app.output) };
    match snapshot.resolve(&wanted.path)? {
        Place::Root => ls.sources(None),
        Place::Kind(kind) => ls.sources(Some(kind)),
        Place::Source(source) if source.kind == Kind::Database => {
            ls.tables(&source.name, &snapshot.trees(&source)?)
        }
        Place::Source(source) => {
            snapshot.trees(&source)?.iter().try_for_each(|tree| ls.files(&source, tree, &[]))
        }
        Place::Tree(source, tree) => ls.records(&source.name, &tree, None),
        Place::Entry(source, tree, key) if source.kind == Kind::Database => {
            ls.records(&source.name, &tree, Some(&key))
        }
        Place::Entry(source, tree, key) => ls.files(&source, &tree, &key),
    }?;
    ls.lines.finish()?;
    Ok(Done::Fully)
}

struct Ls<'a> {
    args: &'a Args,
    app: &'a App,
    snapshot: &'a Snapshot,
    lines: Lines<'a>,
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
                let (entries, bytes) =
                    (count(source.entries, noun), self.sizes().show(source.bytes));
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
                        self.files(source, tree, &[])?;
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
    fn files(&self, source: &SourceRecord, record: &TreeRecord, key: &[u8]) -> Result<(), Failure> {
        let repo = &*self.snapshot.repo;
        let paths = Paths::new(source.kind, &source.name, &record.info)?;
        let style = Style { owners: self.snapshot.owners(source)?, sizes: self.sizes() };
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
                        return self.file(&paths, key, &value, &style);
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
            self.file(&paths, &key, &value, &style)?;
            if !self.args.recursive && decode_entry(&key, &value)?.is_directory() {
                // Pass over all that is below without reading it.
                entries = tree::entries(repo, record.tree, &[&key[..], &[1]].concat(), &prefix);
            }
        }
        Ok(())
    }

    fn file(&self, paths: &Paths, key: &[u8], value: &Value, style: &Style) -> Result<(), Failure> {
        let (entry, length, path) =
            (decode_entry(key, value)?, value.content.length(), paths.of(key)?);
        let link = entry.link.as_deref().map(|link| paths.of(link)).transpose()?;
        let line = if self.app.output.is_json() {
            let json = file_json(&entry, length, &path, link.as_deref(), &style.owners);
            serde_json::Value::Object(json).to_string()
        } else if self.args.long {
            long_line(&entry, length, &path, link.as_deref(), style)
        } else {
            path
        };
        self.lines.push(key, &entry, length, &line)
    }

    fn sizes(&self) -> Sizes {
        if self.args.look.human_readable { Sizes::Human } else { Sizes::Exact }
    }
}

/// Lines on their way to the output; sorted ones wait in memory and, from some size on, in a
/// temporary file.
struct Lines<'a> {
    output: &'a Output,
    look: &'a Look,
    sorter: RefCell<Option<Sorter>>,
}

impl<'a> Lines<'a> {
    fn new(look: &'a Look, output: &'a Output) -> Self {
        let sorter = look.sort.map(|_| Sorter::new(BUDGET, Duplicates::Number));
        Self { output, look, sorter: RefCell::new(sorter) }
    }

    fn push(&self, key: &[u8], entry: &Entry, length: u64, line: &str) -> Result<(), Failure> {
        let mut sorter = self.sorter.borrow_mut();
        let (Some(order), Some(sorter)) = (self.look.sort, sorter.as_mut()) else {
            return self.output.line(line);
        };
        // The sign bit turned around, so that times before 1970 come first.
        let seconds = entry.mtime.seconds.cast_unsigned() ^ 1 << 63;
        let mut place = match order {
            Order::Name => Vec::new(),
            Order::Size => (!length).to_be_bytes().to_vec(),
            Order::Time => {
                [&(!seconds).to_be_bytes()[..], &(!entry.mtime.nanoseconds).to_be_bytes()].concat()
            }
        };
        place.extend_from_slice(key);
        if self.look.reverse {
            // What is longer goes before its own beginning.
            place.push(0);
            place = place.into_iter().map(|byte| !byte).collect();
        }
        Ok(sorter.push(&place, line.as_bytes())?)
    }

    fn finish(self) -> Result<(), Failure> {
        let Some(sorter) = self.sorter.into_inner() else { return Ok(()) };
        for line in sorter.finish()? {
            self.output.bytes(&[&line?.1[..], b"\n"].concat())?;
        }
        Ok(())
    }
}

/// There is no entry at this key.
pub fn missing(paths: &Paths, key: &[u8]) -> Failure {
    match paths.of(key) {
        Ok(path) => usage(format!("the snapshot has no {path}"), "look around with `coeval ls`"),
        Err(failure) => failure,
    }
}
