//! Where the sources of a snapshot go back to, and the restore itself: what `restore` and `undo`
//! share.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Done;
use super::app::{App, host};
use super::config::{dereference, is_name};
use super::databases::DatabaseUrl;
use super::error::usage;
use super::output::{Verbosity, count, size};
use super::places::{source_path, tree_path};
use super::planned::{self, changes};
use super::probe::{ProbeArgs, Probed};
use super::progress::Listing;
use crate::hint::{ErrorKind, Failure};
use crate::snapshot::{
    self, CaptureOptions, Destination, Overwrite, Parent, Pin, Reason, RecordRules, Restored,
    RestoredInto, Selection, Snapshot, SourceRecord,
};
use crate::source::record::DatabaseHeader;
use crate::source::{Directory, Extras, Files, Kind, Owners, PathFilter, Target};

/// A source of a snapshot with the target it goes into.
pub struct Going {
    kind: Kind,
    name: String,
    selection: Selection,
    extras: Extras,
    overwrite: Overwrite,
    paths: PathFilter,
    /// The names of the owners of files, where those count.
    owners: Option<Owners>,
    records: RecordRules,
    /// The names of the trees in the snapshot.
    tables: Vec<String>,
    /// What was left out of a whole directory, as patterns.
    left_out: Option<Vec<String>>,
    /// The target as people and a later `undo` read it.
    place: String,
    target: Box<dyn Target>,
}

impl Going {
    /// Files into a directory; `None` is where they were captured.
    pub fn files(
        snapshot: &Snapshot,
        source: &SourceRecord,
        root: Option<&Path>,
        extras: Extras,
    ) -> Result<Self, Failure> {
        let description = snapshot.description(source)?;
        let mut files = Files::described(source.kind, &source.name, &description, root)?;
        if let Some(list) = snapshot.list_of_files(source)? {
            files = files.with_list(list)?;
        }
        if let Some(left_out) = snapshot.left_out(source)? {
            files = files.with_left_out(left_out)?;
        }
        let place = files.root().display().to_string();
        let target = Box::new(Directory::new(files));
        Ok(Self {
            left_out: left_out(&description.header),
            ..Self::whole(source, extras, place, target)
        })
    }

    /// A database into a database.
    pub fn database(
        snapshot: &Snapshot,
        source: &SourceRecord,
        url: &DatabaseUrl,
    ) -> Result<Self, Failure> {
        // What the snapshot does not show of the tables must not be compared, nor deleted.
        let header = DatabaseHeader::from_json(&snapshot.header(source)?)?;
        let target = url.target(&source.name, header.excluded_tables)?;
        let tables = snapshot.trees(source)?.into_iter().map(|record| record.info.name).collect();
        Ok(Self { tables, ..Self::whole(source, Extras::Delete, url.to_string(), target) })
    }

    fn whole(
        source: &SourceRecord,
        extras: Extras,
        place: String,
        target: Box<dyn Target>,
    ) -> Self {
        Self {
            kind: source.kind,
            name: source.name.clone(),
            selection: Selection::Everything,
            extras,
            overwrite: Overwrite::Always,
            paths: PathFilter::default(),
            owners: None,
            records: RecordRules::default(),
            tables: Vec::new(),
            left_out: None,
            place,
            target,
        }
    }

