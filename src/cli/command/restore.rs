//! `coeval restore`

use std::path::PathBuf;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::config::dereference;
use crate::cli::databases::DatabaseUrl;
use crate::cli::dump::dump;
use crate::cli::error::usage;
use crate::cli::live::LiveArgs;
use crate::cli::places::{Scope, source_path};
use crate::cli::probe::ProbeArgs;
use crate::cli::sources::absolute;
use crate::cli::targets::{
    self, DryRun, Going, How, database_in_place, directory_in_place, file_name,
};
use crate::hint::Failure;
use crate::snapshot::{
    self, Condition, Follow, Overwrite, RecordRules, Relatives, Rules, Selection, Snapshot,
    SnapshotPath, SourceRecord, Until,
};
use crate::source::{Extras, Kind, PathFilter, parse_lsn};
use crate::time::parse_time;

/// Bring a snapshot back, or a part of it: a table, a record, a folder, a file
///
/// Only what differs is changed. Before that, a snapshot of what is there is taken, to which
/// `coeval undo` goes back; after it, everything is read again and compared by root hash, databases
/// before their transaction is committed.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "these are the flags of the command")]
#[command(group = clap::ArgGroup::new("where").required(true).multiple(true))]
pub struct Args {
    /// The snapshot and, perhaps, a path in it: @yesterday:/database/main/users. More paths may
    /// follow: they are restored together
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    places: Vec<String>,
    /// Restore into this directory: files into DIR/storage/NAME and DIR/configuration, tables as
    /// JSON lines into DIR/database/NAME
    #[arg(long, value_name = "DIR", group = "where")]
    target: Option<PathBuf>,
    /// Restore the database into this one; without --in-place, only the database
    #[arg(long, value_name = "URL", group = "where", conflicts_with = "target")]
    database: Option<String>,
    /// Restore an anonymised copy: a file with lines like `users.email = "fake-email"`, where a
    /// column becomes "null", "hash", "fake-name", "fake-email", "fake-phone" or "text:…". Equal
    /// values stay equal; who has the repository's key can tell what they were
    #[arg(long, value_name = "RULES.toml", requires = "database", conflicts_with = "in_place")]
    anonymise: Option<PathBuf>,
    /// Restore everything to where it came from: what coeval.toml says, or, for files that it does
    /// not name, what the snapshot says. What the snapshot does not have is deleted there
    #[arg(long, group = "where", conflicts_with = "target")]
    in_place: bool,
    /// The state at this time, to the transaction where snapshots follow the changes of a database
    /// (`coeval database setup`), else the newest snapshot at or before it
    #[arg(long, value_name = "TIME", group = "moment")]
    at: Option<String>,
    /// The state at this position of the server's log, as `pg_current_wal_lsn()` prints it
    #[arg(long, value_name = "LSN", group = "moment", value_parser = lsn)]
    at_lsn: Option<u64>,
    /// The state just before this transaction
    #[arg(long, value_name = "XID", group = "moment")]
    before_xid: Option<u32>,
    /// Say what would be changed, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Delete files in the target that the snapshot does not have
    #[arg(long, requires = "target")]
    delete: bool,
    /// What becomes of files and folders that the target has in another form
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    overwrite: When,
    /// Restore only files and folders that match this pattern (as in .gitignore), with all that is
    /// in them; may be given several times
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Neither restore nor delete files and folders that match this pattern (as in .gitignore)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Give files to the owners and groups that have the same names here as where the snapshot was
    /// taken, not to those with the same numbers. Names that are unknown here are listed, and their
    /// numbers kept; so are the numbers in access control lists
    #[arg(long)]
    owner_by_name: bool,
    /// What becomes of records of which the target has others
    #[arg(long, value_enum, value_name = "MODE", default_value_t, conflicts_with = "target")]
    mode: Mode,
    /// Restore only records of a table that fulfil this, as in status=open, id>=100 or
    /// email~@example\.com$ (a regular expression); given several times, all of it
    #[arg(long = "where", value_name = "CONDITION", conflicts_with = "target")]
    only: Vec<String>,
    /// Restore also the records that the restored ones refer to and the target has not got
    #[arg(long, conflicts_with = "target")]
    with_parents: bool,
    /// Restore also the records that refer to the restored ones
    #[arg(long, conflicts_with = "target")]
    with_children: bool,
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    probe: ProbeArgs,
    /// Verify what was restored: accepted, and always done
    #[arg(long, hide = true)]
    verify: bool,
}

