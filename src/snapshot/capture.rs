//! Taking a snapshot: every source's changes become trees, and the trees a manifest.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::counts::{Collector, Counts};
use super::manifest::{Later, Manifest, Reason, SourceRecord};
use super::opened::{self, ParentSource, Snapshot, TreeRecord};
use super::path::source_path;
use super::timeline::{Filter, Timeline};
use super::together::Together;
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::id::SnapshotId;
use crate::repo::{ChunkWriter, Compression, Repo, Written};
use crate::report::{Event, Reporter};
use crate::source::{self, Delta, Description, EntryError, Kind, Source, TreeInfo};
use crate::tree::{self, Change, Changes, Edited, Shape, Tree};

/// What a snapshot is called and what it follows.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// The machine.
    pub host: String,
    /// The application.
    pub application: String,
    /// What the user calls it.
    pub tags: Vec<String>,
    /// Which snapshot's entries may be taken over when they did not change.
    pub parent: Parent,
    /// Why it is taken.
    pub reason: Reason,
    /// How hard what is new is compressed.
    pub compression: Compression,
    /// Whether a database that tells what changed is also read as a whole, and the two compared.
    pub compare: bool,
}

/// Which snapshot a capture follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The newest of the same host and application.
    Newest,
    /// This one.
    Is(SnapshotId),
    /// None: everything is read.
    None,
}

/// A snapshot that was taken.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Its name; `None` after a dry run.
    pub id: Option<SnapshotId>,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What was found of files.
    pub counts: Counts,
    /// Whether it was not saved because there was no need for it.
    pub is_superfluous: bool,
}

/// What the databases' transactions are held open for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// They are open, and no file has been read.
    Begun,
    /// All files have been read.
    Read,
}

/// Whether a capture commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The snapshot is committed.
    Commit,
    /// The snapshot is committed, unless the sources hold no entries at all.
    CommitUnlessEmpty,
    /// The snapshot is committed, unless it would be its parent over again.
    CommitUnlessUnchanged,
    /// Everything is read and compared, nothing stored.
    DryRun,
}

/// Takes a snapshot of `sources`: databases first, then files, since applications write a file
/// before the row that names it.
///
/// What cannot be read is reported, listed in the manifest, and makes the snapshot incomplete.
pub fn capture(
    repo: &Arc<Repo>,
    sources: &mut [&mut dyn Source],
    options: &CaptureOptions,
    mode: Mode,
    ctx: &Context,
) -> Result<Captured, Failure> {
    capture_held(repo, sources, options, mode, &mut |_| Ok(()), ctx)
}

/// The same with something to do while the databases' transactions are open: `held` is called
/// before the first file is read, and after the last one, also where reading failed.
pub fn capture_held(
    repo: &Arc<Repo>,
    sources: &mut [&mut dyn Source],
    options: &CaptureOptions,
    mode: Mode,
    held: &mut dyn FnMut(Held) -> Result<(), Failure>,
    ctx: &Context,
) -> Result<Captured, Failure> {
    sources.sort_by(|a, b| (a.kind(), a.name()).cmp(&(b.kind(), b.name())));
    let collector = Arc::new(Collector::new(Arc::clone(&ctx.reporter)));
    let ctx = &Context { reporter: Arc::clone(&collector) as Arc<dyn Reporter>, ..ctx.clone() };
    let time = ctx.clock.now();
    let manifest = |parent: Option<Snapshot>, (records, instant), written| {
        let (skipped, unlisted) = collector.skipped();
        Manifest {
            version: Manifest::version(unlisted),
            time,
            finished: ctx.clock.now(),
            host: options.host.clone(),
            application: options.application.clone(),
            tags: options.tags.clone(),
            parent: parent.map(|parent| parent.id),
            reason: options.reason.clone(),
            instant,
            sources: records,
            skipped,
            written,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            unlisted,
            later: Later::default(),
        }
    };
    let captured = |id, manifest, is_superfluous| Captured {
        id,
        manifest,
        counts: collector.counts(),
        is_superfluous,
    };
    let mut capture_all = |writer: &dyn ChunkWriter, parent: Option<&Snapshot>| {
        let (collector, compare) = (&*collector, options.compare);
        Together { reader: repo, writer, parent, collector, compare, ctx }
            .capture_all(sources, held)
    };
    if mode == Mode::DryRun {
        repo.refresh()?;
        let (parent, scratch) = (find_parent(repo, options, ctx)?, repo.scratch()?);
        let records = capture_all(&scratch, parent.as_ref())?;
        return Ok(captured(None, manifest(parent, records, Written::default()), false));
    }
    repo.write(options.compression, ctx, |session| {
        // Not before the session can be seen: from then on nobody removes what is in a snapshot
        // that is still valid, so what the parent refers to needs no looking up.
        let parent = find_parent(repo, options, ctx)?;
        let records = capture_all(session, parent.as_ref())?;
        if mode.is_superfluous(&records.0, parent.as_ref()) {
            return Ok(captured(None, manifest(parent, records, Written::default()), true));
        }
        session.flush()?;
        let manifest = manifest(parent, records, session.written());
        let id = session.commit(&manifest.encode()?)?;
        Ok(captured(Some(id), manifest, false))
    })
}

