//! Taking a snapshot: every source's changes become trees, and the trees a manifest.

use std::sync::Arc;

use super::counts::{Collector, Counts};
use super::manifest::{Instant, Manifest, Reason, SourceRecord};
use super::opened::{self, ParentSource, Snapshot, TreeRecord};
use super::timeline::{Filter, Timeline};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::repo::{ChunkWriter, Compression, Repo, Written};
use crate::report::{Event, Reporter};
use crate::source::{self, Delta, Description, EntryError, Kind, Source, TreeInfo};
use crate::tree::{self, Change, Changes, Content, Edited};

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
}

/// Whether a capture commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The snapshot is committed.
    Commit,
    /// The snapshot is committed, unless the sources hold no entries at all.
    CommitUnlessEmpty,
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
    repo.refresh()?;
    sources.sort_by(|a, b| (a.kind(), a.name()).cmp(&(b.kind(), b.name())));
    let parent = find_parent(repo, options)?;
    let collector = Arc::new(Collector::new(Arc::clone(&ctx.reporter)));
    let ctx = &Context { reporter: Arc::clone(&collector) as Arc<dyn Reporter>, ..ctx.clone() };
    let time = ctx.clock.now();
    let manifest = |records: Vec<SourceRecord>, written| Manifest {
        version: Manifest::VERSION,
        time,
        finished: ctx.clock.now(),
        host: options.host.clone(),
        application: options.application.clone(),
        tags: options.tags.clone(),
        parent: parent.as_ref().map(|parent| parent.id),
        reason: options.reason.clone(),
        instant: if sources_agree(&records) { Instant::Exact } else { Instant::Unproven },
        sources: records,
        skipped: collector.skipped(),
        written,
        program: env!("CARGO_PKG_VERSION").to_owned(),
    };
    if mode == Mode::DryRun {
        let scratch = repo.scratch()?;
        let records = capture_all(repo, &scratch, sources, parent.as_ref(), &collector, ctx)?;
        let manifest = manifest(records, Written::default());
        return Ok(Captured { id: None, manifest, counts: collector.counts() });
    }
    repo.write(options.compression, ctx, |session| {
        let records = capture_all(repo, session, sources, parent.as_ref(), &collector, ctx)?;
        if mode == Mode::CommitUnlessEmpty && records.iter().all(is_empty) {
            let manifest = manifest(records, Written::default());
            return Ok(Captured { id: None, manifest, counts: collector.counts() });
        }
        session.flush()?;
        let manifest = manifest(records, session.written());
        let id = session.commit(&manifest.encode()?)?;
        Ok(Captured { id: Some(id), manifest, counts: collector.counts() })
    })
}

/// Whether a source has nothing in it; a directory is always an entry of its own tree.
fn is_empty(source: &SourceRecord) -> bool {
    source.entries <= u64::from(source.kind != Kind::Database)
}

/// Whether everything came from one consistent read.
fn sources_agree(records: &[SourceRecord]) -> bool {
    matches!(records, [only] if only.kind == Kind::Database)
}

fn find_parent(repo: &Arc<Repo>, options: &CaptureOptions) -> Result<Option<Snapshot>, Failure> {
    let filter = Filter {
        host: Some(options.host.clone()),
        application: Some(options.application.clone()),
        ..Filter::default()
    };
    let timeline = Timeline::load(repo)?;
    let found = match options.parent {
        Parent::None => None,
        Parent::Newest => timeline.iter(&filter).next_back().cloned(),
        Parent::Is(id) => timeline.get(id).map(|manifest| (id, manifest.clone())),
    };
    Ok(found.map(|(id, manifest)| Snapshot { repo: Arc::clone(repo), id, manifest }))
}