/// When a file of the target is overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum When {
    /// When it differs
    #[default]
    Always,
    /// When its size or time of modification differs
    IfChanged,
    /// When it was modified before the snapshot's was
    IfNewer,
    /// Never: only what is missing is restored
    Never,
}

fn lsn(text: &str) -> Result<u64, String> {
    parse_lsn(text).ok_or_else(|| "it is written like 16/B374D848".to_owned())
}

/// What becomes of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Mode {
    /// They become what the snapshot says; those that it does not have are deleted
    #[default]
    Replace,
    /// They become what the snapshot says; those that it does not have stay
    MergeOverwrite,
    /// They stay; only those that are missing are restored
    MergeMissing,
}

impl Args {
    /// The snapshot and the path. With --at and the like, only a path need be given.
    fn wanted(&self) -> Result<SnapshotPath, Failure> {
        let by_flag = self.at.is_some() || self.at_lsn.is_some() || self.before_xid.is_some();
        let mut wanted = match (self.places.first().map(String::as_str), by_flag) {
            (Some(path), true) if path.starts_with('/') => {
                SnapshotPath::parse(&format!("latest:{path}"))
            }
            (Some(place), _) => SnapshotPath::parse(place),
            (None, true) => SnapshotPath::parse("latest"),
            (None, false) => {
                return Err(usage(
                    "which snapshot?",
                    "write `latest`, an id, @TIME; or --at TIME, --at-lsn LSN, --before-xid XID",
                ));
            }
        };
        if let Some(time) = &self.at {
            wanted.snapshot = format!("@{time}");
        }
        Ok(wanted)
    }

    /// What is restored of each source: the first path says `path`.
    fn chosen(
        &self,
        snapshot: &Snapshot,
        path: &str,
    ) -> Result<Vec<(SourceRecord, Selection)>, Failure> {
        let mut scopes = Vec::new();
        // A snapshot without a path is all of it, unless paths follow.
        if !path.is_empty() || self.places.len() < 2 {
            scopes.push(Scope::of(snapshot, path)?);
        }
        for path in self.places.iter().skip(1) {
            if !path.starts_with('/') {
                return Err(usage(
                    format!("`{path}` is no path in the snapshot"),
                    "name one snapshot, and then paths: latest /database/main/users /storage",
                ));
            }
            scopes.push(Scope::of(snapshot, path)?);
        }
        let mut chosen = Vec::new();
        for source in &snapshot.manifest.sources {
            let of_source = |scope: &&Scope| scope.has_source(source.kind, &source.name);
            let scopes: Vec<&Scope> = scopes.iter().filter(of_source).collect();
            if let Some(selection) = selection(&scopes)? {
                chosen.push((source.clone(), selection));
            }
        }
        Ok(chosen)
    }

    /// Up to which moment, where the place or a flag names one.
    fn moment(&self, snapshot: &str, app: &App) -> Result<Option<Until>, Failure> {
        Ok(match (self.at_lsn, self.before_xid, snapshot.strip_prefix('@')) {
            (Some(lsn), ..) => Some(Until::Lsn(lsn)),
            (None, Some(xid), _) => Some(Until::BeforeTransaction(xid)),
            (None, None, Some(time)) => Some(Until::Time(parse_time(time, app.ctx.clock.now())?)),
            (None, None, None) => None,
        })
    }

    /// What of a source is restored, and how.
    fn apply(
        &self,
        going: Going,
        snapshot: &Snapshot,
        selection: &Selection,
        (replaced, extras, rules): &(Overwrite, Extras, RecordRules),
    ) -> Result<Going, Failure> {
        let (overwrite, paths) = self.rules()?;
        let going = going.only(selection.clone()).by(overwrite, paths);
        let going = going.records(*replaced, *extras, rules);
        if self.owner_by_name { going.owned_by_name(snapshot) } else { Ok(going) }
    }

    /// How records are restored.
    fn records(&self, app: &App) -> Result<(Overwrite, Extras, RecordRules), Failure> {
        let (overwrite, extras) = match self.mode {
            Mode::Replace => (Overwrite::Always, Extras::Delete),
            Mode::MergeOverwrite => (Overwrite::Always, Extras::Keep),
            Mode::MergeMissing => (Overwrite::Never, Extras::Keep),
        };
        let only = self.only.iter().map(|text| Condition::parse(text));
        let follow = |wanted| if wanted { Follow::Yes } else { Follow::No };
        let rules = RecordRules {
            only: only.collect::<Result<_, _>>()?,
            relatives: Relatives {
                parents: follow(self.with_parents),
                children: follow(self.with_children),
            },
            ..self.live.rules(app)?
        };
        Ok((overwrite, extras, rules))
    }