impl Mode {
    /// Whether a snapshot of this is not to be saved.
    fn is_superfluous(self, records: &[SourceRecord], parent: Option<&Snapshot>) -> bool {
        match self {
            Self::CommitUnlessEmpty => records.iter().all(is_empty),
            Self::CommitUnlessUnchanged => parent.is_some_and(|parent| {
                let is_same = |(a, b): (&SourceRecord, &SourceRecord)| {
                    (a.kind, &a.name, a.catalogue) == (b.kind, &b.name, b.catalogue)
                };
                let then = &parent.manifest.sources;
                then.len() == records.len() && records.iter().zip(then).all(is_same)
            }),
            Self::Commit | Self::DryRun => false,
        }
    }
}

/// Whether a source has nothing in it; a directory is always an entry of its own tree.
fn is_empty(source: &SourceRecord) -> bool {
    source.entries <= u64::from(source.kind != Kind::Database)
}

fn find_parent(
    repo: &Arc<Repo>,
    options: &CaptureOptions,
    ctx: &Context,
) -> Result<Option<Snapshot>, Failure> {
    let filter = Filter {
        host: Some(options.host.clone()),
        application: Some(options.application.clone()),
        ..Filter::default()
    };
    let timeline = Timeline::load(repo)?;
    timeline.warn(ctx);
    let found = match options.parent {
        Parent::None => None,
        Parent::Newest => {
            let mut newest = timeline.iter(&filter).rev();
            // What was captured because of a restore does not know how far a log was read.
            let backup = newest.clone().find(|(_, manifest)| manifest.reason == Reason::Backup);
            backup.or_else(|| newest.next()).cloned()
        }
        Parent::Is(id) => timeline.find(id).cloned(),
    };
    Ok(found.map(|(id, manifest)| Snapshot { repo: Arc::clone(repo), id, manifest }))
}

/// The trees of one source.
pub(super) struct CapturedTrees {
    pub(super) trees: Vec<TreeRecord>,
    pub(super) aids: Vec<TreeRecord>,
    /// Of a database, the bytes of the records of each tree.
    pub(super) sizes: Sizes,
}

/// Bytes by tree.
pub(super) type Sizes = BTreeMap<String, u64>;
/// The name of the note with the [`Sizes`], in JSON: a capture that reads only what changed knows
/// from it how much there is.
pub(super) const SIZES: &str = "sizes";

/// Where trees are read and written, and who hears of what is done to their entries.
pub(super) struct To<'a, 'c> {
    pub(super) reader: &'a Arc<Repo>,
    pub(super) writer: &'a dyn ChunkWriter,
    pub(super) watch: Option<&'a mut Watch<'c>>,
    /// Whether what a database says changed is compared with all that it holds.
    pub(super) compare: bool,
}

/// Counts the entries of files.
pub(super) struct Watch<'c> {
    collector: &'c Collector,
    error: Option<EntryError>,
}

impl<'c> Watch<'c> {
    pub(super) const fn new(collector: &'c Collector) -> Self {
        Self { collector, error: None }
    }

    /// Fails if an entry was not one of files.
    pub(super) fn finish(self) -> Result<(), EntryError> {
        self.error.map_or(Ok(()), Err)
    }
}

impl Watch<'_> {
    fn hear(&mut self, edited: &Edited<'_>) {
        if let Err(error) = self.collector.note(edited) {
            self.error.get_or_insert(error);
        }
    }
}

