//! `coeval find`

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::entries::{Sizes, Style, file_json, long_line};
use crate::cli::error::usage;
use crate::cli::places::{Paths, Scope, lossless, source_path};
use crate::hint::{ErrorKind, Failure};
use crate::id::SnapshotId;
use crate::snapshot::{Filter, Finder, Found, Manifest, Snapshot, Timeline};
use crate::source::{Entry, EntryKind, FilesError, Kind, TreeInfo, display_key};
use crate::time::{Timestamp, parse_time};

/// Find files in all snapshots, by name, type, size or time
///
/// A PATTERN is a glob: of a name, or, if it has a slash, of the end of a path, or of a whole one
/// if it begins with a slash. A thousand snapshots that differ little take little longer than one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Globs, of which one must match: '*.pdf', 'invoices/2026-*', '/storage/media/**/a.jpg'
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Do not distinguish upper and lower case
    #[arg(short, long)]
    ignore_case: bool,
    #[command(flatten)]
    look: Look,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    snapshots: SnapshotArgs,
}

/// How files are listed.
#[derive(Debug, clap::Args)]
struct Look {
    /// Show more: metadata of files
    #[arg(short, long)]
    long: bool,
    /// Write sizes in KiB, MiB and so on
    #[arg(long)]
    human_readable: bool,
}

/// Which files.
#[derive(Debug, clap::Args)]
struct FileArgs {
    /// Only what is of this type: f file, d folder, l link, p pipe, s socket, c or b device
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<FileType>,
    /// Only files that are larger (+10M), smaller (-1k) or exactly that long (=512)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = SizeTest::parse)]
    size: Vec<SizeTest>,
    /// Only what was modified after this time
    #[arg(long, value_name = "TIME")]
    newer: Option<String>,
    /// Only what was modified at or before this time
    #[arg(long, value_name = "TIME")]
    older: Option<String>,
    /// Only at or below this path; records of a table are found by their keys, if it leads there
    #[arg(long, value_name = "PATH", value_parser = lossless())]
    path: Option<String>,
}

/// Which snapshots.
#[derive(Debug, clap::Args)]
struct SnapshotArgs {
    /// Only in this snapshot
    #[arg(short, long, value_name = "SNAPSHOT")]
    snapshot: Vec<String>,
    /// Only in snapshots of this machine
    #[arg(short = 'H', long)]
    host: Option<String>,
    /// Only in snapshots with this tag; with several, with all of them
    #[arg(long)]
    tag: Vec<String>,
    /// Only in snapshots that were taken after this time
    #[arg(long, value_name = "TIME")]
    after: Option<String>,
    /// Only in snapshots that were taken at or before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The oldest snapshot first
    #[arg(short = 'R', long)]
    reverse: bool,
}

/// A type, in the letters of find(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FileType {
    #[value(name = "f", alias = "file")]
    File,
    #[value(name = "d", alias = "dir")]
    Directory,
    #[value(name = "l", alias = "symlink")]
    Symlink,
    #[value(name = "p", alias = "fifo")]
    Fifo,
    #[value(name = "s", alias = "socket")]
    Socket,
    #[value(name = "c", alias = "chardev")]
    CharacterDevice,
    #[value(name = "b", alias = "dev")]
    BlockDevice,
}

impl FileType {
    const fn of(kind: &EntryKind) -> Self {
        match kind {
            EntryKind::File => Self::File,
            EntryKind::Directory => Self::Directory,
            EntryKind::Symlink { .. } => Self::Symlink,
            EntryKind::Fifo => Self::Fifo,
            EntryKind::Socket => Self::Socket,
            EntryKind::CharacterDevice(_) => Self::CharacterDevice,
            EntryKind::BlockDevice(_) => Self::BlockDevice,
        }
    }
}

/// A condition on a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SizeTest {
    More(u64),
    Less(u64),
    Exactly(u64),
}

impl SizeTest {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size: write it as +10M, -1k or =512");
        let (test, number): (fn(u64) -> Self, _) = match text.as_bytes().first() {
            Some(b'+') => (Self::More, text.get(1..)),
            Some(b'-') => (Self::Less, text.get(1..)),
            Some(b'=') => (Self::Exactly, text.get(1..)),
            _ => (Self::Exactly, Some(text)),
        };
        let number = number.ok_or_else(wrong)?;
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let (digits, unit) = number.split_at(digits);
        let shift = match unit.to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        Ok(test(number.checked_mul(1 << shift).ok_or_else(wrong)?))
    }

    const fn admits(self, size: u64) -> bool {
        match self {
            Self::More(limit) => size > limit,
            Self::Less(limit) => size < limit,
            Self::Exactly(wanted) => size == wanted,
        }
    }
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let patterns = Patterns::new(args, app)?;
    let repo = app.open()?;
    let timeline = app.timeline(&repo)?;
    let chosen = args.snapshots.choose(&timeline, app)?;
    let wanted = |found: &Found<'_>| patterns.admit(found);
    let mut finder = Finder::new(&wanted, Finder::BUDGET);
    for (id, manifest) in chosen {
        let snapshot =
            Snapshot { repo: std::sync::Arc::clone(&repo), id: *id, manifest: manifest.clone() };
        let path = args.file.path.as_deref().unwrap_or_default();
        let scope = match Scope::of(&snapshot, path) {
            Ok(scope) => scope,
            // This snapshot has nothing of it.
            Err(error) if error.kind() == ErrorKind::Usage => continue,
            Err(error) => return Err(error),
        };
        let mut shown = Shown { args, app, snapshot: &snapshot, hits: 0, at: None };
        finder.search(&snapshot, &scope, &app.ctx, &mut |found| shown.add(found))?;
        shown.finish()?;
    }
    Ok(Done::Fully)
}