    fn how<'a>(&'a self, dry_run: DryRun, rules: &'a RecordRules) -> How<'a> {
        How { dry_run, rules, probe: &self.probe }
    }

    /// Whether only some records of one table are asked for where only a table will do.
    fn check_table(&self, chosen: &[(SourceRecord, Selection)]) -> Result<(), Failure> {
        let asks = !self.only.is_empty() || self.with_parents || self.with_children;
        let of_one_table = match chosen {
            [(_, Selection::Trees(trees))] => trees.len() == 1,
            [(_, Selection::Entries { .. })] => true,
            _ => false,
        };
        if asks && !of_one_table {
            return Err(usage(
                "--where, --with-parents and --with-children are for records of one table",
                "name it, as in latest:/database/main/users",
            ));
        }
        Ok(())
    }

    /// How files are restored.
    fn rules(&self) -> Result<(Overwrite, PathFilter), Failure> {
        let overwrite = match self.overwrite {
            When::Always => Overwrite::Always,
            When::IfChanged => Overwrite::IfChanged,
            When::IfNewer => Overwrite::IfNewer,
            When::Never => Overwrite::Never,
        };
        Ok((overwrite, PathFilter::new(&self.include, &self.exclude)?))
    }
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let wanted = args.wanted()?;
    let snapshot = match args.moment(&wanted.snapshot, app)? {
        Some(until) => app.moment(&repo, &wanted.snapshot, &until)?,
        None => app.snapshot(&repo, &wanted.snapshot)?,
    };
    let snapshot = match &args.anonymise {
        Some(rules) if !args.dry_run => anonymised(&snapshot, &wanted, rules, app)?,
        Some(_) => {
            return Err(usage(
                "--dry-run, but an anonymised copy is made by making it",
                "leave out one of the two",
            ));
        }
        None => snapshot,
    };
    let chosen = args.chosen(&snapshot, &wanted.path)?;
    args.check_table(&chosen)?;
    if chosen.is_empty() {
        return Err(usage(
            format!("there is nothing at {}:{}", wanted.snapshot, wanted.path),
            "look around with `coeval ls`",
        ));
    }
    let sources: Vec<&SourceRecord> = chosen.iter().map(|(source, _)| source).collect();
    let dry_run = if args.dry_run { DryRun::Yes } else { DryRun::No };
    let url = match &args.database {
        Some(url) => Some(DatabaseUrl::new(&dereference(url, "--database")?)?),
        None => None,
    };
    let going = match (&args.target, &url) {
        (Some(target), _) => {
            return into_directory(args, target, &snapshot, &chosen, app);
        }
        (None, Some(url)) if !args.in_place => {
            let database = only_database(&sources)?;
            let is_it = |(source, _): &&(SourceRecord, Selection)| source.kind == Kind::Database;
            let selection = chosen.iter().find(is_it).map(|(_, selection)| selection);
            vec![(Going::database(&snapshot, database, url)?, selection)]
        }
        (None, url) => {
            let going = in_place(&snapshot, &sources, url.as_ref(), app)?;
            going.into_iter().zip(chosen.iter().map(|(_, selection)| Some(selection))).collect()
        }
    };
    let records = args.records(app)?;
    let going = going.into_iter().map(|(going, selection)| {
        args.apply(going, &snapshot, selection.unwrap_or(&Selection::Everything), &records)
    });
    let mut going = going.collect::<Result<Vec<_>, Failure>>()?;
    targets::restore(&snapshot, &mut going, &args.how(dry_run, &records.2), app)
}

/// What several paths choose of one source; `None` without any.
fn selection(scopes: &[&Scope]) -> Result<Option<Selection>, Failure> {
    Ok(Some(match scopes {
        [] => return Ok(None),
        scopes if scopes.iter().any(|scope| scope.tree.is_none()) => Selection::Everything,
        [Scope { tree: Some(tree), keys: Some(keys), .. }] => {
            Selection::Entries { tree: tree.clone(), keys: keys.clone() }
        }
        scopes if scopes.iter().all(|scope| scope.keys.is_none()) => {
            Selection::Trees(scopes.iter().filter_map(|scope| scope.tree.clone()).collect())
        }
        _ => {
            return Err(usage(
                "several records, or several folders or files of one source",
                "restore them one after the other, or choose with --where or --include",
            ));
        }
    }))
}