/// Captures every tree of a source that has begun its consistent read.
pub(super) fn capture_trees(
    mut to: To<'_, '_>,
    source: &mut dyn Source,
    description: &Description,
    parent: Option<&ParentSource<'_>>,
    ctx: &Context,
) -> Result<CapturedTrees, Failure> {
    let kind = source.kind();
    let place = source_path(kind, source.name());
    let To { reader, writer, compare, .. } = to;
    let shape = opened::shape(reader, kind)?;
    let mut sizes = match parent.filter(|_| kind == Kind::Database) {
        Some(parent) => opened::sizes(parent)?,
        None => Sizes::new(),
    };
    let mut capture = |infos: &[TreeInfo], mut watch: Option<&mut Watch<'_>>| {
        let capture_one = |info: &TreeInfo| {
            ctx.check_cancelled()?;
            let known = parent.map(|parent| parent as &dyn source::Parent);
            let counted = Cell::new(0);
            let (old, changes) = match source.changes(info, known, ctx)? {
                Delta::Everything(all) if kind == Kind::Database => {
                    ctx.phase(format!("reading {place}/{}", info.name), info.estimate);
                    let records: Changes<'_> =
                        Box::new(Counted { records: all, ctx, items: 0, bytes: 0, all: &counted });
                    (None, records)
                }
                Delta::Everything(all) => (None, all),
                Delta::SinceParent(since) => match parent {
                    Some(parent) => (parent.tree(&info.name)?, since),
                    None => (None, since),
                },
            };
            let is_told = old.is_some() && kind == Kind::Database;
            let tree = match &mut watch {
                None if is_told => {
                    let mut size = sizes.get(&info.name).copied().unwrap_or(0);
                    let mut hear = |edited: Edited<'_>| {
                        size = (size + edited.length).saturating_sub(edited.was);
                    };
                    let tree =
                        tree::edit_watched(&**reader, writer, &shape, old, changes, &mut hear)?;
                    sizes.insert(info.name.clone(), size);
                    let whole = if compare {
                        read_whole((reader, writer), &shape, source, info, ctx)?
                    } else {
                        None
                    };
                    if whole.is_some_and(|whole| whole != tree) {
                        ctx.report(Event::Note(format!(
                            "{place}/{}: the log of changes did not tell all of them; what is \
                             saved is what the table holds",
                            info.name
                        )));
                    }
                    whole.unwrap_or(tree)
                }
                None => {
                    let both = (reader, writer);
                    let tree = store_tree(both, &shape, (old, parent), info, changes)?;
                    sizes.insert(info.name.clone(), counted.get());
                    tree
                }
                Some(watch) => {
                    let mut hear = |edited: Edited<'_>| watch.hear(&edited);
                    tree::edit_watched(&**reader, writer, &shape, old, changes, &mut hear)?
                }
            };
            Ok(TreeRecord { info: info.clone(), tree })
        };
        infos.iter().map(capture_one).collect::<Result<Vec<_>, Failure>>()
    };
    let trees = capture(&description.trees, to.watch.take())?;
    let aids = capture(&description.aids, None)?;
    sizes.retain(|name, _| trees.iter().any(|record| record.info.name == *name));
    Ok(CapturedTrees { trees, aids, sizes })
}

/// Edits the old tree; or, if there is none, makes one of everything in the place of the parent's,
/// of which it does not matter what is damaged.
fn store_tree(
    (reader, writer): (&Arc<Repo>, &dyn ChunkWriter),
    shape: &Shape,
    (old, parent): (Option<Tree>, Option<&ParentSource<'_>>),
    info: &TreeInfo,
    changes: Changes<'_>,
) -> Result<Tree, Failure> {
    let (None, Some(parent)) = (old, parent) else {
        return Ok(tree::edit(&**reader, writer, shape, old, changes)?);
    };
    let before = match parent.tree(&info.name) {
        Err(failure) if failure.kind() == ErrorKind::Damage => None,
        before => before?,
    };
    Ok(tree::build_after(&**reader, writer, shape, before, changes)?)
}

/// A table as it is read as a whole; none from a source that knows that nothing changed.
fn read_whole(
    (reader, writer): (&Arc<Repo>, &dyn ChunkWriter),
    shape: &Shape,
    source: &mut dyn Source,
    info: &TreeInfo,
    ctx: &Context,
) -> Result<Option<Tree>, Failure> {
    Ok(match source.changes(info, None, ctx)? {
        Delta::Everything(all) => Some(tree::edit(&**reader, writer, shape, None, all)?),
        Delta::SinceParent(_) => None,
    })
}

/// Reports the records of a database as they pass. Sources of files report for themselves, also
/// what they pass over as unchanged.
struct Counted<'a> {
    records: Changes<'a>,
    ctx: &'a Context,
    items: u64,
    bytes: u64,
    /// The bytes of all of them.
    all: &'a Cell<u64>,
}

impl Counted<'_> {
    /// Records between two reports.
    const STEP: u64 = 1024;

    fn report(&mut self) {
        let Self { items, bytes, .. } = *self;
        self.all.update(|all| all + bytes);
        self.ctx.report(Event::Progress { items, bytes });
        (self.items, self.bytes) = (0, 0);
    }
}

impl Iterator for Counted<'_> {
    type Item = Result<Change, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.records.next();
        if let Some(Ok(Change { value: Some(value), .. })) = &next {
            self.items += 1;
            self.bytes += value.content.length();
        }
        if next.is_none() || self.items >= Self::STEP {
            self.report();
            if let Err(cancelled) = self.ctx.check_cancelled() {
                return Some(Err(cancelled.into()));
            }
        }
        next
    }
}