impl SnapshotArgs {
    /// The snapshots to search, in the order in which they are shown.
    fn choose<'t>(
        &self,
        timeline: &'t Timeline,
        app: &App,
    ) -> Result<Vec<&'t (SnapshotId, Manifest)>, Failure> {
        let now = app.ctx.clock.now();
        let time = |text: &Option<String>| text.as_ref().map(|t| parse_time(t, now)).transpose();
        let (after, until) = (time(&self.after)?, time(&self.until)?);
        let filter =
            Filter { host: self.host.clone(), tags: self.tag.clone(), until, ..app.filter()? };
        let named: Vec<SnapshotId> = self
            .snapshot
            .iter()
            .map(|text| timeline.select(text, &app.filter()?, &app.ctx).map(|(id, _)| *id))
            .collect::<Result<_, _>>()?;
        let mut chosen: Vec<_> = timeline
            .iter(&filter)
            .filter(|(id, manifest)| {
                after.is_none_or(|after| manifest.time > after)
                    && (named.is_empty() || named.contains(id))
            })
            .collect();
        if !self.reverse {
            chosen.reverse();
        }
        Ok(chosen)
    }
}

/// What is looked for.
struct Patterns<'a> {
    args: &'a FileArgs,
    /// Of the last part of a path.
    names: GlobSet,
    /// Of whole paths.
    paths: GlobSet,
    newer: Option<Timestamp>,
    older: Option<Timestamp>,
    /// How the keys of the table are written that was last looked at.
    table: RefCell<Option<(TreeInfo, Paths)>>,
}

impl<'a> Patterns<'a> {
    fn new(args: &'a Args, app: &App) -> Result<Self, Failure> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let wrong = |error: globset::Error| {
            usage(error.to_string(), "in a glob, `*` and `?` stand for anything, `\\*` for a star")
        };
        for pattern in &args.patterns {
            let (set, pattern) = match pattern.strip_suffix('/').unwrap_or(pattern) {
                whole if whole.starts_with('/') => (&mut paths, whole.to_owned()),
                end if end.contains('/') => (&mut paths, format!("**/{end}")),
                name => (&mut names, name.to_owned()),
            };
            let glob = GlobBuilder::new(&pattern)
                .literal_separator(true)
                .case_insensitive(args.ignore_case)
                .build()
                .map_err(wrong)?;
            set.add(glob);
        }
        let now = app.ctx.clock.now();
        let time = |text: &Option<String>| text.as_ref().map(|t| parse_time(t, now)).transpose();
        Ok(Self {
            args: &args.file,
            names: names.build().map_err(wrong)?,
            paths: paths.build().map_err(wrong)?,
            newer: time(&args.file.newer)?,
            older: time(&args.file.older)?,
            table: RefCell::default(),
        })
    }

    fn admit(&self, found: &Found<'_>) -> Result<bool, Failure> {
        if found.kind == Kind::Database {
            return self.admit_record(found);
        }
        // The root folder of a source is no file of anybody.
        if found.key.is_empty() {
            return Ok(false);
        }
        let name = found.key.rsplit(|&byte| byte == 0).next().unwrap_or_default();
        let named = self.names.is_match(Path::new(OsStr::from_bytes(name)));
        if !named && !self.admits_path(found) {
            return Ok(false);
        }
        let entry = Entry::decode(found.head)
            .map_err(|source| FilesError::Entry { path: display_key(found.key), source })?;
        let FileArgs { types, size, .. } = self.args;
        let is_file = entry.kind == EntryKind::File;
        Ok((types.is_empty() || types.contains(&FileType::of(&entry.kind)))
            && (size.is_empty() || is_file && size.iter().all(|size| size.admits(found.length)))
            && self.newer.is_none_or(|newer| entry.mtime > newer)
            && self.older.is_none_or(|older| entry.mtime <= older))
    }

    fn admits_path(&self, found: &Found<'_>) -> bool {
        if self.paths.is_empty() {
            return false;
        }
        let mut path = source_path(found.kind, found.source).into_bytes();
        path.push(b'/');
        path.extend(found.key.iter().map(|&byte| if byte == 0 { b'/' } else { byte }));
        self.paths.is_match(Path::new(OsStr::from_bytes(&path)))
    }

    /// Records have a key and nothing else that can be asked for; and are so many that they are
    /// looked at only where the path leads to them.
    fn admit_record(&self, found: &Found<'_>) -> Result<bool, Failure> {
        let FileArgs { types, size, newer, older, path } = self.args;
        let asked = types.is_empty() && size.is_empty() && newer.is_none() && older.is_none();
        let leads = path.as_ref().is_some_and(|path| path.starts_with("/database"));
        if !asked || !leads {
            return Ok(false);
        }
        let mut table = self.table.borrow_mut();
        let (info, paths) = match table.take().filter(|(known, _)| known == found.tree) {
            Some(known) => known,
            None => (found.tree.clone(), Paths::new(found.kind, found.source, found.tree)?),
        };
        let path = paths.of(found.key)?;
        *table = Some((info, paths));
        let key = path.rsplit('/').next().unwrap_or_default();
        Ok(self.names.is_match(Path::new(key)) || self.paths.is_match(Path::new(&path)))
    }
}