/// A copy of the snapshot by the rules of a file.
fn anonymised(
    snapshot: &Snapshot,
    wanted: &SnapshotPath,
    file: &std::path::Path,
    app: &App,
) -> Result<Snapshot, Failure> {
    let wrong = |why: String| {
        let hint = "write a line for each column: users.email = \"fake-email\"";
        usage(format!("{}: {why}", file.display()), hint)
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let lines: toml::Table = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut rules = Rules::new();
    read_rules("", &lines, &mut rules).map_err(wrong)?;
    if rules.is_empty() {
        return Err(wrong("it has no rules".to_owned()));
    }
    let scope = Scope::of(snapshot, &wanted.path)?;
    let in_scope = |source: &&SourceRecord| scope.has_source(source.kind, &source.name);
    let sources: Vec<_> = snapshot.manifest.sources.iter().filter(in_scope).collect();
    snapshot::anonymise(snapshot, only_database(&sources)?, &rules, &app.ctx)
}

/// Reads `TABLE.COLUMN = RULE`; TOML takes the dots for tables in tables.
fn read_rules(above: &str, lines: &toml::Table, rules: &mut Rules) -> Result<(), String> {
    for (name, value) in lines {
        match value {
            toml::Value::Table(below) => {
                let dot = if above.is_empty() { "" } else { "." };
                read_rules(&format!("{above}{dot}{name}"), below, rules)?;
            }
            toml::Value::String(rule) if !above.is_empty() => {
                rules.insert((above.to_owned(), name.clone()), rule.parse()?);
            }
            _ => return Err(format!("`{name}` is no line like users.email = \"fake-email\"")),
        }
    }
    Ok(())
}

fn in_place(
    snapshot: &Snapshot,
    sources: &[&SourceRecord],
    url: Option<&DatabaseUrl>,
    app: &App,
) -> Result<Vec<Going>, Failure> {
    if url.is_some() {
        only_database(sources)?;
    }
    let to = |source: &&SourceRecord| match (source.kind, url) {
        (Kind::Database, Some(url)) => Going::database(snapshot, source, url),
        (Kind::Database, None) => {
            Going::database(snapshot, source, &database_in_place(source, app)?)
        }
        (Kind::Storage | Kind::Configuration, _) => {
            let root = directory_in_place(snapshot, source, app)?;
            Going::files(snapshot, source, root.as_deref(), Extras::Delete)
        }
    };
    sources.iter().map(to).collect()
}

/// The database among the sources, if there is exactly one.
fn only_database<'s>(sources: &[&'s SourceRecord]) -> Result<&'s SourceRecord, Failure> {
    let databases: Vec<_> = sources.iter().filter(|source| source.kind == Kind::Database).collect();
    match databases[..] {
        [only] => Ok(only),
        [] => Err(usage(
            "--database, but there is no database among what is to be restored",
            "restore files with --target DIR or --in-place",
        )),
        _ => {
            let paths = databases.iter().map(|source| source_path(source.kind, &source.name));
            let paths = paths.collect::<Vec<_>>().join(" or ");
            Err(usage(
                "--database, but the snapshot has several databases",
                format!("name one, as in SNAPSHOT:PATH with {paths}"),
            ))
        }
    }
}

fn into_directory(
    args: &Args,
    target: &std::path::Path,
    snapshot: &Snapshot,
    chosen: &[(SourceRecord, Selection)],
    app: &App,
) -> Result<Done, Failure> {
    let target = absolute(target)?;
    let extras = if args.delete { Extras::Delete } else { Extras::Keep };
    let (databases, files): (Vec<_>, Vec<_>) =
        chosen.iter().partition(|(source, _)| source.kind == Kind::Database);
    let mut done = Done::Fully;
    if !files.is_empty() {
        let records = (Overwrite::Always, extras, RecordRules::default());
        let to = |(source, selection): &(SourceRecord, Selection)| {
            let mut root = target.join(source.kind.as_str());
            if !source.name.is_empty() {
                root.push(file_name(&source.name)?);
            }
            let going = Going::files(snapshot, source, Some(&root), extras)?;
            args.apply(going, snapshot, selection, &records)
        };
        let mut going = files.into_iter().map(to).collect::<Result<Vec<_>, Failure>>()?;
        let dry_run = if args.dry_run { DryRun::Yes } else { DryRun::No };
        done = targets::restore(snapshot, &mut going, &args.how(dry_run, &records.2), app)?;
    }
    for (source, selection) in databases {
        let folder = target.join(Kind::Database.as_str());
        if args.dry_run {
            let path = source_path(source.kind, &source.name);
            let folder = folder.join(&source.name);
            app.ctx.report(crate::report::Event::Note(format!(
                "{path} would be written as JSON lines to {}",
                folder.display()
            )));
        } else {
            dump(snapshot, source, selection, &folder, app)?;
        }
    }
    Ok(done)
}
