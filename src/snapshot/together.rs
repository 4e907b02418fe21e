//! One instant for several sources, and the proof of how well they agree on it.
//!
//! A database shows one instant in one transaction; files show none. So the files are looked at
//! before the transaction begins, and captured after: if they are the same both times, they were
//! so at the transaction's instant, too. Applications write a file before the row that names it,
//! and delete the row before the file, so that also a pair that is not proven has every file that
//! a row names, unless it was deleted meanwhile.

use std::sync::Arc;

use super::capture::{self, CapturedTrees, Held, To, Watch};
use super::counts::Collector;
use super::manifest::{Instant, SourceRecord};
use super::opened::{self, Snapshot};
use super::path::source_path;
use crate::context::Context;
use crate::hint::Failure;
use crate::repo::{ChunkWriter, Repo};
use crate::source::{self, Description, Glance, Kind, Source};
use crate::time::Timestamp;
use crate::tree;

/// How often the sources are captured before it is left at a pair that is not of one instant.
const TRIES: usize = 3;
/// Milliseconds that one try may take for another to be worth it.
const QUICK: u128 = 20_000;

/// What a capture reads and writes.
pub(super) struct Together<'a> {
    pub(super) reader: &'a Arc<Repo>,
    pub(super) writer: &'a dyn ChunkWriter,
    pub(super) parent: Option<&'a Snapshot>,
    pub(super) collector: &'a Collector,
    pub(super) compare: bool,
    pub(super) ctx: &'a Context,
}

type Sources<'a, 's> = &'a mut [&'s mut dyn Source];

impl Together<'_> {
    /// Captures all sources, which are sorted by kind, and says how well they agree.
    pub(super) fn capture_all(
        &self,
        sources: Sources<'_, '_>,
        held: &mut dyn FnMut(Held) -> Result<(), Failure>,
    ) -> Result<(Vec<SourceRecord>, Instant), Failure> {
        let databases = sources.iter().filter(|source| source.kind() == Kind::Database).count();
        let (databases, files) = sources.split_at_mut(databases);
        let captured = self.capture(databases, files, held);
        // A transaction is not left open, whatever came of it.
        let ended: Vec<_> =
            databases.iter_mut().chain(files.iter_mut()).map(|source| source.end()).collect();
        let captured = captured?;
        ended.into_iter().collect::<Result<(), Failure>>()?;
        Ok(captured)
    }

    fn capture(
        &self,
        databases: Sources<'_, '_>,
        files: Sources<'_, '_>,
        held: &mut dyn FnMut(Held) -> Result<(), Failure>,
    ) -> Result<(Vec<SourceRecord>, Instant), Failure> {
        let pairs = !databases.is_empty() && !files.is_empty();
        let mut before = if pairs { glances(files, self.ctx)? } else { Vec::new() };
        let mut begun = self.begin(databases)?;
        let mark = self.collector.mark();
        let mut tries = 1;
        let ready = held(Held::Begun);
        let captured = ready.and_then(|()| {
            loop {
                let started = self.ctx.clock.now();
                let records = self.capture_files(files)?;
                let after: Vec<Glance> = files.iter().map(|file| file.glance_of_read()).collect();
                let agree = before == after && all_settled(&after);
                let took = self.ctx.clock.now().since(started).as_millis();
                if !pairs || agree || tries == TRIES || took > QUICK || !can_agree(&after) {
                    return Ok((records, agree));
                }
                tries += 1;
                before = glances(files, self.ctx)?;
                begun = self.begin(databases)?;
                self.collector.go_back(mark.clone());
            }
        });
        let done = held(Held::Read);
        let (records, agree) = captured?;
        let can_agree = files.iter().all(|file| file.glance_of_read() != Glance::Unable);
        done?;
        let finished = self.ctx.clock.now();
        let mut all = Vec::new();
        for (source, description) in databases.iter_mut().zip(&begun.descriptions) {
            all.push(self.capture_one(&mut **source, description)?);
        }
        all.extend(records);
        let one_instant = begun.descriptions.len() == 1 && (files.is_empty() || agree);
        let instant = match (one_instant, tries) {
            (true, 1) => Instant::Exact,
            (true, _) => Instant::Converged,
            (false, _) if !can_agree => Instant::Unproven,
            (false, _) => {
                let skew = finished.since(begun.at).as_millis();
                Instant::Bounded { milliseconds: u64::try_from(skew).unwrap_or(u64::MAX) }
            }
        };
        Ok((all, instant))
    }

    /// Begins the transactions of all databases.
    fn begin(&self, databases: Sources<'_, '_>) -> Result<Begun, Failure> {
        let at = self.ctx.clock.now();
        let mut descriptions = Vec::new();
        for source in databases {
            source.end()?;
            descriptions.push(self.describe(&mut **source)?);
        }
        Ok(Begun { at, descriptions })
    }

    fn describe(&self, source: &mut dyn Source) -> Result<Description, Failure> {
        self.collector.enter(source_path(source.kind(), source.name()));
        let parent = opened::parent_source(self.parent, source);
        let known = parent.as_ref().map(|parent| parent as &dyn source::Parent);
        source.begin(known, self.ctx)
    }

    fn capture_files(&self, files: Sources<'_, '_>) -> Result<Vec<SourceRecord>, Failure> {
        let mut records = Vec::new();
        for source in files {
            let description = self.describe(&mut **source)?;
            records.push(self.capture_one(&mut **source, &description)?);
        }
        Ok(records)
    }

    /// Captures a source that has begun its consistent read.
    fn capture_one(
        &self,
        source: &mut dyn Source,
        description: &Description,
    ) -> Result<SourceRecord, Failure> {
        let Self { reader, writer, collector, compare, ctx, .. } = *self;
        let before = collector.bytes();
        collector.enter(source_path(source.kind(), source.name()));
        let parent = opened::parent_source(self.parent, source);
        let mut watch = Watch::new(collector);
        let watched = (source.kind() != Kind::Database).then_some(&mut watch);
        let to = To { reader, writer, watch: watched, compare };
        let CapturedTrees { trees, aids, sizes } =
            capture::capture_trees(to, source, description, parent.as_ref(), ctx)?;
        watch.finish()?;
        let shape = opened::shape(reader, Kind::Database)?;
        let store = |entries| tree::edit(&**reader, writer, &shape, None, entries);
        let mut notes = description.notes.clone();
        let mut bytes = collector.bytes() - before;
        if source.kind() == Kind::Database {
            bytes = sizes.values().sum();
            notes.insert(capture::SIZES.to_owned(), opened::sizes_note(&sizes));
        }
        Ok(SourceRecord {
            kind: source.kind(),
            name: source.name().to_owned(),
            catalogue: store(opened::catalogue(&description.header, &trees)?)?,
            help: store(opened::help(&aids, &notes)?)?,
            entries: trees.iter().map(|record| record.tree.entries).sum(),
            bytes,
        })
    }
}

/// The databases as their transactions show them.
struct Begun {
    /// Just before the first of them began.
    at: Timestamp,
    descriptions: Vec<Description>,
}

fn glances(files: Sources<'_, '_>, ctx: &Context) -> Result<Vec<Glance>, Failure> {
    files.iter_mut().map(|file| file.glance(ctx)).collect()
}

fn all_settled(glances: &[Glance]) -> bool {
    glances.iter().all(|glance| matches!(glance, Glance::State(_)))
}

fn can_agree(glances: &[Glance]) -> bool {
    !glances.contains(&Glance::Unable)
}