/// What was found in one snapshot, on its way to the output.
struct Shown<'a> {
    args: &'a Args,
    app: &'a App,
    snapshot: &'a Snapshot,
    hits: u64,
    /// The tree that the last one was in.
    at: Option<(Kind, String, String, Paths, Style)>,
}

impl Shown<'_> {
    fn add(&mut self, found: &Found<'_>) -> Result<(), Failure> {
        let Self { args, app, snapshot, .. } = *self;
        let known = self.at.take().filter(|(kind, source, tree, ..)| {
            (*kind, source.as_str(), tree) == (found.kind, found.source, &found.tree.name)
        });
        let at = match known {
            Some(at) => at,
            None => {
                let paths = Paths::new(found.kind, found.source, found.tree)?;
                let sizes = if args.look.human_readable { Sizes::Human } else { Sizes::Exact };
                let source = snapshot.manifest.source(found.kind, found.source);
                let owners = source.filter(|_| args.look.long || app.output.is_json());
                let owners = owners.map(|source| snapshot.owners(source)).transpose()?;
                let style = Style { owners: owners.unwrap_or_default(), sizes };
                let tree = found.tree.name.clone();
                (found.kind, found.source.to_owned(), tree, paths, style)
            }
        };
        let (_, _, _, paths, style) = self.at.insert(at);
        if self.hits == 0 && !app.output.is_json() {
            let (id, time) = (snapshot.id.short(), snapshot.manifest.time.to_local());
            app.output.detail(format!("Found matching entries in snapshot {id} from {time}"))?;
        }
        self.hits += 1;
        let path = paths.of(found.key)?;
        let entry =
            (found.kind != Kind::Database).then(|| Entry::decode(found.head)).transpose()?;
        let link = entry.as_ref().and_then(|entry| entry.link.as_deref());
        let link = link.map(|link| paths.of(link)).transpose()?;
        if app.output.is_json() {
            let mut json = match &entry {
                Some(e) => file_json(e, found.length, &path, link.as_deref(), &style.owners),
                None => serde_json::Map::from_iter([("path".to_owned(), path.into())]),
            };
            json.insert("message_type".to_owned(), "match".into());
            json.insert("snapshot".to_owned(), snapshot.id.to_string().into());
            return app.output.json(&json);
        }
        match entry.filter(|_| args.look.long) {
            Some(e) => app.output.line(long_line(&e, found.length, &path, link.as_deref(), style)),
            None => app.output.line(path),
        }
    }

    fn finish(&self) -> Result<(), Failure> {
        let Self { app, snapshot, hits, .. } = self;
        if *hits == 0 {
            return Ok(());
        }
        if app.output.is_json() {
            return app.output.json(&serde_json::json!({
                "message_type": "summary",
                "snapshot": snapshot.id.to_string(),
                "time": snapshot.manifest.time.to_rfc3339(),
                "hits": hits,
            }));
        }
        app.output.detail("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_for_find() {
        assert_eq!(SizeTest::parse("+10M"), Ok(SizeTest::More(10 << 20)));
        assert_eq!(SizeTest::parse("-1k"), Ok(SizeTest::Less(1 << 10)));
        assert_eq!(SizeTest::parse("=3GiB"), Ok(SizeTest::Exactly(3 << 30)));
        assert_eq!(SizeTest::parse("12"), Ok(SizeTest::Exactly(12)));
        for nonsense in ["", "+", "k", "1q", "+-1", "99999999999999999999", "99999999T"] {
            assert!(SizeTest::parse(nonsense).is_err(), "{nonsense}");
        }
        assert!(SizeTest::More(5).admits(6) && !SizeTest::More(5).admits(5));
        assert!(SizeTest::Less(5).admits(4) && !SizeTest::Less(5).admits(5));
    }
}