    /// The same, but only a part of the source.
    #[must_use]
    pub fn only(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// The same, but files only as these rules say.
    #[must_use]
    pub fn by(mut self, overwrite: Overwrite, paths: PathFilter) -> Self {
        if self.kind != Kind::Database {
            (self.overwrite, self.paths) = (overwrite, paths);
        }
        self
    }

    /// The same, but files go to the owners and groups that are called as they were called where
    /// the snapshot was taken.
    pub fn owned_by_name(mut self, snapshot: &Snapshot) -> Result<Self, Failure> {
        if self.kind != Kind::Database
            && let Some(source) = snapshot.manifest.source(self.kind, &self.name)
        {
            self.owners = Some(snapshot.owners(source)?);
        }
        Ok(self)
    }

    /// The same, but records only as these rules say.
    #[must_use]
    pub fn records(mut self, overwrite: Overwrite, extras: Extras, rules: &RecordRules) -> Self {
        if self.kind == Kind::Database {
            (self.overwrite, self.extras, self.records) = (overwrite, extras, rules.clone());
            self.records.pins.retain(|pin| self.tables.contains(&pin.table));
        }
        self
    }
}

/// The patterns in the header of a directory that was captured as a whole.
fn left_out(header: &[u8]) -> Option<Vec<String>> {
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    let options = header.pointer("/storage/options")?;
    let patterns = options.get("ignore").and_then(|list| list.as_array());
    let patterns = patterns.into_iter().flatten().filter_map(|pattern| pattern.as_str());
    Some(patterns.map(str::to_owned).collect())
}

/// Fails if the repository is among what would be deleted.
fn check_repository(going: &[Going], app: &App) -> Result<(), Failure> {
    for going in going.iter().filter(|going| going.extras == Extras::Delete) {
        let Some(left_out) = &going.left_out else { continue };
        let Some(pattern) = app.repository_below(Path::new(&going.place))? else { continue };
        if !left_out.contains(&pattern) {
            return Err(usage(
                format!("the repository itself lies in {}, and would be deleted", going.place),
                "move it elsewhere; snapshots taken from now on leave it out",
            ));
        }
    }
    Ok(())
}

/// Fails if a row is to stay of a table that no database has.
fn check_pins(going: &[Going], rules: &RecordRules) -> Result<(), Failure> {
    let databases = || going.iter().filter(|going| going.kind == Kind::Database);
    let unknown = |pin: &&Pin| !databases().any(|going| going.tables.contains(&pin.table));
    match rules.pins.iter().find(unknown) {
        Some(pin) if databases().next().is_some() => Err(usage(
            format!("{}/{} is to stay as it is, but there is no such table", pin.table, pin.key),
            "list the tables with `coeval ls latest:/database`",
        )),
        _ => Ok(()),
    }
}

/// The directory that a storage or the configuration goes back to: what `coeval.toml` says, or
/// `None` for what the snapshot says. What came in a package from elsewhere has no say in where
/// files are written.
pub fn directory_in_place(
    snapshot: &Snapshot,
    source: &SourceRecord,
    app: &App,
) -> Result<Option<PathBuf>, Failure> {
    let config = app.config()?;
    let configured = match source.kind {
        Kind::Storage => config.storage.get(&source.name).and_then(|storage| storage.path.clone()),
        Kind::Configuration | Kind::Database => None,
    };
    if configured.is_some() || !matches!(snapshot.manifest.reason, Reason::Import { .. }) {
        return Ok(configured);
    }
    let path = source_path(source.kind, &source.name);
    Err(usage(
        format!("the snapshot came from a package, and coeval.toml does not say where {path} is"),
        "restore it into a directory of its own with --target DIR",
    ))
}

/// The name of a source or a tree as the name of a file. Those of an imported snapshot were made
/// by whoever made the package.
pub fn file_name(name: &str) -> Result<&str, Failure> {
    if is_name(name) {
        return Ok(name);
    }
    Err(Failure::message(
        ErrorKind::Damage,
        format!("refused: `{}` is no name of a file", name.escape_default()),
        Some("the snapshot came from a package that is not to be trusted".to_owned()),
    ))
}

/// The database that `coeval.toml` knows by the name of a source.
pub fn database_in_place(source: &SourceRecord, app: &App) -> Result<DatabaseUrl, Failure> {
    let name = &source.name;
    let Some(database) = app.config()?.database.get(name) else {
        return Err(usage(
            format!("coeval.toml does not say where the database `{name}` is"),
            format!("name it with --database URL, or write [database.{name}] into coeval.toml"),
        ));
    };
    DatabaseUrl::new(&dereference(&database.url, &format!("[database.{name}] url"))?)
}

/// Carries out a restore without a word.
pub fn restore_quietly(
    snapshot: &Snapshot,
    going: &mut [Going],
    app: &App,
) -> Result<Restored, Failure> {
    allow_open_files()?;
    let options = options(snapshot, going);
    snapshot::restore(snapshot, &mut destinations(going), &options, &app.ctx)
}

/// How what is there is captured before.
fn options(snapshot: &Snapshot, going: &[Going]) -> CaptureOptions {
    let into = going.iter().map(|going| RestoredInto {
        kind: going.kind,
        name: going.name.clone(),
        place: going.place.clone(),
    });
    let reason = Reason::BeforeRestore { of: snapshot.id, into: into.collect() };
    CaptureOptions {
        host: host(),
        application: snapshot.manifest.application.clone(),
        tags: Vec::new(),
        parent: Parent::Newest,
        reason,
        compression: crate::repo::Compression::Auto,
        compare: false,
    }
}

fn destinations(going: &mut [Going]) -> Vec<Destination<'_>> {
    going
        .iter_mut()
        .map(|going| Destination {
            kind: going.kind,
            name: going.name.clone(),
            target: &mut *going.target,
            selection: going.selection.clone(),
            extras: going.extras,
            overwrite: going.overwrite,
            paths: going.paths.clone(),
            owners: going.owners.clone(),
            records: going.records.clone(),
        })
        .collect()
}