fn capture_all(
    reader: &Arc<Repo>,
    writer: &dyn ChunkWriter,
    sources: &mut [&mut dyn Source],
    parent: Option<&Snapshot>,
    collector: &Collector,
    ctx: &Context,
) -> Result<Vec<SourceRecord>, Failure> {
    sources
        .iter_mut()
        .map(|source| {
            let before = collector.bytes();
            collector.enter(path(source.kind(), source.name()));
            let parent = opened::parent_source(parent, *source);
            let known = parent.as_ref().map(|parent| parent as &dyn source::Parent);
            let description = source.begin(known, ctx)?;
            let mut watch = Watch { collector, error: None };
            let watched = (source.kind() != Kind::Database).then_some(&mut watch);
            let to = To { reader, writer, watch: watched };
            let captured = capture_trees(to, *source, &description, parent.as_ref(), ctx);
            let ended = source.end();
            let CapturedTrees { trees, aids } = captured?;
            ended?;
            watch.error.map_or(Ok(()), Err)?;
            let shape = opened::shape(reader, Kind::Database)?;
            let store = |entries| tree::edit(&**reader, writer, &shape, None, entries);
            Ok(SourceRecord {
                kind: source.kind(),
                name: source.name().to_owned(),
                catalogue: store(opened::catalogue(&description.header, &trees)?)?,
                help: store(opened::help(&aids, &description.notes)?)?,
                entries: trees.iter().map(|record| record.tree.entries).sum(),
                bytes: collector.bytes() - before,
            })
        })
        .collect()
}

/// The trees of one source.
pub(super) struct CapturedTrees {
    pub(super) trees: Vec<TreeRecord>,
    pub(super) aids: Vec<TreeRecord>,
}

/// Where trees are read and written, and who hears of what is done to their entries.
pub(super) struct To<'a, 'c> {
    pub(super) reader: &'a Arc<Repo>,
    pub(super) writer: &'a dyn ChunkWriter,
    pub(super) watch: Option<&'a mut Watch<'c>>,
}

/// Counts the entries of files.
pub(super) struct Watch<'c> {
    collector: &'c Collector,
    error: Option<EntryError>,
}

impl Watch<'_> {
    fn hear(&mut self, edited: &Edited<'_>) {
        if let Err(error) = self.collector.note(edited) {
            self.error.get_or_insert(error);
        }
    }
}

fn path(kind: Kind, name: &str) -> String {
    let separator = if name.is_empty() { "" } else { "/" };
    format!("/{}{separator}{name}", kind.as_str())
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
    let To { reader, writer, .. } = to;
    let shape = opened::shape(reader, kind)?;
    let mut capture = |infos: &[TreeInfo], mut watch: Option<&mut Watch<'_>>| {
        let capture_one = |info: &TreeInfo| {
            ctx.check_cancelled()?;
            let known = parent.map(|parent| parent as &dyn source::Parent);
            let (old, changes) = match source.changes(info, known, ctx)? {
                Delta::Everything(all) if kind == Kind::Database => (
                    None,
                    Box::new(Counted { records: all, ctx, items: 0, bytes: 0 }) as Changes<'_>,
                ),
                Delta::Everything(all) => (None, all),
                Delta::SinceParent(since) => match parent {
                    Some(parent) => (parent.tree(&info.name)?, since),
                    None => (None, since),
                },
            };
            let tree = match &mut watch {
                None => tree::edit(&**reader, writer, &shape, old, changes)?,
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
    Ok(CapturedTrees { trees, aids: capture(&description.aids, None)? })
}

/// Reports the records of a database as they pass. Sources of files report for themselves, also
/// what they pass over as unchanged.
struct Counted<'a> {
    records: Changes<'a>,
    ctx: &'a Context,
    items: u64,
    bytes: u64,
}

impl Counted<'_> {
    /// Records between two reports.
    const STEP: u64 = 1024;

    fn report(&mut self) {
        let Self { items, bytes, .. } = *self;
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
            self.bytes += match &value.content {
                Content::Inline(bytes) => bytes.len() as u64,
                Content::Stored(stream) => stream.length,
                Content::Reader(_) => 0,
            };
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