/// Carries out a restore, or only says what it would do.
pub fn restore(
    snapshot: &Snapshot,
    going: &mut [Going],
    how: &How<'_>,
    app: &App,
) -> Result<Done, Failure> {
    check_pins(going, how.rules)?;
    check_repository(going, app)?;
    let options = options(snapshot, going);
    announce(snapshot, going, app)?;
    allow_open_files()?;
    let mut destinations = destinations(going);
    if how.dry_run == DryRun::Yes {
        if app.output.verbosity == Verbosity::Verbose {
            app.progress.list(Listing::Changes);
        }
        let planned = snapshot::plan(snapshot, &mut destinations, &app.ctx)?;
        app.progress.finish();
        planned::show(&planned, app)?;
        if !planned.conflicts.is_empty() {
            return Ok(Done::Incompletely);
        }
    } else {
        let restore = || snapshot::restore(snapshot, &mut destinations, &options, &app.ctx);
        let (restored, probed) = how.probe.during(&*app.ctx.clock, restore)?;
        app.progress.finish();
        show_restored(snapshot, &restored, probed, app)?;
    }
    Ok(if app.progress.skipped() > 0 { Done::Incompletely } else { Done::Fully })
}

/// Lets this process open as many files as it may: a restore holds open every folder on the way to
/// where it is, twice, and some systems allow a thousand where nobody asks for more.
fn allow_open_files() -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    let more = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, more).map_err(|error| {
        let text = format!("cannot raise the limit of open files: {error}");
        Failure::message(ErrorKind::Failed, text, None)
    })
}

/// How a restore is carried out.
#[derive(Debug)]
pub struct How<'a> {
    /// Whether it is.
    pub dry_run: DryRun,
    /// What stays as it is in databases.
    pub rules: &'a RecordRules,
    /// Who looks on.
    pub probe: &'a ProbeArgs,
}

/// Whether a restore only says what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DryRun {
    /// It changes nothing.
    Yes,
    /// It is carried out.
    No,
}

/// Says which snapshot was chosen and where it goes, before anything is done.
fn announce(snapshot: &Snapshot, going: &[Going], app: &App) -> Result<(), Failure> {
    if app.output.is_json() {
        return Ok(());
    }
    let (id, time) = (snapshot.id.short(), snapshot.manifest.time.to_local());
    app.output.detail(format!("snapshot {id} of {time}"))?;
    for going in going {
        let from = source_path(going.kind, &going.name);
        app.output.detail(format!("  {from} → {}", going.place))?;
    }
    Ok(())
}

fn show_restored(
    snapshot: &Snapshot,
    restored: &Restored,
    probed: Option<Probed>,
    app: &App,
) -> Result<(), Failure> {
    let output = &app.output;
    if output.is_json() {
        return output.json(&serde_json::json!({
            "message_type": "summary",
            "dry_run": false,
            "snapshot_id": snapshot.id.to_string(),
            "snapshot_time": snapshot.manifest.time.to_rfc3339(),
            "applied": restored.applied,
            "bytes_fetched": restored.bytes_fetched,
            "verified": restored.verified,
            "kept": restored.kept,
            "before": restored.before.map(|id| id.to_string()),
            "probe": probed,
        }));
    }
    output.detail(format!("restored: {}", changes(restored.applied)))?;
    if restored.bytes_fetched > 0 {
        let fetched = size(restored.bytes_fetched);
        output.verbose(format!("  {fetched} of contents fetched from the repository"))?;
    }
    planned::show_kept(&restored.kept, app)?;
    if let Some(Probed { requests, failures, longest_gap_ms }) = probed {
        output.detail(format!(
            "probe: {}, {failures} failed, at most {longest_gap_ms} ms between good answers",
            count(requests, "request")
        ))?;
    }
    let mut verified = restored.verified.iter().peekable();
    while let Some(first) = verified.next() {
        let mut trees = vec![first];
        while let Some(next) =
            verified.next_if(|tree| (tree.kind, &tree.source) == (first.kind, &first.source))
        {
            trees.push(next);
        }
        let entries = trees.iter().map(|tree| tree.entries).sum();
        let what = match first.kind {
            Kind::Database => {
                format!("{}, {}", count(trees.len() as u64, "table"), count(entries, "record"))
            }
            Kind::Storage | Kind::Configuration => count(entries, "entry"),
        };
        let path = source_path(first.kind, &first.source);
        output.detail(format!("verified {path}: {what}, read again, equal by root hash"))?;
        if let [only] = trees[..] {
            output.detail(format!("  root {}", only.root))?;
            continue;
        }
        for tree in trees {
            let path = tree_path(tree.kind, &tree.source, &tree.tree);
            output.verbose(format!("  root {} {path}", tree.root))?;
        }
    }
    match restored.before {
        None => output.detail("the target was empty before; there is nothing to undo"),
        Some(id) => output.detail(format!(
            "what was there before is snapshot {}; go back to it with `coeval undo`",
            id.short()
        )),
    }
}
